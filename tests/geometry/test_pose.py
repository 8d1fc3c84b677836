"""Poses, symmetries and alignment errors."""

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.geometry.pose import (
    compose_pose,
    decompose_pose,
    rotation_error_degrees,
    scale_error,
    scale_error_per_axis,
    translation_error,
)
from roca_nocs.geometry.symmetry import SYMMETRY_TAGS, symmetry_ids, symmetry_rotations


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_round_trip(seed: int) -> None:
    random = torch.manual_seed(seed)
    translation = torch.randn(5, 3, generator=random, dtype=torch.float64)
    scale = torch.rand(5, 3, generator=random, dtype=torch.float64) + 0.1
    rotation = roma.random_rotmat(5, dtype=torch.float64)
    pose = compose_pose(translation, rotation, scale)
    point = torch.randn(3, generator=random, dtype=torch.float64)
    expected = (rotation @ (scale * point)[..., None])[..., 0] + translation
    ours = (pose @ torch.cat([point, torch.ones(1)]))[..., :3]
    torch.testing.assert_close(ours, expected)
    for again, original in zip(decompose_pose(pose), (translation, rotation, scale), strict=True):
        torch.testing.assert_close(again, original)


def test_zero_scale_is_finite() -> None:
    pose = compose_pose(torch.zeros(1, 3), torch.eye(3)[None], torch.tensor([[1.0, 0.0, 1.0]]))
    assert all(part.isfinite().all() for part in decompose_pose(pose))


@pytest.mark.parametrize("tag", range(4))
def test_rotation_error_is_zero_under_the_symmetry(tag: int) -> None:
    torch.manual_seed(tag)
    gt = roma.random_rotmat(36, dtype=torch.float64)
    ids = torch.full((36,), tag)
    turned = gt @ symmetry_rotations(torch.tensor(tag), torch.float64)
    torch.testing.assert_close(
        rotation_error_degrees(turned, gt, ids), torch.zeros(36).double(), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(("tag", "expected"), [(0, 100.0), (1, 80.0), (2, 10.0), (3, 0.0)])
def test_rotation_error_about_the_up_axis(tag: int, expected: float) -> None:
    turn = roma.rotvec_to_rotmat(torch.deg2rad(torch.tensor([0.0, 100.0, 0.0])))
    error = rotation_error_degrees(turn, torch.eye(3), torch.tensor(tag))
    assert error.item() == pytest.approx(expected, abs=1e-3)
    tilt = roma.rotvec_to_rotmat(torch.deg2rad(torch.tensor([30.0, 0.0, 0.0])))
    assert rotation_error_degrees(tilt, torch.eye(3), torch.tensor(tag)).item() == pytest.approx(30)


def test_rotation_error_of_all_pairs() -> None:
    torch.manual_seed(0)
    pred, gt = roma.random_rotmat(4), roma.random_rotmat(3)
    symmetries = torch.tensor([0, 1, 3])
    pairs = rotation_error_degrees(pred[:, None], gt, symmetries)
    assert pairs.shape == (4, 3)
    single = rotation_error_degrees(pred[2], gt[1], symmetries[1])
    torch.testing.assert_close(pairs[2, 1], single)
    plain = rotation_error_degrees(pred[:3], gt)
    torch.testing.assert_close(plain, torch.rad2deg(roma.rotmat_geodesic_distance(pred[:3], gt)))
    assert rotation_error_degrees(pred[:0], gt[:0], symmetries[:0]).shape == (0,)


def test_scale_and_translation_errors() -> None:
    pred, gt = torch.tensor([1.2, 0.8, 1.0]), torch.ones(3)
    assert scale_error(pred, gt).item() == pytest.approx(0, abs=1e-6)
    assert scale_error_per_axis(pred, gt).item() == pytest.approx(0.4 / 3)
    assert translation_error(torch.tensor([3.0, 4.0, 0.0]), torch.zeros(3)).item() == 5


def test_symmetry_tags() -> None:
    assert symmetry_ids(SYMMETRY_TAGS).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"unknown symmetry tags \['round'\]"):
        symmetry_ids(["round"])
    assert symmetry_rotations(torch.zeros(0, dtype=torch.int64)).shape == (0, 36, 3, 3)
