"""Decoding and corner losses against the cube head of Cube R-CNN, in its configurations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roca_nocs.geometry.box3d_codec import Box3DCodec, uninformed_priors
from roca_nocs.geometry.cuboids import box_corners, egocentric_rotation, rotation_from_6d
from roca_nocs.geometry.projection import (
    back_project_points,
    projection_from_intrinsics,
    resize_projection,
)
from roca_nocs.modeling.criteria.mono3d_loss import (
    PosedBoxes,
    box_confidence,
    disentangled_losses,
)
from roca_nocs.modeling.mono3d.selection import select_class_from_prediction

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "no_confidence": {"confidence": False},
    "l1_pose": {"ordered": True},
    "log_z_sigmoid_dims": {"z_type": "log", "dims_func": "sigmoid"},
    "inverse_z": {"inverse_depth": True},
    "egocentric": {"allocentric": False, "virtual_focal": None},
}
HOW = ("ordered", "inverse_depth")
"""Options of the losses, not of the head."""


class CubeHead:
    """The golden outputs of a head, decoded by our functions."""

    def __init__(
        self,
        arrays: dict[str, torch.Tensor],
        *,
        z_type: str = "direct",
        dims_func: str = "exp",
        virtual_focal: float | None = 512.0,
        allocentric: bool = True,
        confidence: bool = True,
    ) -> None:
        classes = arrays["gt_classes"]
        priors = uninformed_priors(len(arrays["prior_dims_mean"]))._replace(
            dimensions=arrays["prior_dims_mean"], dimensions_std=arrays["prior_dims_std"]
        )
        codec = Box3DCodec(priors, z_type, dims_func, virtual_focal)
        depth = arrays["head_z"].log() if z_type == "log" else arrays["head_z"]
        numbers = torch.cat([arrays["head_delta_uv"], depth, arrays["head_dims"]], dim=-1)
        own = select_class_from_prediction(
            {
                "bbox3d": numbers,
                "pose6d": arrays["head_pose6d"],
                "uncertainty": arrays["head_uncertainty"],
            },
            classes,
        )
        image = torch.arange(len(arrays["boxes_per_image"])).repeat_interleave(
            arrays["boxes_per_image"]
        )
        original = projection_from_intrinsics(arrays["K_original"])
        shrink = arrays["scale_original_over_network"].float()
        self.projection = torch.stack(
            [
                resize_projection(p, 1 / s, 1 / s)
                for p, s in zip(original, shrink.tolist(), strict=True)
            ]
        )[image]
        intrinsics = self.projection[..., :3]
        boxes = codec.decode(own["bbox3d"], arrays["proposal_boxes"], classes, intrinsics[:, 1, 1])
        rotation = rotation_from_6d(own["pose6d"])
        if allocentric:
            rotation = egocentric_rotation(rotation, boxes.center_2d, intrinsics)
        self.boxes = PosedBoxes(*boxes, rotation)
        self.uncertainty = own["uncertainty"].squeeze(-1) if confidence else None
        self.center_2d = boxes.center_2d * shrink[image, None]


@pytest.fixture(scope="module")
def arrays(golden_dir: Path) -> dict[str, torch.Tensor]:
    with np.load(golden_dir / "mono3d" / "cube_head_forward.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_losses(arrays: dict[str, torch.Tensor], name: str) -> None:
    options = dict(CONFIGURATIONS[name])
    how = {key: options.pop(key) for key in HOW if key in options}
    head = CubeHead(arrays, **options)
    numbers = arrays["gt_uvz_whl"]
    gt = PosedBoxes(numbers[:, :2], numbers[:, 2], numbers[:, 3:], arrays["gt_R"])
    losses = disentangled_losses(
        head.boxes,
        gt,
        head.projection,
        torch.ones(len(numbers), dtype=torch.bool),
        uncertainty=head.uncertainty,
        **how,
    )
    expected = {key: arrays[f"{name}__{key}"] for key in losses if key != "loss_uncertainty"}
    assert len(expected) == 5
    if head.uncertainty is not None:
        expected["loss_uncertainty"] = arrays[f"{name}__uncert"]
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value.float(), rtol=1e-4, atol=0, msg=key)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_boxes(arrays: dict[str, torch.Tensor], name: str) -> None:
    options = dict(CONFIGURATIONS[name])
    head = CubeHead(arrays, **{k: v for k, v in options.items() if k not in HOW})
    boxes = head.boxes
    center = back_project_points(boxes.center_2d[:, None], boxes.depth[:, None], head.projection)
    center = center.squeeze(1)
    ours = {
        "pred_center_cam": center,
        "pred_dimensions": boxes.dimensions,
        "pred_pose": boxes.rotation,
        "pred_bbox3D": box_corners(center, boxes.dimensions, boxes.rotation),
        "pred_center_2D": head.center_2d,
    }
    if head.uncertainty is not None:
        ours["score"] = box_confidence(head.uncertainty)
    for key, value in ours.items():
        torch.testing.assert_close(value, arrays[f"{name}__{key}"], rtol=1e-4, atol=1e-4, msg=key)
