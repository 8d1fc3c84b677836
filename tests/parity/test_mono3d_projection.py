"""Projected boxes: KITTI's projection against independent values, Omni3D's rules as published."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.geometry.box3d_codec import virtual_depth
from roca_nocs.geometry.cuboids import (
    KITTI_CORNERS,
    allocentric_rotation,
    alpha_from_rotation_y,
    box_corners,
    egocentric_rotation,
    rotation_from_yaw,
)
from roca_nocs.geometry.projection import (
    back_project_points,
    clip_boxes,
    project_box,
    project_box_omni3d,
    project_points,
    projection_from_intrinsics,
    truncation,
)

Arrays = dict[str, torch.Tensor]


def load(golden_dir: Path, name: str) -> Arrays:
    with np.load(golden_dir / "mono3d" / name) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@pytest.fixture(scope="module")
def kitti(golden_dir: Path) -> Arrays:
    return load(golden_dir, "kitti_projection.npz")


@pytest.fixture(scope="module")
def omni3d(golden_dir: Path) -> Arrays:
    return load(golden_dir, "omni3d_geometry.npz")


def close(ours: torch.Tensor, expected: torch.Tensor, relative: float = 1e-9) -> None:
    torch.testing.assert_close(ours, expected, rtol=relative, atol=1e-7, equal_nan=True)


def kitti_corners(kitti: Arrays) -> torch.Tensor:
    height = kitti["dims_hwl"][:, :1]
    center = kitti["location_bottom_xyz"] - height * height.new_tensor([0, 0.5, 0])
    close(center, kitti["centre_cam"])
    dimensions = kitti["dims_hwl"][:, [1, 0, 2]]
    return box_corners(center, dimensions, rotation_from_yaw(kitti["rotation_y"]))


def test_kitti_corners_and_angles(kitti: Arrays) -> None:
    corners = kitti_corners(kitti)
    close(corners[:, KITTI_CORNERS], kitti["corners_cam"])
    close(alpha_from_rotation_y(kitti["rotation_y"], kitti["location_bottom_xyz"]), kitti["alpha"])


def test_kitti_points(kitti: Arrays) -> None:
    pixels, depth = project_points(kitti["corners_cam"], kitti["P2"])
    close(pixels, kitti["corners_uv"])
    # What lies in front of the camera is judged by the sign of the projective depth.
    assert torch.equal((depth > 0).all(dim=1), kitti["all_corners_in_front"])
    center = kitti["centre_cam"]
    pixels, depth = project_points(center, kitti["P2"])
    close(depth, kitti["centre_projective_depth"])
    visible = depth > 0
    close(pixels[visible], kitti["centre_uv"][visible])
    again = back_project_points(kitti["centre_uv"], kitti["centre_projective_depth"], kitti["P2"])
    close(again, center)


def test_kitti_boxes(kitti: Arrays) -> None:
    corners = kitti_corners(kitti)
    box = project_box(corners, kitti["P2"], near=0.1)
    close(box, kitti["bbox_nearplane_0p1"])
    height, width = kitti["image_size_hw"].tolist()
    in_front = kitti["all_corners_in_front"]
    assert kitti["bbox_unclipped"][~in_front].isnan().all()
    close(box[in_front], kitti["bbox_unclipped"][in_front])
    clipped = clip_boxes(box[in_front], (width - 1, height - 1))
    close(clipped, kitti["bbox_clipped"][in_front])


def omni3d_corners(omni3d: Arrays) -> torch.Tensor:
    boxes = omni3d["box3d_xyzwhl"]
    return box_corners(boxes[:, :3], boxes[:, 3:], omni3d["R_cam"])


def test_omni3d_boxes(omni3d: Arrays) -> None:
    corners = omni3d_corners(omni3d)
    torch.testing.assert_close(corners, omni3d["corners"], rtol=1e-4, atol=1e-5)
    height, width = omni3d["image_size_hw"].tolist()
    projection = projection_from_intrinsics(omni3d["K"])
    boxes, behind = project_box_omni3d(corners, projection, (height, width))
    assert torch.equal(behind.any(dim=1), omni3d["any_corner_behind"])
    assert torch.equal(behind.all(dim=1), omni3d["fully_behind"])
    torch.testing.assert_close(boxes, omni3d["bbox_proj_xyxy"], rtol=1e-4, atol=1e-2)
    share = truncation(boxes.double(), (width - 1, height - 1))
    share = torch.where(behind.all(dim=1), 1.0, share)
    torch.testing.assert_close(share, omni3d["truncation"], rtol=1e-4, atol=1e-5)


def test_omni3d_rotations(omni3d: Arrays) -> None:
    ray = torch.stack([omni3d["ray_u"], omni3d["ray_v"]], dim=1)
    allocentric = allocentric_rotation(omni3d["R_cam"], ray, omni3d["K"])
    torch.testing.assert_close(allocentric, omni3d["R_allocentric"], rtol=1e-4, atol=1e-5)
    egocentric = egocentric_rotation(omni3d["R_allocentric"], ray, omni3d["K"])
    torch.testing.assert_close(egocentric, omni3d["R_egocentric_roundtrip"], rtol=1e-4, atol=1e-5)


def test_omni3d_virtual_depth(omni3d: Arrays) -> None:
    # The virtual height is that of the network's image, which scales the real focal length.
    focal = omni3d["real_focal"] * omni3d["virtual_height"] / omni3d["real_height"]
    scale = virtual_depth(torch.ones_like(focal), focal, omni3d["virtual_focal"])
    torch.testing.assert_close(scale, omni3d["virtual_to_real_scale"], rtol=1e-4, atol=0)
