"""The loss of the cube head in its two modes: of encoded numbers, and of corners."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from roca_nocs.geometry.box3d_codec import Box3DCodec
from roca_nocs.geometry.cuboids import rotation_from_yaw, rotation_y_from_alpha
from roca_nocs.geometry.projection import back_project_points
from roca_nocs.geometry.yaw_bins import YawBins
from roca_nocs.modeling.criteria.mono3d_loss import (
    BETA,
    PosedBoxes,
    box3d_regression_loss,
    disentangled_losses,
    uncertainty_loss,
    yaw_losses,
)
from roca_nocs.modeling.mono3d.decoding import decode_boxes
from roca_nocs.modeling.mono3d.selection import select_class_from_prediction

__all__ = ["CORNER_GROUPS", "LOSS_MODES", "CubeLoss"]

LOSS_MODES = ("huber", "disentangled")
"""``huber``: smooth L1 distance of the encoded numbers. ``disentangled``: distances of corners, one
group of numbers predicted at a time. Yaw bins have the same two losses in both."""

CORNER_GROUPS = ("dims", "xy", "z", "pose", "joint")
"""The losses of corners, ``loss_dims`` and so on."""


class CubeLoss:
    """Losses of regions that show an object with a known 3D box."""

    def __init__(
        self,
        *,
        mode: str = "huber",
        beta: float = BETA,
        ordered_corners: bool = False,
        inverse_depth: bool = False,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """
        Args:
            mode: one of ``LOSS_MODES``.
            beta: of the smooth L1 distances.
            ordered_corners, inverse_depth: of corners, see ``mono3d_loss.disentangled_losses``.
            weights: factors by the name of the loss; those that are not named weigh 1.

        Raises:
            ValueError: an unknown mode.
        """
        if mode not in LOSS_MODES:
            raise ValueError(f"unknown loss mode {mode!r}; expected one of {LOSS_MODES}")
        self.mode = mode
        self.beta = beta
        self.ordered_corners = ordered_corners
        self.inverse_depth = inverse_depth
        self.weights = dict(weights or {})

    def __call__(
        self,
        predictions: Mapping[str, torch.Tensor],
        targets: Mapping[str, torch.Tensor],
        reference: torch.Tensor,
        projection: torch.Tensor,
        codec: Box3DCodec,
        yaw_bins: YawBins,
        normalizer: torch.Tensor | float,
    ) -> dict[str, torch.Tensor]:
        """Losses of R regions, weighted.

        Args:
            predictions: of ``CubeHead``.
            targets: rows of ``mono3d.targets.make_align``: ``category``, ``alpha`` (R, 1),
                ``bbox3d``, ``bbox3d_logit`` (R, 6), ``rotation`` (R, 3, 3).
            reference: (R, 4) XYXY, the proposals.
            projection: (R, 3, 4), to pixels of the network's image.
            codec, yaw_bins: of the head.
            normalizer: divisor of sums, the number of sampled proposals of the batch.

        Returns:
            Scalars: of encoded numbers ``loss_box3d``; of corners ``loss_dims``, ``loss_xy``,
            ``loss_z``, ``loss_pose``, ``loss_joint``; of yaw bins ``loss_yaw_residual`` and
            ``loss_yaw_category``; of a head that predicts it ``loss_uncertainty``.
        """
        classes = targets["category"].squeeze(1)
        alpha = targets["alpha"].squeeze(1)
        yaw_bin, yaw_residual = yaw_bins.encode(alpha)
        selected = select_class_from_prediction(predictions, classes, yaw_bin)
        uncertainty = selected.get("uncertainty")
        uncertainty = None if uncertainty is None else uncertainty.squeeze(1)
        every = torch.ones_like(classes, dtype=torch.bool)
        shared = {"beta": self.beta, "uncertainty": uncertainty}
        losses: dict[str, torch.Tensor] = {}
        if self.mode == "huber":
            losses["loss_box3d"] = box3d_regression_loss(
                selected["bbox3d"], targets["bbox3d_logit"], every, normalizer, **shared
            )
            if uncertainty is not None:
                losses["loss_uncertainty"] = uncertainty_loss(uncertainty, every, normalizer)
        else:
            losses = self._corner_losses(
                selected, targets, reference, projection, codec, yaw_bins, uncertainty
            )
        if "yaw_resi" in selected:
            losses["loss_yaw_residual"], losses["loss_yaw_category"] = yaw_losses(
                selected["yaw_logit"],
                selected["yaw_resi"].squeeze(1),
                yaw_bin,
                yaw_residual,
                every,
                normalizer,
                **shared,
            )
        return {name: loss * self.weights.get(name, 1.0) for name, loss in losses.items()}

    def _corner_losses(
        self,
        selected: Mapping[str, torch.Tensor],
        targets: Mapping[str, torch.Tensor],
        reference: torch.Tensor,
        projection: torch.Tensor,
        codec: Box3DCodec,
        yaw_bins: YawBins,
        uncertainty: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        classes = targets["category"].squeeze(1)
        center_2d, depth, dimensions = targets["bbox3d"].split([2, 1, 3], dim=1)
        depth = depth.squeeze(1)
        truth = PosedBoxes(center_2d, depth, dimensions, targets["rotation"])
        boxes = decode_boxes(selected, reference, classes, projection, codec, yaw_bins)
        rotation = boxes.rotation
        if "yaw_resi" in selected:
            # The heading must not answer for an error of the centre, through whose ray it goes.
            center = back_project_points(center_2d[:, None], depth[:, None], projection)
            rotation = rotation_from_yaw(rotation_y_from_alpha(boxes.alpha, center.squeeze(1)))
        return disentangled_losses(
            PosedBoxes(boxes.center_2d, boxes.depth, boxes.dimensions, rotation),
            truth,
            projection,
            torch.ones_like(classes, dtype=torch.bool),
            ordered=self.ordered_corners,
            inverse_depth=self.inverse_depth,
            uncertainty=uncertainty,
        )
