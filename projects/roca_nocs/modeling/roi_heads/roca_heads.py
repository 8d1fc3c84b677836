"""The region heads of ROCA: boxes, masks, depth, poses and CAD models.

Shapes: B images, N regions of all images together, G cells along a side of a region's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.roi_heads import select_foreground_proposals
from detectron2.structures import ImageList, Instances

from roca_nocs.geometry.roi_grid import roi_pixel_grid, sample_at_grid
from roca_nocs.geometry.rotation import matrix_to_quaternion
from roca_nocs.layers.grouped import select_class
from roca_nocs.losses import class_weights_from_counts, mask_bce, mask_iou, select_class_weights
from roca_nocs.modeling.dense_heads.depth_head import DepthHead
from roca_nocs.modeling.roi_heads.alignment_head import (
    AlignmentHead,
    AlignmentRegions,
    AlignmentTargets,
)

__all__ = ["ROCAHeads", "SceneInputs"]


@dataclass(frozen=True)
class SceneInputs:
    """What a batch has besides its images.

    Attributes:
        intrinsics: (B, 3, 3), pixels.
        scene_ids: of each image, for retrieval among the CAD models of its scene; may be None.
        depths: (B, 1, H, W) metres on the padded canvas, 0 = unknown; in training only.
        instance_maps: (B, 1, H, W) uint8, 1 + row of the targets; in training only.
    """

    intrinsics: torch.Tensor
    scene_ids: Sequence[str | None]
    depths: torch.Tensor | None = None
    instance_maps: torch.Tensor | None = None


@ROI_HEADS_REGISTRY.register()
class ROCAHeads(StandardROIHeads):
    """Box and mask branches of Mask R-CNN, a depth head on the pyramid, and the alignment head.

    The branches behind the box branch train on the boxes of the foreground proposals and run on
    detections of at least ``score_threshold``. Masks have a channel per class, with G = twice the
    size of ``mask_pooler``.
    """

    def __init__(
        self,
        *,
        depth_head: DepthHead,
        alignment_head: AlignmentHead,
        class_counts: Callable[[], torch.Tensor] | None = None,
        score_threshold: float = 0.5,
        mask_threshold: float = 0.7,
        border_compat: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            depth_head: pyramid to depth features and depth maps.
            alignment_head: regions to poses and CAD models.
            class_counts: gives (C,) numbers of training objects, from which the weights of the
                classes follow; called at the first training step. None weighs all classes alike.
                A box predictor must then be a ``WeightedFastRCNNOutputLayers``.
            score_threshold: detections below it are dropped.
            mask_threshold: probability from which a pixel of a region counts as the object's, at
                inference (0.5 in training).
            border_compat: see ``geometry.roi_grid.sample_at_grid``.
            kwargs: arguments of ``StandardROIHeads``.
        """
        super().__init__(**kwargs)
        self.depth_head = depth_head
        self.alignment_head = alignment_head
        self.score_threshold = score_threshold
        self.mask_threshold = mask_threshold
        self.border_compat = border_compat
        self._class_counts = class_counts
        self.weighted = class_counts is not None
        # Background first, as published checkpoints store it.
        self.register_buffer("class_weights", torch.ones(self.num_classes + 1))

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        *,
        scene: SceneInputs,
    ) -> tuple[list[Instances], dict[str, torch.Tensor] | torch.Tensor]:
        """Losses in training, detections with poses at inference.

        Args:
            images: the batch, padded.
            features: the pyramid by name.
            proposals: per image.
            targets: per image, see ``roca_nocs.data.roca_mapper``; in training only.
            scene: cameras and, in training, maps.

        Returns:
            In training the sampled proposals and the losses; at inference the detections and the
            depth maps (B, 1, H, W).
        """
        if not self.training:
            detections = self._forward_box(features, proposals)
            return self.align(images, features, detections, scene)
        assert targets is not None and scene.depths is not None
        if self._class_counts is not None:
            weights = class_weights_from_counts(self._class_counts())
            if self.box_predictor is not None:
                self.box_predictor.set_class_weights(weights)
            self.class_weights.copy_(weights)
            self._class_counts = None
        # The other fields are looked up by row where they are needed: copying masks or voxel
        # grids to every proposal costs more than the losses.
        slim = [_rows(each, targets[:index]) for index, each in enumerate(targets)]
        sampled = self.label_and_sample_proposals(proposals, slim)
        losses = self._forward_box(features, sampled)
        foreground, _ = select_foreground_proposals(sampled, self.num_classes)
        losses.update(self._region_losses(images, features, foreground, targets, scene))
        return sampled, losses

    def _region_losses(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        foreground: list[Instances],
        targets: list[Instances],
        scene: SceneInputs,
    ) -> dict[str, torch.Tensor]:
        """Losses of masks, depth and alignment."""
        regions = self._regions(images, foreground, "proposal_boxes", "gt_classes", scene)
        rows = [each.gt_rows for each in foreground if each.has("gt_rows")]
        rows = torch.cat(rows) if rows else regions.classes.new_zeros(0)
        firsts = [len(each) for each in targets]
        firsts = torch.tensor([0, *firsts[:-1]], device=rows.device).cumsum(0)

        depth_features, depths = self._depths(images, features)
        size = depths.shape[-2:]
        gt_depths = scene.depths[..., : size[0], : size[1]]
        losses = self.depth_head.losses(depths, gt_depths)

        mask_logits = self._mask_logits(features, foreground, "proposal_boxes", regions.classes)
        grid_size = mask_logits.shape[-1]
        grid = roi_pixel_grid(regions.boxes, regions.image_sizes[regions.image_indices], grid_size)
        ids = sample_at_grid(
            scene.instance_maps,
            grid,
            regions.image_indices,
            regions.image_sizes[regions.image_indices],
            border_compat=self.border_compat,
        )
        own = rows - firsts[regions.image_indices] + 1
        mask_gt = (ids == own[:, None, None, None]).float()
        logits = mask_logits.float()
        probabilities = logits.sigmoid()
        losses["loss_mask"] = mask_bce(logits, mask_gt, regions.weights)
        losses["loss_mask_iou"] = mask_iou(probabilities, mask_gt, regions.weights)

        alignment_targets = AlignmentTargets(
            depths=gt_depths,
            masks=mask_gt,
            **{
                name: torch.cat([each.get(field) for each in targets])[rows]
                for name, field in _TARGET_FIELDS.items()
            },
            **self._cad_targets(targets, rows),
        )
        losses.update(
            self.alignment_head.losses(
                regions,
                depth_features,
                depths,
                mask_probs=probabilities,
                mask_pred=(probabilities.detach() > 0.5).float(),
                targets=alignment_targets,
            )
        )
        return losses

    @staticmethod
    def _cad_targets(targets: list[Instances], rows: torch.Tensor) -> dict[str, Any]:
        """CAD models of the objects, stored once each, with the row of every region."""
        if not targets[0].has("gt_pos_cads"):
            return {}
        return {
            "positives": torch.cat([each.gt_pos_cads for each in targets]),
            "negatives": torch.cat([each.gt_neg_cads for each in targets]),
            "cad_rows": rows,
        }

    def align(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        detections: list[Instances],
        scene: SceneInputs,
    ) -> tuple[list[Instances], torch.Tensor]:
        """Masks, depth, poses and CAD models of given detections.

        Args:
            images, features, scene: see :meth:`forward`.
            detections: per image ``pred_boxes``, ``pred_classes``, ``scores``.

        Returns:
            The detections of at least ``score_threshold`` with the fields listed in
            ``roca_nocs.modeling.meta_arch.ROCA`` (masks as probabilities (N, 1, G, G)), and the
            depth maps (B, 1, H, W) in metres.
        """
        detections = [each[each.scores >= self.score_threshold] for each in detections]
        regions = self._regions(images, detections, "pred_boxes", "pred_classes", scene)
        mask_logits = self._mask_logits(features, detections, "pred_boxes", regions.classes)
        probabilities = mask_logits.float().sigmoid()
        depth_features, depths = self._depths(images, features)
        found = self.alignment_head.inference(
            regions,
            depth_features,
            depths,
            mask_probs=probabilities,
            mask_pred=(probabilities > self.mask_threshold).float(),
        )
        fields = {
            "pred_masks": probabilities,
            "pred_translations": found.translations,
            "pred_rotations": matrix_to_quaternion(found.rotations),
            "pred_scales": found.scales,
            "pred_nocs": found.nocs,
            "has_alignment": found.has_alignment,
            "pred_indices": found.indices,
        }
        if found.wild_indices is not None:
            fields["pred_wild_indices"] = found.wild_indices
        counts = [len(each) for each in detections]
        for name, values in fields.items():
            for each, part in zip(detections, values.split(counts), strict=True):
                each.set(name, part)
        return detections, depths

    def _regions(
        self,
        images: ImageList,
        instances: list[Instances],
        box_field: str,
        class_field: str,
        scene: SceneInputs,
    ) -> AlignmentRegions:
        """The boxes of all images in one list."""
        boxes = torch.cat([each.get(box_field).tensor for each in instances])
        classes = torch.cat([each.get(class_field) for each in instances])
        counts = [len(each) for each in instances]
        # On the CPU, where the sizes are known: a GPU would have to be waited for.
        image_indices = torch.repeat_interleave(torch.tensor(counts)).to(boxes.device)
        scenes = [
            name for name, count in zip(scene.scene_ids, counts, strict=True) for _ in range(count)
        ]
        return AlignmentRegions(
            boxes=boxes.detach().float(),
            classes=classes,
            image_indices=image_indices,
            image_sizes=torch.tensor(images.image_sizes, device=boxes.device),
            intrinsics=scene.intrinsics[image_indices],
            weights=select_class_weights(self.class_weights, classes) if self.weighted else None,
            scenes=scenes,
        )

    def _mask_logits(
        self,
        features: dict[str, torch.Tensor],
        instances: list[Instances],
        box_field: str,
        classes: torch.Tensor,
    ) -> torch.Tensor:
        """(N, 1, G, G) mask logits of the given classes."""
        maps = [features[name] for name in self.mask_in_features]
        pooled = self.mask_pooler(maps, [each.get(box_field) for each in instances])
        return select_class(self.mask_head.layers(pooled), classes, 1)

    def _depths(
        self, images: ImageList, features: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.depth_head(features, images.image_sizes, tuple(images.tensor.shape[-2:]))


_TARGET_FIELDS = {
    "rotations": "gt_rotations",
    "translations": "gt_translations",
    "scales": "gt_scales",
    "symmetries": "gt_symmetries",
}


def _rows(target: Instances, before: Sequence[Instances]) -> Instances:
    """Boxes and classes of an image's targets, and their rows among those of the whole batch."""
    first = sum(len(each) for each in before)
    rows = torch.arange(first, first + len(target), device=target.gt_classes.device)
    return Instances(
        target.image_size, gt_boxes=target.gt_boxes, gt_classes=target.gt_classes, gt_rows=rows
    )
