"""Retrieval by the outline: render the candidates and compare."""

from __future__ import annotations

import torch

from roca_nocs.geometry.silhouettes import silhouette_scores
from roca_nocs.modeling.roi_heads.retrieval_head import RetrievalHead, random_costs
from roca_nocs.modeling.roi_heads.retrieval_query import RetrievalQuery

__all__ = ["SilhouetteRetrieval"]

_PAIRS_PER_CHUNK = 128  # of detections and models; each takes some megabytes


class SilhouetteRetrieval(RetrievalHead):
    """The candidate whose silhouette fits the predicted mask best.

    Not one of ROCA's modes. Masks are good long before object coordinates are, and nothing is
    trained for it, so it works with models that training never showed. The heading is searched, see
    :func:`~roca_nocs.geometry.silhouettes.silhouette_scores`. Among thousands of models ("wild") it
    is slow: each is drawn with every heading.
    """

    required = "points"

    def __init__(self, *, min_pixels: int = 21, wild: bool = False) -> None:
        """
        Args:
            min_pixels: with fewer in the mask the choice is random.
            wild: see `RetrievalHead`.
        """
        super().__init__(wild=wild)
        self.min_pixels = min_pixels

    def costs(
        self,
        query: RetrievalQuery,
        rows: torch.Tensor | slice,
        candidates: torch.Tensor,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Negative scores.

        Raises:
            ValueError: the query has no poses.
        """
        poses = query.poses
        if poses is None:
            raise ValueError("retrieval by silhouettes needs the poses of the detections")
        masks = query.masks[:, 0] > 0.5
        cost = random_costs(candidates, generator)
        enough = masks.flatten(1).sum(dim=1, keepdim=True) >= self.min_pixels
        # A single candidate is chosen whatever it costs.
        open_choice = candidates.sum(dim=1, keepdim=True) > 1
        points = self._database.points[rows]
        pairs = (candidates & enough & open_choice).nonzero()
        for chunk in pairs.split(_PAIRS_PER_CHUNK):
            detection, model = chunk.unbind(dim=1)
            cost[detection, model] = -silhouette_scores(
                masks[detection],
                poses.boxes[detection].float(),
                poses.intrinsics[detection].float(),
                poses.rotations[detection],
                poses.translations[detection],
                poses.scales[detection],
                points[model].float(),
            )
        return cost
