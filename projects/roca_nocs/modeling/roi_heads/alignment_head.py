"""ROCA's alignment head: scale, translation, object coordinates and rotation of every region.

B images, N regions of all images together, C classes, G x G pixels per region. ``detach`` marks
each place where the published model stops gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from roca_nocs import losses
from roca_nocs.geometry.procrustes import weighted_procrustes
from roca_nocs.geometry.roi_grid import masked_bounding_box
from roca_nocs.layers.grouped import select_class
from roca_nocs.layers.masked_pixels import MaskedPixels
from roca_nocs.layers.mlp import MLP, SharedMLP
from roca_nocs.modeling.roi_heads.alignment_types import (
    AlignmentPredictions,
    AlignmentRegions,
    AlignmentTargets,
)
from roca_nocs.modeling.roi_heads.region_depth import SMALLEST_DEPTH, RegionCrop, depth_losses
from roca_nocs.modeling.roi_heads.retrieval_head import RetrievalHead
from roca_nocs.modeling.roi_heads.retrieval_query import RegionPoses
from roca_nocs.modeling.roi_heads.shape_encoder import ShapeEncoder
from roca_nocs.structures import CadDatabase

__all__ = ["AlignmentHead", "AlignmentPredictions", "AlignmentRegions", "AlignmentTargets"]


class AlignmentHead(nn.Module):
    """Poses from depth features, depth maps and masks (ROCA, section 3.3).

    An object's pose is p = rotation (scale * nocs) + translation. The translation starts at the
    centre of the bounding box of the object's back-projected pixels; the rotation is the Procrustes
    solution between the predicted object coordinates of these pixels and their depth points.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 128,
        grid_size: int = 32,
        shape_pixel_sizes: Sequence[int] = (512, 512),
        shape_code_sizes: Sequence[int] = (512, 512),
        scale_sizes: Sequence[int] = (256, 256),
        translation_sizes: Sequence[int] = (256,),
        noc_sizes: Sequence[int] = (256, 256),
        confidence_sizes: Sequence[int] = (256,),
        sampling_ratio: int = 0,
        dropout: float = 0.3,
        per_class_translation: bool = True,
        initial_scales: Sequence[float] | None = None,
        class_embedding_size: int = 0,
        noc_weights: bool = True,
        confidence_head: bool = True,
        end_to_end: bool = True,
        irls_iterations: int = 1,
        min_pixels: int = 16,
        border_compat: bool = True,
        symmetry_aware: bool = False,
        retrieval_head: RetrievalHead | None = None,
    ) -> None:
        """
        Args:
            num_classes: C.
            in_channels: F, channels of the depth features.
            grid_size: G, side of the masks.
            shape_pixel_sizes, shape_code_sizes, sampling_ratio, dropout: see ``ShapeEncoder``.
            scale_sizes, translation_sizes, noc_sizes, confidence_sizes: hidden layers of the heads.
            per_class_translation: predict a translation for every class, or one for all.
            initial_scales: (C,) metres per model unit, from which the scales of each class start in
                training. By default they start near zero, and at common learning rates it takes
                them hundreds of iterations to reach the size of furniture.
            class_embedding_size: numbers that tell the coordinate head the class; 0 for none.
            noc_weights: weigh the pixels in the Procrustes solve.
            confidence_head: learn these weights; otherwise, or without ``end_to_end``, which alone
                trains them, they are the mask probabilities.
            end_to_end: train through the Procrustes solve.
            irls_iterations: see ``weighted_procrustes``.
            min_pixels: with fewer object pixels the rotation is the identity.
            border_compat: see ``sample_at_grid``.
            symmetry_aware: compare rotations and coordinates with the nearest of those that a
                symmetric model cannot tell apart; the published model compares with the annotated
                one.
            retrieval_head: finds CAD models; None for poses only.

        Raises:
            ValueError: there is not one initial scale per class.
        """
        super().__init__()
        self.grid_size = grid_size
        self.per_class_translation = per_class_translation
        self.noc_weights = noc_weights
        self.end_to_end = end_to_end
        self.irls_iterations = irls_iterations
        self.min_pixels = min_pixels
        self.border_compat = border_compat
        self.symmetry_aware = symmetry_aware

        code_size = shape_code_sizes[-1]
        self.shape_encoder = ShapeEncoder(
            in_channels=in_channels,
            pixel_sizes=shape_pixel_sizes,
            code_sizes=shape_code_sizes,
            sampling_ratio=sampling_ratio,
            dropout=dropout,
        )
        self.scale_head = MLP(code_size, scale_sizes, 3 * num_classes)
        if initial_scales is not None:
            if len(initial_scales) != num_classes:
                raise ValueError(
                    f"initial_scales has {len(initial_scales)} numbers for {num_classes} classes"
                )
            biases = torch.tensor(list(initial_scales)).repeat_interleave(3)
            self.scale_head.output.bias.data.copy_(biases)
        translations = num_classes if per_class_translation else 1
        self.trans_head = MLP(3 + code_size, translation_sizes, 3 * translations)
        self.class_embedding = (
            nn.Embedding(num_classes, class_embedding_size) if class_embedding_size else None
        )
        # Shape code, class, scale and position of the pixel relative to the translation.
        noc_inputs = code_size + class_embedding_size + 3 + 3
        self.noc_head = SharedMLP(noc_inputs, noc_sizes, 3)
        self.noc_weight_head = (
            # And the predicted coordinates and the probability of the mask.
            SharedMLP(noc_inputs + 3 + 1, confidence_sizes, num_classes)
            if noc_weights and confidence_head and end_to_end
            else None
        )
        self.retrieval_head = retrieval_head
        self._has_database = False

    def set_database(self, database: CadDatabase) -> None:
        """Retrieve from these CAD models from now on.

        Raises:
            ValueError: this head has no retrieval head, or the database lacks what that needs.
        """
        if self.retrieval_head is None:
            raise ValueError("this alignment head has no retrieval_head: it predicts poses only")
        self.retrieval_head.set_database(database)
        self._has_database = True

    def losses(
        self,
        regions: AlignmentRegions,
        depth_features: torch.Tensor,
        depths: torch.Tensor,
        *,
        mask_probs: torch.Tensor,
        mask_pred: torch.Tensor,
        targets: AlignmentTargets,
    ) -> dict[str, torch.Tensor]:
        """Losses with their factors, zero without regions.

        All but the shape encoder is computed in float32, also under autocast.

        Args:
            regions: the boxes.
            depth_features: (B, F, H / 4, W / 4).
            depths: (B, 1, H, W) predicted depth, metres.
            mask_probs: (N, 1, G, G) mask probabilities.
            mask_pred: (N, 1, G, G) 0/1, the predicted masks.
            targets: ground truth.

        Returns:
            ``loss_roi_depth``, ``loss_mean_depth``, ``loss_depth_min``, ``loss_depth_max``,
            ``loss_scale``, ``loss_trans``, ``loss_noc``; with ``end_to_end`` also ``loss_proc`` and
            ``loss_trans_proc``; and those of the retrieval head.
        """
        pixels = MaskedPixels.of(mask_pred)
        shape_code = self._shape_code(regions, depth_features, depths, pixels)
        with torch.autocast(depths.device.type, enabled=False):
            weights = regions.weights
            crop = self._crop(regions)
            depth = crop.sample(depths.float())
            gt_depth = crop.sample(targets.depths.float())
            result, pred_box, gt_points = depth_losses(
                crop, depth, gt_depth, mask_pred, targets.masks, weights
            )

            scales = select_class(self.scale_head(shape_code), regions.classes, 3)
            result["loss_scale"] = losses.l1(scales, targets.scales, weights)
            translations = self._translations(shape_code, pred_box, regions.classes)
            result["loss_trans"] = losses.l2(translations, targets.translations, weights)

            points = crop.rays * depth * mask_pred
            offsets = points - translations[..., None, None]
            code = self._noc_code(shape_code, scales, regions.classes)
            inputs = pixels.gather(offsets.detach())
            coordinates = self.noc_head(inputs, pixels, code)
            nocs = pixels.scatter(coordinates)
            gt_offsets = gt_points - targets.translations[..., None, None]
            common = mask_pred * targets.masks
            gt_nocs = self._noc_targets(nocs, gt_offsets, common, targets)
            result["loss_noc"] = 3 * losses.masked_l1(nocs, gt_nocs, common, weights)

            if self.end_to_end:
                inputs = torch.cat([inputs, coordinates.detach()], dim=1)
                confidences = self._confidences(code, inputs, pixels, mask_probs, regions.classes)
                rotations, corrections, has_enough = self._solve(
                    nocs, scales, offsets, mask_pred, confidences
                )
                solved = has_enough.float() if weights is None else weights * has_enough
                gt_rotations = targets.rotations
                if self.symmetry_aware:
                    gt_rotations = losses.symmetric_rotation_target(
                        rotations, gt_rotations, targets.symmetries
                    )
                result["loss_proc"] = 2 * losses.l1(rotations, gt_rotations, solved)
                result["loss_trans_proc"] = losses.l2(
                    corrections + translations.detach(), targets.translations, solved
                )
            if self.retrieval_head is not None and targets.positives is not None:
                cads = targets.positives, targets.negatives
                if targets.cad_rows is not None:
                    cads = tuple(each[targets.cad_rows] for each in cads)
                result.update(self.retrieval_head.losses(nocs, mask_pred, shape_code, *cads))
        return result

    @torch.no_grad()
    def inference(
        self,
        regions: AlignmentRegions,
        depth_features: torch.Tensor,
        depths: torch.Tensor,
        *,
        mask_probs: torch.Tensor,
        mask_pred: torch.Tensor,
    ) -> AlignmentPredictions:
        """Poses and, once a database is set, CAD models. Arguments as in :meth:`losses`."""
        pixels = MaskedPixels.of(mask_pred)
        shape_code = self._shape_code(regions, depth_features, depths, pixels)
        with torch.autocast(depths.device.type, enabled=False):
            crop = self._crop(regions)
            depth = crop.sample(depths.float())
            points = crop.rays * depth
            box = masked_bounding_box(points, depth * mask_pred > SMALLEST_DEPTH)

            scales = select_class(self.scale_head(shape_code), regions.classes, 3)
            translations = self._translations(shape_code, box, regions.classes)
            offsets = points - translations[..., None, None]
            code = self._noc_code(shape_code, scales, regions.classes)
            everywhere = MaskedPixels.of(torch.ones_like(mask_pred))
            inputs = everywhere.gather(offsets)
            nocs = everywhere.scatter(self.noc_head(inputs, everywhere, code))
            inputs = torch.cat([inputs, everywhere.gather(nocs * mask_pred)], dim=1)
            confidences = self._confidences(code, inputs, everywhere, mask_probs, regions.classes)
            rotations, corrections, has_enough = self._solve(
                nocs, scales, offsets, mask_pred, confidences
            )
            translations = translations + corrections
        indices, wild_indices = torch.full_like(regions.classes, -1), None
        has_alignment = torch.ones_like(has_enough)
        if self._has_database:
            indices, wild_indices = self.retrieval_head.inference(
                nocs * (mask_probs > 0.5),
                mask_pred,
                shape_code,
                regions.classes,
                regions.scenes,
                poses=RegionPoses(
                    regions.boxes, regions.intrinsics, rotations, translations, scales
                ),
            )
            has_alignment = indices >= 0
            if wild_indices is not None:
                has_alignment = has_alignment | (wild_indices >= 0)
        return AlignmentPredictions(
            translations=translations,
            rotations=rotations,
            scales=scales,
            has_enough=has_enough,
            corrections=corrections,
            nocs=nocs,
            confidences=confidences,
            shape_code=shape_code,
            has_alignment=has_alignment,
            indices=indices,
            wild_indices=wild_indices,
        )

    def _shape_code(
        self,
        regions: AlignmentRegions,
        depth_features: torch.Tensor,
        depths: torch.Tensor,
        pixels: MaskedPixels,
    ) -> torch.Tensor:
        ratios = [depth_features.shape[axis] / depths.shape[axis] for axis in (-1, -2)]
        boxes = regions.boxes.detach() * regions.boxes.new_tensor(ratios * 2)
        return self.shape_encoder(depth_features, boxes, regions.image_indices, pixels).float()

    def _crop(self, regions: AlignmentRegions) -> RegionCrop:
        return RegionCrop.of(regions, self.grid_size, self.border_compat)

    def _translations(
        self,
        shape_code: torch.Tensor,
        box: tuple[torch.Tensor, torch.Tensor],
        classes: torch.Tensor,
    ) -> torch.Tensor:
        """Centre of the box of the object's points, and a learned offset from it."""
        minimum, maximum = box
        offsets = self.trans_head(torch.cat([(maximum - minimum).detach(), shape_code], dim=1))
        if self.per_class_translation:
            offsets = select_class(offsets, classes, 3)
        return (minimum + maximum) / 2 + offsets

    def _noc_code(
        self, shape_code: torch.Tensor, scales: torch.Tensor, classes: torch.Tensor
    ) -> torch.Tensor:
        """What the coordinate head sees at all pixels of a region."""
        code = [shape_code, scales.detach()]
        if self.class_embedding is not None:
            code.insert(1, self.class_embedding(classes))
        return torch.cat(code, dim=1)

    def _noc_targets(
        self,
        nocs: torch.Tensor,
        gt_offsets: torch.Tensor,
        common: torch.Tensor,
        targets: AlignmentTargets,
    ) -> torch.Tensor:
        """Object coordinates of the ground-truth depth points; not masked."""
        rotations, scales = targets.rotations, targets.scales
        if self.symmetry_aware:
            return losses.symmetric_nocs_target(
                nocs, gt_offsets, rotations, scales, common, targets.symmetries
            )
        turned = rotations.mT @ gt_offsets.flatten(2)
        return (turned / scales[..., None]).reshape(gt_offsets.shape)

    def _confidences(
        self,
        code: torch.Tensor,
        inputs: torch.Tensor,
        pixels: MaskedPixels,
        mask_probs: torch.Tensor,
        classes: torch.Tensor,
    ) -> torch.Tensor:
        """Weights of the pixels in the solve, (N, 1, G, G); those not in the list do not count.

        Inputs are (M, 6): positions and predicted coordinates.
        """
        if not self.noc_weights:
            return torch.ones_like(mask_probs)
        if self.noc_weight_head is None:
            return mask_probs
        inputs = torch.cat([inputs, pixels.gather(mask_probs.detach())], dim=1)
        logits = self.noc_weight_head(inputs, pixels, code)
        own = pixels.spread(classes[:, None])
        return pixels.scatter(logits.gather(1, own).sigmoid())

    def _solve(
        self,
        nocs: torch.Tensor,
        scales: torch.Tensor,
        offsets: torch.Tensor,
        mask_pred: torch.Tensor,
        confidences: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotations, corrections of the translations, and which regions have enough pixels.

        The others keep the identity and zeros: without weights there is no solution.
        """
        has_enough = mask_pred.flatten(1).sum(dim=1) >= self.min_pixels
        weights = confidences * mask_pred * has_enough[:, None, None, None]
        rotations, corrections = weighted_procrustes(
            (scales[..., None, None] * nocs).flatten(2).mT,
            offsets.flatten(2).mT,
            weights.flatten(1),
            iterations=self.irls_iterations,
        )
        return rotations, corrections, has_enough
