"""Pose vectors, the exact ego-motion warp and FIERY's, against reference numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.geometry.bev import (
    BevGrid,
    matrix_to_pose_vector,
    pose_vector_to_matrix,
    relative_pose,
    warp_bev,
)
from roca_nocs.geometry.fiery_warp import (
    fiery_future_to_present,
    fiery_past_to_present,
    fiery_warp,
)

MOTIONS = ("straight", "arc", "sideways", "general")


def read(golden_dir: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(golden_dir / "future_detr" / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def extent(golden: dict[str, np.ndarray]) -> tuple[float, float]:
    along_x, along_y = golden["spatial_extent"].tolist()
    return along_x, along_y


def test_pose_vectors(golden_dir: Path) -> None:
    golden = read(golden_dir, "pose_vectors")
    matrices = pose_vector_to_matrix(golden["pose_vec"])
    np.testing.assert_allclose(matrices, golden["matrix"], atol=1e-5)
    np.testing.assert_allclose(matrix_to_pose_vector(matrices), golden["roundtrip"], atol=1e-5)
    tensors = pose_vector_to_matrix(torch.from_numpy(golden["pose_vec"]))
    np.testing.assert_allclose(tensors.numpy(), golden["matrix"], atol=1e-5)
    back = matrix_to_pose_vector(torch.from_numpy(golden["matrix"]))
    np.testing.assert_allclose(back.numpy(), golden["roundtrip"], atol=1e-5)


def test_exact_warp(golden_dir: Path) -> None:
    golden = read(golden_dir, "se2_warp")
    maps = torch.from_numpy(golden["x"].astype(np.float32))
    grid = BevGrid(
        float(golden["x_min"]),
        float(golden["y_min"]),
        float(golden["resolution"]),
        *maps.shape[-2:],
    )
    yaw, x, y = torch.from_numpy(golden["src_from_dst_yaw_tx_ty"]).double().unbind(-1)
    poses = torch.stack([x, y, yaw], dim=-1)
    expected = torch.from_numpy(golden["out_bilinear"])
    torch.testing.assert_close(warp_bev(maps, poses, grid), expected, atol=1e-4, rtol=1e-4)
    nearest = warp_bev(torch.from_numpy(golden["x_binary"]), poses, grid, mode="nearest")
    different = nearest.numpy() != golden["out_nearest_const"].astype(bool)
    assert different.mean() <= 0.002


@pytest.mark.parametrize("motion", MOTIONS)
def test_fiery_warp_and_the_exact_one(golden_dir: Path, motion: str) -> None:
    golden = read(golden_dir, "fiery_warp")
    maps = torch.from_numpy(golden["x"].astype(np.float32))
    vector = torch.from_numpy(golden[f"{motion}.future_egomotion_vec"])
    warped = fiery_warp(maps, vector.expand(len(maps), -1), extent(golden), mode="bilinear")
    expected = torch.from_numpy(golden[f"{motion}.reference_out"])
    torch.testing.assert_close(warped, expected, atol=1e-4, rtol=1e-4)

    # The map belongs to frame 0, the result to frame 1.
    later = torch.from_numpy(golden[f"{motion}.pose1_in_frame0"])
    poses = relative_pose(torch.zeros(3, dtype=torch.float64), later).expand(len(maps), -1)
    grid = BevGrid.centred(*maps.shape[-2:], float(golden["resolution"]))
    exact = warp_bev(maps, poses, grid)
    expected = torch.from_numpy(golden[f"{motion}.exact_out"])
    torch.testing.assert_close(exact, expected, atol=1e-4, rtol=1e-4)
    difference = float((warped - exact).abs().max())
    assert difference == pytest.approx(float(golden[f"{motion}.max_abs_diff"]), abs=1e-3)


def test_cumulative_fiery_warps(golden_dir: Path) -> None:
    golden = read(golden_dir, "fiery_cumulative_warp")
    maps = torch.from_numpy(golden["x"].astype(np.float32))
    motion = torch.from_numpy(golden["future_egomotion"])
    past = fiery_past_to_present(maps, motion, extent(golden))
    expected = torch.from_numpy(golden["past_to_present"])
    torch.testing.assert_close(past, expected, atol=1e-4, rtol=1e-4)
    future = fiery_future_to_present(maps, motion, extent(golden))
    expected = torch.from_numpy(golden["future_to_present"])
    torch.testing.assert_close(future, expected, atol=1e-4, rtol=1e-4)
