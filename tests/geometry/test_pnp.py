"""Poses without depth: three points exactly, many with outliers, failures."""

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.geometry import pnp, ransac
from roca_nocs.geometry.failures import FailureReason
from roca_nocs.geometry.pnp import pnp_ransac
from roca_nocs.geometry.pose import rotation_error_degrees


def planted(seed: int, count: int, points: int):
    """Points on a sphere of diameter d, their rays, d, rotation, translation; float64."""
    torch.manual_seed(seed)
    diameters = torch.rand(count, dtype=torch.float64) * 0.3 + 0.1
    model = torch.nn.functional.normalize(torch.randn(count, points, 3, dtype=torch.float64), dim=2)
    model = model * diameters[:, None, None] / 2
    rotation = roma.random_rotmat(count, dtype=torch.float64)
    translation = torch.randn(count, 3, dtype=torch.float64) * 0.15
    translation[:, 2] = torch.rand(count) + 0.6
    seen = model @ rotation.mT + translation[:, None]
    return model, seen / seen[..., 2:], diameters, rotation, translation


def test_three_points() -> None:
    """Nearly always one of the two poses is the planted one; both put the points on the rays."""
    model, rays, _, rotation, _ = planted(0, 500, 3)
    poses = pnp._three_point_poses(model, rays)
    errors = rotation_error_degrees(poses[..., :3], rotation[:, None])
    assert (errors.nan_to_num(nan=180).amin(dim=1) < 1e-3).double().mean() > 0.95
    placed = poses[..., :3] @ model[:, None].mT + poses[..., 3:]
    seen = (placed / placed[..., 2:, :]).mT
    close = ((seen - rays[:, None]).abs().amax(dim=(2, 3)) < 1e-6) | poses.isnan().any(3).any(2)
    assert close.double().mean() > 0.95


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.floats(0, 0.4))
def test_planted_pose_with_outliers(seed: int, share: float) -> None:
    model, rays, diameters, rotation, translation = planted(seed, 3, 400)
    wrong = torch.rand(3, 400).argsort(dim=1) < share * 400
    noise = (torch.rand(model.shape) - 0.5) * diameters[:, None, None]
    model = torch.where(wrong[..., None], noise, model)
    valid = torch.rand(3, 400) < 0.9
    model[~valid], rays[~valid] = torch.nan, torch.inf
    generator = torch.Generator().manual_seed(seed)
    result = pnp_ransac(model, rays, valid, diameters, generator)
    assert not result.reasons.any() and (result.scale == 1).all()
    assert (rotation_error_degrees(result.rotation, rotation) < 0.5).all()
    assert ((result.translation - translation).norm(dim=1) < 0.005).all()


def test_failures_are_values() -> None:
    model, rays, diameters, rotation, _ = planted(2, 5, 50)
    valid = torch.ones(5, 50, dtype=torch.bool)
    valid[0] = False
    valid[1, 3:] = False
    model[2] = model[2, :1]  # equal points
    torch.manual_seed(0)
    # Rays all over the image, points near each other: nothing agrees.
    rays[3, :, :2] = torch.randn(50, 2, dtype=torch.float64) * 5
    result = pnp_ransac(model.float(), rays.float(), valid, diameters.float())
    assert result.reasons.tolist() == [
        FailureReason.TOO_FEW_POINTS,
        FailureReason.TOO_FEW_POINTS,
        FailureReason.DEGENERATE_GEOMETRY,
        FailureReason.RANSAC_NO_CONSENSUS,
        FailureReason.OK,
    ]
    assert torch.equal(result.rotation[:4], torch.eye(3).expand(4, 3, 3))
    assert not result.translation[:4].any()
    assert rotation_error_degrees(result.rotation[4].double(), rotation[4]) < 0.01


def test_no_points_and_no_instances() -> None:
    model, rays, diameters, *_ = planted(3, 2, 10)
    valid = torch.ones(2, 10, dtype=torch.bool)
    result = pnp_ransac(model[:, :0], rays[:, :0], valid[:, :0], diameters)
    assert result.reasons.tolist() == [FailureReason.TOO_FEW_POINTS] * 2
    result = pnp_ransac(model[:0], rays[:0], valid[:0], diameters[:0])
    assert result.rotation.shape == (0, 3, 3)


def test_grouping_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rays, diameters, *_ = planted(4, 5, 60)
    valid = torch.ones(5, 60, dtype=torch.bool)

    def solve() -> torch.Tensor:
        return pnp_ransac(
            model, rays, valid, diameters, torch.Generator().manual_seed(0)
        ).translation

    expected = solve()
    for module in (ransac, pnp):
        monkeypatch.setattr(module, "MEMORY", 2 * 16 * 60)
    torch.testing.assert_close(solve(), expected, rtol=0, atol=1e-9)
