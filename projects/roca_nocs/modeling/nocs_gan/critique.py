"""The critique: how real a discriminator finds the predicted NOCS maps.

R regions, S x S pixels.
"""

from __future__ import annotations

import torch
from detectron2.utils.events import get_event_storage
from torch import nn

from roca_nocs.modeling.criteria.step_schedule import Weight, current_weight
from roca_nocs.modeling.nocs_gan.objectives import (
    AdversarialBatch,
    BinaryCrossEntropy,
    Wasserstein,
)
from roca_nocs.modeling.roi_heads.nocs_targets import NocsTargets

__all__ = ["Critique", "depth_context"]

_MOST_BATCHES = 64


class Critique(nn.Module):
    """The generator's adversarial loss, and the batches that the discriminator learns from.

    The discriminator's parameters need no gradient, except while its own trainer steps: an
    optimizer over the model's trainable parameters leaves them out, and so does DDP. It judges in
    float32, also under autocast.

    A discriminator that uses depth does not judge regions without: the event storage counts them as
    ``discriminator/regions_without_depth``.
    """

    def __init__(
        self,
        *,
        discriminator: nn.Module,
        objective: BinaryCrossEntropy | Wasserstein,
        weight: Weight = 1.0,
    ) -> None:
        """
        Args:
            discriminator: one of `discriminators`.
            objective: one of `objectives`.
            weight: of the loss; a schedule needs detectron2's event storage for the iteration.
        """
        super().__init__()
        self.discriminator = discriminator.requires_grad_(False)
        self.objective = objective
        self.weight = weight
        self._batches: list[AdversarialBatch] = []
        self._batches_without_depth = 0

    @property
    def uses_depth(self) -> bool:
        """Whether the depth of the regions is needed."""
        return self.discriminator.uses_depth

    def forward(
        self,
        coordinates: torch.Tensor,
        targets: NocsTargets,
        depth: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The generator's loss; in training the maps are also kept for `take_batch`.

        The background of real maps is 0, and that of predicted ones is set to 0 too: it would give
        them away. Regions without a pixel of their object have nothing to judge.

        Args:
            coordinates: (R, 3, S, S) in [0, 1], predicted, with gradient; of a head with bins the
                expectation over the bins.
            targets: of the same regions. Masks and classes count for all of them, coordinates for
                the labelled ones.
            depth: (R, 1, S, S), metres, 0 = unknown; only for discriminators that use it.

        Returns:
            ``loss_nocs_critique``, scalar float32, weighted; 0 without regions.

        Raises:
            ValueError: the discriminator cannot judge maps of this size, or depth is missing.
            RuntimeError: nobody takes the batches, so the discriminator is not being trained; or
                it uses depth and the training data have none.
        """
        judged = targets.mask.flatten(1).any(dim=1)
        if not self.uses_depth:
            depth = None
        if depth is not None:
            judged = self._with_depth(judged, depth, targets.mask)
        rows = judged.nonzero()[:, 0]
        if not len(rows):
            return {"loss_nocs_critique": coordinates.float().sum() * 0}
        with torch.autocast(coordinates.device.type, enabled=False):
            mask = targets.mask[rows, None]
            fake = coordinates[rows].float() * mask
            if depth is not None:
                depth = depth_context(depth[rows].detach().float(), mask)
            classes = targets.classes[rows]
            loss = self.objective.generator_loss(self.discriminator(fake, classes, depth))
            if self.training:
                labelled = targets.labelled[rows]
                real = targets.coordinates[rows].float() * (mask & labelled[:, None, None, None])
                self._keep(AdversarialBatch(fake.detach(), real, labelled, classes, depth))
            return {"loss_nocs_critique": current_weight(self.weight) * loss}

    def _with_depth(
        self, judged: torch.Tensor, depth: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """(R,) bool: those of ``judged`` (R,) whose object has a pixel with depth."""
        known = judged & (mask & (depth[:, 0] > 0)).flatten(1).any(dim=1)
        if self.training:
            missing = int((judged & ~known).sum())
            get_event_storage().put_scalar("discriminator/regions_without_depth", missing)
            if known.any():
                self._batches_without_depth = 0
            elif missing:
                self._batches_without_depth += 1
            if self._batches_without_depth == _MOST_BATCHES:
                raise RuntimeError(
                    f"no object of the last {_MOST_BATCHES} batches has depth, which this "
                    "discriminator uses: set `dataloader.train.mapper.depth = True`, train on data "
                    "that have depth maps, or take a discriminator without depth"
                )
        return known

    def _keep(self, batch: AdversarialBatch) -> None:
        if len(self._batches) == _MOST_BATCHES:
            raise RuntimeError(
                f"the last {_MOST_BATCHES} batches were not used to train the discriminator: a "
                "model with a critique needs `trainer = LazyCall(AdversarialTrainer)(...)` in its "
                "config"
            )
        self._batches.append(batch)

    def take_batch(self) -> AdversarialBatch | None:
        """All regions since the last call, one batch however often the model was called.

        None if there were none.
        """
        batches, self._batches = self._batches, []
        return AdversarialBatch.concatenate(batches) if batches else None


def depth_context(depth: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The relief of each object: its depth behind its nearest point.

    Args:
        depth: (R, 1, S, S), metres, 0 = unknown.
        mask: (R, 1, S, S) bool.

    Returns:
        (R, 1, S, S), metres, at least 0; 0 outside of the mask and where the depth is unknown.
    """
    known = mask & (depth > 0)
    nearest = depth.masked_fill(~known, float("inf")).amin(dim=(2, 3), keepdim=True)
    return torch.where(known, depth - nearest, 0.0)
