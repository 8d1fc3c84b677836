"""The region heads of NOCS: boxes, masks and object coordinates.

B images, R regions of all images together, S x S cells per region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import select_foreground_proposals
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage

from roca_nocs.modeling.criteria.dispersion import DispersionLoss
from roca_nocs.modeling.criteria.nocs_loss import NocsLoss, euclidean_error
from roca_nocs.modeling.nocs_gan.critique import Critique
from roca_nocs.modeling.roi_heads.nocs_head import NocsHead
from roca_nocs.modeling.roi_heads.nocs_targets import (
    NocsTargets,
    ObjectMaps,
    resample,
    roi_depth,
)

__all__ = ["NocsMaps", "NocsROIHeads"]


@dataclass(frozen=True)
class NocsMaps:
    """What a training batch has besides images and instances, on the padded canvas.

    Attributes:
        nocs: (B, 3, H, W) float32, coordinates minus 1/2, 0 outside objects.
        labelled: (B,) bool, images that have coordinates.
        depth: (B, 1, H, W) float32, metres, 0 = unknown.
        without_depth: number of images of which no depth is known.
    """

    nocs: torch.Tensor
    labelled: torch.Tensor
    depth: torch.Tensor
    without_depth: int


@ROI_HEADS_REGISTRY.register()
class NocsROIHeads(StandardROIHeads):
    """Box and mask branches of Mask R-CNN, and a branch that predicts object coordinates.

    The branch trains on the foreground proposals. Those of images without coordinates do not count
    in its loss, as in the official program. The event storage counts images that have nothing to
    learn from as ``nocs/images_without_labels``, ``nocs/images_without_objects`` and, where a
    critique uses depth, ``nocs/images_without_depth``.
    """

    def __init__(
        self,
        *,
        nocs_in_features: Sequence[str],
        nocs_pooler: ROIPooler,
        nocs_head: NocsHead,
        nocs_loss: NocsLoss,
        target_resample: str = "normalized",
        dispersion: DispersionLoss | None = None,
        critique: Critique | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            nocs_in_features: feature maps of the branch.
            nocs_pooler: crops regions out of them.
            nocs_head: pooled features to coordinates.
            nocs_loss: with the symmetries of the classes.
            target_resample: see ``nocs_targets.resample``.
            dispersion: further loss on bins.
            critique: further loss on coordinates.
            kwargs: arguments of ``StandardROIHeads``.

        Raises:
            ValueError: loss and head disagree about classes or bins.
        """
        super().__init__(**kwargs)
        tables = (1, self.num_classes)
        if nocs_head.num_classes != self.num_classes or len(nocs_loss.rotations) not in tables:
            raise ValueError(
                f"num_classes is {self.num_classes}, but the NOCS head has "
                f"{nocs_head.num_classes} classes and its loss symmetries of "
                f"{len(nocs_loss.rotations)}"
            )
        for each in (nocs_loss, dispersion):
            if each is not None and each.bin_rule != nocs_head.bin_rule:
                raise ValueError(
                    f"the NOCS head decodes bins by the rule {nocs_head.bin_rule!r}, its "
                    f"{type(each).__name__} encodes them by {each.bin_rule!r}"
                )
        if nocs_head.regresses and nocs_loss.distance_weight is not None:
            raise ValueError(
                "distance_weight adds a distance to the loss of bins, but this NOCS head "
                "regresses: its loss is a distance already"
            )
        self.nocs_in_features = tuple(nocs_in_features)
        self.nocs_pooler = nocs_pooler
        self.nocs_head = nocs_head
        self.nocs_loss = nocs_loss
        self.target_resample = target_resample
        self.dispersion = dispersion
        self.critique = critique

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        *,
        maps: NocsMaps | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Losses in training, detections at inference.

        Args:
            images: the batch, padded.
            features: the pyramid by name.
            proposals: per image.
            targets: per image ``gt_boxes``, ``gt_classes``, ``gt_masks`` (BitMasks); in training.
            maps: in training.

        Returns:
            The sampled proposals and the losses, or the detections with ``pred_masks`` and
            ``pred_nocs`` (N, 3, S, S) in [0, 1], and an empty dictionary.
        """
        if not self.training:
            return super().forward(images, features, proposals)
        assert targets is not None and maps is not None
        # Every proposal also gets the row of its object among those of the whole batch.
        counts = [len(each) for each in targets]
        rows = torch.arange(sum(counts), device=maps.nocs.device).split(counts)
        numbered = [
            Instances(each.image_size, **each.get_fields(), gt_rows=own)
            for each, own in zip(targets, rows, strict=True)
        ]
        sampled = self.label_and_sample_proposals(proposals, numbered)
        losses = self._forward_box(features, sampled)
        losses.update(self._forward_mask(features, sampled))
        foreground, _ = select_foreground_proposals(sampled, self.num_classes)
        losses.update(self._nocs_losses(features, foreground, targets, maps))
        return sampled, losses

    def forward_with_given_boxes(
        self, features: dict[str, torch.Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Masks and coordinates of given boxes.

        Args:
            features: the pyramid by name.
            instances: per image ``pred_boxes`` and ``pred_classes``.

        Returns:
            The instances with ``pred_masks`` and ``pred_nocs``.
        """
        instances = super().forward_with_given_boxes(features, instances)
        classes = torch.cat([each.pred_classes for each in instances])
        outputs = self.nocs_outputs(features, [each.pred_boxes for each in instances], classes)
        coordinates = self.nocs_head.decode(outputs)
        counts = [len(each) for each in instances]
        for each, part in zip(instances, coordinates.split(counts), strict=True):
            each.pred_nocs = part
        return instances

    def nocs_outputs(
        self, features: dict[str, torch.Tensor], boxes: list[Boxes], classes: torch.Tensor
    ) -> torch.Tensor:
        """Outputs of the NOCS head for the boxes of all images and their classes (R,)."""
        pooled = self.nocs_pooler([features[name] for name in self.nocs_in_features], boxes)
        return self.nocs_head(pooled, classes)

    def _nocs_losses(
        self,
        features: dict[str, torch.Tensor],
        foreground: list[Instances],
        targets: list[Instances],
        maps: NocsMaps,
    ) -> dict[str, torch.Tensor]:
        """Losses of the coordinates of foreground proposals."""
        boxes = [each.proposal_boxes for each in foreground]
        classes = torch.cat([each.gt_classes for each in foreground])
        outputs = self.nocs_outputs(features, boxes, classes)
        size = outputs.shape[-1]

        regions = torch.cat([each.tensor for each in boxes]).detach()
        rows = [each.gt_rows for each in foreground if each.has("gt_rows")]
        rows = torch.cat(rows) if rows else classes.new_zeros(0)
        objects = object_maps(targets, maps)
        coordinates, mask = resample(objects, regions, rows, size, self.target_resample)
        images = torch.repeat_interleave(torch.tensor([len(each) for each in foreground]))
        labelled = maps.labelled[images.to(classes.device)]
        coordinates = coordinates * labelled[:, None, None, None]
        found = NocsTargets(coordinates, mask, classes, labelled)

        losses = self.nocs_loss(
            outputs, found.coordinates, found.mask, found.classes, found.labelled
        )
        if self.dispersion is not None:
            bins = outputs[:, :, 0] if self.nocs_head.bin_offsets else outputs
            losses.update(self.dispersion(bins, found.coordinates, found.mask, found.labelled))
        if self.critique is not None:
            depth = None
            if self.critique.uses_depth:
                depth = roi_depth(objects, regions, rows, size)
                get_event_storage().put_scalar("nocs/images_without_depth", maps.without_depth)
            losses.update(self.critique(self.nocs_head.expectation(outputs), found, depth))
        self._log(outputs.detach(), found, targets, maps)
        return losses

    @torch.no_grad()
    def _log(
        self,
        outputs: torch.Tensor,
        found: NocsTargets,
        targets: list[Instances],
        maps: NocsMaps,
    ) -> None:
        """Numbers of images of which there is nothing to learn, and the error of the rest."""
        storage = get_event_storage()
        unlabelled = len(maps.labelled) - int(maps.labelled.sum())
        storage.put_scalar("nocs/images_without_labels", unlabelled)
        empty = sum(len(each) == 0 for each in targets)
        storage.put_scalar("nocs/images_without_objects", empty)
        errors = euclidean_error(
            self.nocs_head.decode(outputs),
            found.coordinates,
            found.mask,
            self.nocs_loss.class_rotations(found.classes),
        )
        counted = found.labelled & found.mask.flatten(1).any(dim=1)
        if counted.any():
            storage.put_scalar("nocs/euclidean_error", errors[counted].mean())


def object_maps(targets: list[Instances], maps: NocsMaps) -> ObjectMaps:
    """The objects of all images on the canvas of the batch."""
    height, width = maps.nocs.shape[-2:]
    masks = [
        F.pad(each.gt_masks.tensor, (0, width - each.image_size[1], 0, height - each.image_size[0]))
        for each in targets
    ]
    images = torch.repeat_interleave(torch.tensor([len(each) for each in targets]))
    return ObjectMaps(
        nocs=maps.nocs,
        masks=torch.cat(masks),
        boxes=torch.cat([each.gt_boxes.tensor for each in targets]),
        image_indices=images.to(maps.nocs.device),
        depth=maps.depth,
    )
