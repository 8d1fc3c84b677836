"""The cube head: features of regions to the numbers that a 3D box is decoded from.

R regions, C classes, Q yaw bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from torch import nn

from roca_nocs.geometry.box3d_codec import BOX3D_FIELDS

__all__ = ["POSE_TYPES", "CubeHead"]

POSE_TYPES = ("yaw_bins", "6d")
"""Heading in bins about the vertical axis, or a full rotation as two 3-vectors."""

# Of the uncertainty: its bias at first, and what it is clipped to.
_BIAS, _LEAST = 5.0, 0.01


class CubeHead(nn.Module):
    """Fully connected layers shared by everything, then one linear layer per kind of output.

    The parameters of the shared layers have the names of Cube R-CNN (Brazil et al., CVPR 2023).
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: ShapeSpec,
        num_classes: int,
        fc_dims: Sequence[int] = (1024, 1024),
        pose_type: str = "yaw_bins",
        num_yaw_bins: int = 12,
        uncertainty: bool = False,
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of one pooled region.
            num_classes: C, foreground classes.
            fc_dims: features of the shared layers.
            pose_type: one of ``POSE_TYPES``.
            num_yaw_bins: Q.
            uncertainty: predict how uncertain each box is.

        Raises:
            ValueError: an unknown pose type.
        """
        super().__init__()
        if pose_type not in POSE_TYPES:
            raise ValueError(f"unknown pose_type {pose_type!r}; expected one of {POSE_TYPES}")
        self.num_classes = num_classes
        self.pose_type = pose_type
        self.num_yaw_bins = num_yaw_bins
        self.feature_generator = FastRCNNConvFCHead(input_shape, conv_dims=[], fc_dims=fc_dims)
        width = fc_dims[-1]
        self.bbox3d = nn.Linear(width, num_classes * len(BOX3D_FIELDS))
        if pose_type == "yaw_bins":
            self.yaw_resi = nn.Linear(width, num_classes * num_yaw_bins)
            self.yaw_logit = nn.Linear(width, num_classes * num_yaw_bins)
        else:
            self.pose6d = nn.Linear(width, num_classes * 6)
        self.uncertainty = nn.Linear(width, num_classes) if uncertainty else None
        for name, layer in self.named_children():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.001)
                nn.init.constant_(layer.bias, _BIAS * (name == "uncertainty"))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read ``cfg.MODEL.ROI_CUBE_HEAD``."""
        head = cfg.MODEL.ROI_CUBE_HEAD
        return {
            "input_shape": input_shape,
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "fc_dims": [head.FC_DIM] * head.NUM_FC,
            "pose_type": head.POSE_TYPE,
            "num_yaw_bins": head.YAW_BINS,
            "uncertainty": head.USE_CONFIDENCE,
        }

    def forward(self, regions: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs of all classes, float32.

        Args:
            regions: (R, channels, S, S), pooled features.

        Returns:
            ``bbox3d`` (R, C, 6), in the order of ``geometry.box3d_codec.BOX3D_FIELDS``; with yaw
            bins ``yaw_logit`` and ``yaw_resi`` (R, C, Q), else ``pose6d`` (R, C, 6);
            ``uncertainty`` (R, C), at least 0.01, if it is predicted.
        """
        features = self.feature_generator(regions)

        def predict(layer: nn.Linear) -> torch.Tensor:
            # Boxes are decoded in single precision also under autocast.
            outputs = layer(features).float()
            size = layer.out_features // self.num_classes
            return outputs.unflatten(1, (self.num_classes, size))

        outputs = {"bbox3d": predict(self.bbox3d)}
        if self.pose_type == "yaw_bins":
            outputs["yaw_logit"] = predict(self.yaw_logit)
            outputs["yaw_resi"] = predict(self.yaw_resi)
        else:
            outputs["pose6d"] = predict(self.pose6d)
        if self.uncertainty is not None:
            outputs["uncertainty"] = predict(self.uncertainty)[:, :, 0].clamp(min=_LEAST)
        return outputs
