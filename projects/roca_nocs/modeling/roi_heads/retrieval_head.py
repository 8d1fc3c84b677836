"""Which CAD model a detection shows (ROCA, sections 3.4 and 3.5).

N detections, M models, G x G pixels per region, E numbers per embedding. Every retrieval is one
matrix of costs, of which each row takes its cheapest candidate: the models of the class that is
predicted, within the candidates of the scene or, "wild", within the whole data base. The columns
of the matrix are the K models of the scenes at hand or, "wild", all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from roca_nocs.geometry.point_sets import mean_nearest_distance
from roca_nocs.modeling.retrieval import NocEncoder, PointEncoder, VoxelEncoder
from roca_nocs.modeling.roi_heads.retrieval_query import RegionPoses, RetrievalQuery
from roca_nocs.structures import CadDatabase

__all__ = [
    "EmbeddingRetrieval",
    "FirstRetrieval",
    "NearestPointRetrieval",
    "RandomRetrieval",
    "RetrievalHead",
    "random_costs",
]

_EMBEDDING_BATCH = 16


class RetrievalHead(nn.Module):
    """Choice among candidates; subclasses say what a candidate costs."""

    required: str | None = None
    """Attribute of the data base that the costs read, "points" or "voxels"."""

    def __init__(self, *, wild: bool = False) -> None:
        """
        Args:
            wild: retrieve also without the limit to the scene.
        """
        super().__init__()
        self.wild = wild
        self._database: CadDatabase | None = None
        self._scene_rows: dict[str, int] = {}
        self._in_scene = torch.zeros(1, 0, dtype=torch.bool)

    def set_database(self, database: CadDatabase) -> None:
        """Retrieve from these models from now on.

        Raises:
            ValueError: the data base lacks what is required, or has no scenes, but only retrieval
                within scenes is wanted.
        """
        if self.required is not None and getattr(database, self.required) is None:
            raise ValueError(
                f"this retrieval needs the {self.required} of the CAD models; the data base has "
                "none"
            )
        if not self.wild and not database.scenes:
            raise ValueError(
                "the CAD data base lists no candidates of any scene, and retrieval is limited to "
                "them: build the head with wild=True, or add scenes"
            )
        self._database = database
        self._scene_rows = {scene: row for row, scene in enumerate(database.scenes)}
        # The last row is that of unknown scenes: nothing is a candidate.
        in_scene = torch.zeros(len(database.scenes) + 1, len(database), dtype=torch.bool)
        for row, members in enumerate(database.scenes.values()):
            in_scene[row, members.to(in_scene.device)] = True
        self._in_scene = in_scene

    def losses(
        self,
        nocs: torch.Tensor,
        masks: torch.Tensor,
        shape_code: torch.Tensor,
        positives: torch.Tensor,
        negatives: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Losses of N regions, see `EmbeddingRetrieval`; none where nothing is learned."""
        return {}

    @torch.no_grad()
    def inference(
        self,
        nocs: torch.Tensor,
        masks: torch.Tensor,
        shape_code: torch.Tensor,
        classes: torch.Tensor,
        scenes: Sequence[str | None],
        generator: torch.Generator | None = None,
        poses: RegionPoses | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Retrieve models.

        Args:
            nocs: (N, 3, G, G) predicted object coordinates.
            masks: (N, 1, G, G), pixels above 0.5 belong to the object.
            shape_code: (N, D).
            classes: (N,) int64.
            scenes: scene of each detection. None and scenes that the data base does not list have
                no candidates.
            generator: of random choices; by default torch's global one.
            poses: of the detections; only some retrievals need them.

        Returns:
            indices: (N,) int64, rows of the data base limited to the scenes; -1 where there is no
                candidate (always without data base).
            wild_indices: the same without that limit; None unless ``wild``.

        Raises:
            ValueError: there is not one scene per detection.
        """
        if len(scenes) != len(classes):
            raise ValueError(f"{len(classes)} detections need as many scenes, got {len(scenes)}")
        if self._database is None or len(self._database) == 0:
            none = torch.full_like(classes, -1)
            return none, none.clone() if self.wild else None
        database = self._move_database(classes.device)
        rows = slice(None) if self.wild else self._rows_in(scenes).to(classes.device)
        of_class = classes[:, None] == database.category_ids[rows]
        scene_indices = self._scene_indices(scenes).to(classes.device)
        in_scene = of_class & self._in_scene[scene_indices][:, rows]
        with torch.autocast(classes.device.type, enabled=False):
            cost = self.costs(
                RetrievalQuery(nocs.float(), masks, shape_code.float(), poses),
                rows,
                of_class if self.wild else in_scene,
                generator,
            )
        indices = _cheapest(cost, in_scene)
        if self.wild:
            return indices, _cheapest(cost, of_class)
        # Index -1, no candidate, reads the appended -1.
        return torch.cat([rows, rows.new_full((1,), -1)])[indices], None

    def costs(
        self,
        query: RetrievalQuery,
        rows: torch.Tensor | slice,
        candidates: torch.Tensor,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Costs (N, K) float32 of the K models in these rows of the data base.

        Only those of the candidates (N, K) bool count.
        """
        raise NotImplementedError

    def _scene_indices(self, scenes: Sequence[str | None]) -> torch.Tensor:
        """Rows (N,) of the table of candidates."""
        unknown = len(self._scene_rows)
        return torch.tensor([self._scene_rows.get(s, unknown) for s in scenes], dtype=torch.int64)

    def _rows_in(self, scenes: Sequence[str | None]) -> torch.Tensor:
        """The models of at least one of the scenes, ascending."""
        known = [self._database.scenes[s] for s in set(scenes) if s in self._scene_rows]
        return torch.cat(known).unique() if known else torch.zeros(0, dtype=torch.int64)

    def _move_database(self, device: torch.device) -> CadDatabase:
        if self._database.device != device or self._in_scene.device != device:
            self._database = self._database.to(device)
            self._in_scene = self._in_scene.to(device)
        return self._database


def _cheapest(cost: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Row-wise arg-min over the candidates, -1 where there is none."""
    if cost.shape[1] == 0:
        return torch.full((len(cost),), -1, device=cost.device)
    best = torch.where(candidates, cost, torch.inf).argmin(dim=1)
    return torch.where(candidates.gather(1, best[:, None])[:, 0], best, -1)


def random_costs(candidates: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Independent costs: each candidate of a row is equally likely to be the cheapest."""
    device = candidates.device if generator is None else generator.device
    return torch.rand(candidates.shape, device=device, generator=generator).to(candidates.device)


class RandomRetrieval(RetrievalHead):
    """Any candidate."""

    def costs(
        self,
        query: RetrievalQuery,
        rows: torch.Tensor | slice,
        candidates: torch.Tensor,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Random costs."""
        return random_costs(candidates, generator)


class FirstRetrieval(RetrievalHead):
    """The first candidate in the order of the data base."""

    def costs(
        self,
        query: RetrievalQuery,
        rows: torch.Tensor | slice,
        candidates: torch.Tensor,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """The row."""
        order = torch.arange(candidates.shape[1], device=candidates.device, dtype=torch.float32)
        return order.expand(candidates.shape)


class NearestPointRetrieval(RetrievalHead):
    """The candidate whose surface points are nearest to the predicted object coordinates."""

    required = "points"

    def __init__(self, *, min_points: int = 21, wild: bool = False) -> None:
        """
        Args:
            min_points: with fewer pixels the choice is random.
            wild: see `RetrievalHead`.
        """
        super().__init__(wild=wild)
        self.min_points = min_points

    def costs(
        self,
        query: RetrievalQuery,
        rows: torch.Tensor | slice,
        candidates: torch.Tensor,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Mean squared distance of the pixels' coordinates to the nearest surface point."""
        valid = query.masks.flatten(1) > 0.5
        cost = random_costs(candidates, generator)
        enough = valid.sum(dim=1, keepdim=True) >= self.min_points
        pairs = (candidates & enough).nonzero()
        points = query.nocs.flatten(2).transpose(1, 2)
        cost[pairs[:, 0], pairs[:, 1]] = mean_nearest_distance(
            points, valid, self._database.points[rows], pairs
        )
        return cost


class EmbeddingRetrieval(RetrievalHead):
    """The candidate whose learned embedding is nearest to that of the detection."""

    def __init__(
        self,
        *,
        cad_net: VoxelEncoder | PointEncoder,
        noc_net: NocEncoder,
        margin: float = 0.5,
        max_regions: int = 32,
        wild: bool = False,
    ) -> None:
        """
        Args:
            cad_net: embeds the models; decides whether they are read as voxels or as points.
            noc_net: embeds the detections, into as many numbers.
            margin: of the triplet loss.
            max_regions: at most so many regions, drawn at random, take part in a training step.
            wild: see `RetrievalHead`.
        """
        super().__init__(wild=wild)
        self.cad_net = cad_net
        self.required = "voxels" if isinstance(cad_net, VoxelEncoder) else "points"
        self.noc_net = noc_net
        self.margin = margin
        self.max_regions = max_regions
        self._embeddings: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        self._embedded_weights: tuple[object, ...] = ()

    def set_database(self, database: CadDatabase) -> None:
        """See `RetrievalHead`; the data base needs what ``cad_net`` reads: voxels or points."""
        super().set_database(database)
        self._embeddings = None

    def train(self, mode: bool = True) -> EmbeddingRetrieval:
        """Training changes the weights, so the embedded data base is dropped."""
        if mode:
            self._embeddings = None
        return super().train(mode)

    def losses(
        self,
        nocs: torch.Tensor,
        masks: torch.Tensor,
        shape_code: torch.Tensor,
        positives: torch.Tensor,
        negatives: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            nocs: (N, 3, G, G) predicted object coordinates.
            masks: (N, 1, G, G), pixels above 0.5 belong to the object.
            shape_code: (N, D).
            positives: the CAD models of the regions: (N, 1, 32, 32, 32) bool voxels, or (N, P, 3)
                points, whichever ``cad_net`` reads.
            negatives: other models, in the same form.

        Returns:
            ``loss_triplet`` and, with completion, ``loss_noc_comp``; zero without regions.
        """
        if len(nocs) > self.max_regions:
            subset = torch.randperm(len(nocs), device=nocs.device)[: self.max_regions]
            nocs, masks, shape_code = nocs[subset], masks[subset], shape_code[subset]
            positives, negatives = positives[subset], negatives[subset]
        count = len(nocs)
        with torch.autocast(nocs.device.type, enabled=False):
            anchors, to_complete = self.noc_net(nocs.float(), masks, shape_code.float())
            models = self._embed_models(torch.cat([positives, negatives]))
            triplet = F.triplet_margin_loss(
                anchors, models[:count], models[count:], margin=self.margin, reduction="sum"
            )
            losses = {"loss_triplet": triplet / max(count, 1)}
            if to_complete is not None:
                completion = F.binary_cross_entropy_with_logits(
                    self.noc_net.comp(to_complete), positives.float(), reduction="sum"
                )
                losses["loss_noc_comp"] = completion / max(positives.numel(), 1)
        return losses

    def costs(
        self,
        query: RetrievalQuery,
        rows: torch.Tensor | slice,
        candidates: torch.Tensor,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Squared distance of the embeddings, less the part that is the same for all models."""
        models, lengths, origin = self._embed_database()
        queries = self.noc_net(query.nocs, query.masks, query.shape_code)[0] - origin
        return torch.addmm(lengths[rows], queries, models[rows].T, alpha=-2)

    def _embed_models(self, models: torch.Tensor) -> torch.Tensor:
        """Embed (K, 1, 32, 32, 32) voxels or (K, P, 3) points: (K, E)."""
        if isinstance(self.cad_net, VoxelEncoder):
            return self.cad_net(models.float())
        points = models.float().transpose(1, 2)
        return self.cad_net(points, points.new_ones(points[:, 0].shape, dtype=torch.bool))

    def _embed_database(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings less their mean (M, E), their squared lengths (M,), the mean (E,).

        Computed anew whenever the weights have changed.
        """
        # Also seen here: loaded weights and moving averages, which are never set to training.
        weights = tuple((id(p), p.device, p._version) for p in self.cad_net.parameters())
        if self._embeddings is None or self._embedded_weights != weights:
            database = self._database
            if isinstance(self.cad_net, VoxelEncoder):
                batches = database.voxels[:, None].split(_EMBEDDING_BATCH)
            else:
                batches = database.points.split(_EMBEDDING_BATCH)
            models = torch.cat([self._embed_models(batch) for batch in batches])
            # Distances do not depend on the origin; the nearer it is, the less is cancelled when
            # they are computed from lengths and products.
            origin = models.mean(dim=0)
            models = models - origin
            self._embeddings = models, models.square().sum(dim=1), origin
            self._embedded_weights = weights
        return self._embeddings
