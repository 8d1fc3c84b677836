"""The six numbers and the yaw bins against independent values, both ways, and KITTI's fields."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.geometry.box3d_codec import (
    BOX3D_FIELDS,
    Box3DCodec,
    ImageBoxes3D,
    uninformed_priors,
)
from roca_nocs.geometry.cuboids import (
    alpha_from_rotation_y,
    box_corners,
    rotation_from_yaw,
    rotation_y_from_alpha,
)
from roca_nocs.geometry.projection import (
    back_project_points,
    project_points,
    projection_from_intrinsics,
)
from roca_nocs.geometry.yaw_bins import YawBins, wrap_angle

TOLERANCES = {torch.float64: (0, 1e-9), torch.float32: (1e-4, 1e-4)}


class Golden:
    def __init__(self, golden_dir: Path, dtype: torch.dtype) -> None:
        with np.load(golden_dir / "mono3d" / "head_codec.npz") as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
        self.arrays = {
            name: array.to(dtype) if array.is_floating_point() else array
            for name, array in arrays.items()
        }
        self.relative, self.absolute = TOLERANCES[dtype]
        dimensions, depth = self["prior_dims_whl"], self["prior_virtual_depth"]
        priors = uninformed_priors(len(depth))._replace(dimensions=dimensions, depth=depth)
        self.codec = Box3DCodec(priors, virtual_focal=float(self["virtual_focal"]))
        self.bins = YawBins(int(self["num_bins"]))
        self.projection = projection_from_intrinsics(self["K_network"])
        self.where = (self["box2d_xyxy"], self["category"], self.projection[:, 1, 1])

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.arrays[name]

    def close(self, ours: torch.Tensor, name: str) -> None:
        torch.testing.assert_close(ours, self[name], rtol=self.relative, atol=self.absolute)


@pytest.fixture(scope="module", params=list(TOLERANCES), ids=str)
def golden(golden_dir: Path, request: pytest.FixtureRequest) -> Golden:
    return Golden(golden_dir, request.param)


def test_encode(golden: Golden) -> None:
    center_2d, depth = project_points(golden["centre_cam"][:, None], golden.projection)
    golden.close(center_2d.squeeze(1), "centre_uv")
    boxes = ImageBoxes3D(center_2d.squeeze(1), depth.squeeze(1), golden["dims_whl"])
    numbers = golden.codec.encode(boxes, *golden.where)
    assert numbers.shape[1] == len(BOX3D_FIELDS)
    golden.close(numbers, "bbox3d_logit")
    alpha = alpha_from_rotation_y(golden["rotation_y"], golden["centre_cam"])
    golden.close(alpha, "alpha")
    index, residual = golden.bins.encode(golden["alpha"])
    assert torch.equal(index, golden["yaw_bin"])
    golden.close(residual, "yaw_residual_norm")


def test_decode(golden: Golden) -> None:
    boxes = golden.codec.decode(golden["bbox3d_logit"], *golden.where)
    golden.close(boxes.dimensions, "dims_whl")
    golden.close(boxes.center_2d, "centre_uv")
    center = back_project_points(boxes.center_2d[:, None], boxes.depth[:, None], golden.projection)
    center = center.squeeze(1)
    golden.close(center, "centre_cam")
    alpha = golden.bins.decode(golden["yaw_bin"], golden["yaw_residual_norm"])
    golden.close(alpha, "alpha")
    yaw = rotation_y_from_alpha(alpha, center)
    assert wrap_angle(yaw - golden["rotation_y"]).abs().max() < max(golden.absolute, 1e-9)
    corners = box_corners(center, boxes.dimensions, rotation_from_yaw(yaw))
    golden.close(corners, "corners_omni3d_order")
    width, height, length = boxes.dimensions.unbind(1)
    golden.close(torch.stack([height, width, length], 1), "kitti_dims_hwl")
    bottom = center + height[:, None] * center.new_tensor([0, 0.5, 0])
    golden.close(bottom, "kitti_location_bottom")
