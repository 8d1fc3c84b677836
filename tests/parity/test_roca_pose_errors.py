"""Poses, quaternions and alignment errors against the published implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.geometry.pose import (
    compose_pose,
    decompose_pose,
    rotation_error_degrees,
    scale_error,
    translation_error,
)
from roca_nocs.geometry.rotation import matrix_to_quaternion, quaternion_to_matrix
from roca_nocs.geometry.symmetry import symmetry_ids


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, torch.Tensor]:
    with np.load(golden_dir / "roca" / "pose_errors.npz") as arrays:
        result = {n: torch.from_numpy(arrays[n]) for n in arrays.files if n != "sym_names"}
        result["symmetries"] = symmetry_ids(arrays["sym_names"].tolist())[result["sym_id"]]
        return result


def test_errors(golden: dict[str, torch.Tensor]) -> None:
    rotations = (quaternion_to_matrix(golden[f"q_{name}_wxyz"]) for name in ("pred", "gt"))
    degrees = rotation_error_degrees(*rotations, golden["symmetries"])
    torch.testing.assert_close(degrees, golden["out_rotation_deg"], rtol=0, atol=1e-3)
    close = {"rtol": 0, "atol": 1e-6}
    scale = scale_error(golden["s_pred"], golden["s_gt"])
    torch.testing.assert_close(scale, golden["out_scale_error"], **close)
    distance = translation_error(golden["t_pred"], golden["t_gt"])
    torch.testing.assert_close(distance, golden["out_translation_error"], **close)


def test_composition(golden: dict[str, torch.Tensor]) -> None:
    close = {"rtol": 0, "atol": 1e-6}
    rotation = quaternion_to_matrix(golden["q_pred_wxyz"])
    pose = compose_pose(golden["t_pred"], rotation, golden["s_pred"])
    torch.testing.assert_close(pose, golden["out_pose_matrix"], **close)
    translation, rotation, scale = decompose_pose(golden["camera_to_world"] @ pose)
    torch.testing.assert_close(translation, golden["out_world_t"], **close)
    torch.testing.assert_close(scale, golden["out_world_s"], **close)
    expected = quaternion_to_matrix(golden["out_world_q"])
    torch.testing.assert_close(rotation, expected, **close)


def test_quaternions(golden: dict[str, torch.Tensor]) -> None:
    quaternion = golden["q_pred_wxyz"].float()
    close = {"rtol": 0, "atol": 1e-5}
    matrix = quaternion_to_matrix(quaternion)
    torch.testing.assert_close(matrix, golden["out_rot_matrix_f32"], **close)
    ours = matrix_to_quaternion(golden["out_rot_matrix_f32"])
    for name in ("out_standardised_quat", "out_quat_from_matrix"):
        # A half turn has two quaternions with w = 0: compare without the sign there.
        expected = golden[name]
        sign = (ours * expected).sum(dim=1, keepdim=True).sign()
        assert torch.all((sign > 0) | (expected[:, :1].abs() < 1e-5))
        torch.testing.assert_close(ours * sign, expected, **close)
