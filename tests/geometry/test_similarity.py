"""Similarities: planted transforms, outliers, every kind of failure, independence of grouping."""

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.geometry import ransac, similarity
from roca_nocs.geometry.failures import (
    AlignmentFailure,
    FailureReason,
    alignment_failures,
)
from roca_nocs.geometry.pose import rotation_error_degrees
from roca_nocs.geometry.procrustes import project_to_rotation
from roca_nocs.geometry.ransac import best_models, draw_samples
from roca_nocs.geometry.similarity import Similarity, umeyama, umeyama_ransac


def planted(seed: int, count: int = 4, points: int = 300, dtype: torch.dtype = torch.float64):
    """Source, target, rotation, translation, scale."""
    torch.manual_seed(seed)
    source = torch.rand(count, points, 3, dtype=dtype) - 0.5
    rotation = roma.random_rotmat(count, dtype=dtype)
    scale = torch.rand(count, dtype=dtype) * 0.4 + 0.05
    translation = torch.randn(count, 3, dtype=dtype)
    target = scale[:, None, None] * source @ rotation.mT + translation[:, None]
    return source, target, rotation, translation, scale


def assert_failed(result: Similarity, reason: FailureReason) -> None:
    count = len(result.reasons)
    assert result.reasons.tolist() == [reason] * count
    assert torch.equal(
        result.rotation, torch.eye(3, dtype=result.rotation.dtype).expand(count, 3, 3)
    )
    assert not result.translation.any() and (result.scale == 1).all()


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_planted_similarity_with_points_switched_off(seed: int) -> None:
    source, target, rotation, translation, scale = planted(seed, points=30)
    weights = torch.rand(4, 30, dtype=torch.float64) + 0.1
    weights[:, 20:] = 0
    target[:, 20:] = 5
    result = umeyama(source, target, weights)
    torch.testing.assert_close(result.rotation, rotation, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.translation, translation, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.scale, scale, rtol=1e-9, atol=0)


def test_agrees_with_roma() -> None:
    torch.manual_seed(0)
    source, target = torch.randn(2, 6, 40, 3, dtype=torch.float64)
    weights = torch.rand(6, 40, dtype=torch.float64)
    result = umeyama(source, target, weights)
    rotation, translation, scale = roma.rigid_points_registration(
        source, target, weights, compute_scaling=True
    )
    torch.testing.assert_close(result.rotation, rotation, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.translation, translation, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.scale, scale, rtol=1e-9, atol=0)


def test_gradients() -> None:
    source, target, *_ = planted(1, count=2, points=6)
    inputs = (
        source.requires_grad_(),
        (target + 0.01 * torch.randn(target.shape)).requires_grad_(),
        torch.rand(2, 6, dtype=torch.float64).add(0.1).requires_grad_(),
    )

    def solve(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = umeyama(*args)
        return result.rotation, result.translation, result.scale

    assert torch.autograd.gradcheck(solve, inputs)


def degenerate(kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, FailureReason]:
    source, target, *_ = planted(2, count=2, points=20, dtype=torch.float32)
    weights = torch.ones(2, 20, dtype=torch.bool)
    reason = FailureReason.DEGENERATE_GEOMETRY
    if kind == "no points":
        source, target, weights = source[:, :0], target[:, :0], weights[:, :0]
        reason = FailureReason.TOO_FEW_POINTS
    elif kind == "two points":
        weights = torch.arange(20).expand(2, 20) < 2
        reason = FailureReason.TOO_FEW_POINTS
    elif kind == "source on a line":
        source = source[..., :1] * torch.tensor([1.0, 2.0, -0.3]) + 0.1
    elif kind == "target on a line":
        target = target[..., :1] * torch.tensor([1.0, 2.0, -0.3]) + 1
    elif kind == "equal sources":
        source = torch.full_like(source, 0.7)
    elif kind == "equal targets":
        target = torch.full_like(target, 0.7)
    return source, target, weights, reason


KINDS = [
    "no points",
    "two points",
    "source on a line",
    "target on a line",
    "equal sources",
    "equal targets",
]


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_points_are_a_value(kind: str) -> None:
    source, target, weights, reason = degenerate(kind)
    inputs = source.requires_grad_(), target.requires_grad_(), weights.float().requires_grad_()
    result = umeyama(*inputs)
    assert_failed(result, reason)
    total = result.rotation.sum() + result.translation.sum() + result.scale.sum()
    for gradient in torch.autograd.grad(total, inputs):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("rule", ["corrected", "nocs"])
@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_points_are_a_value_of_ransac(kind: str, rule: str) -> None:
    source, target, weights, reason = degenerate(kind)
    assert_failed(umeyama_ransac(source, target, weights, rule=rule), reason)


def test_plane_is_enough() -> None:
    source, _, rotation, translation, scale = planted(3)
    source[..., 1] = 0
    target = scale[:, None, None] * source @ rotation.mT + translation[:, None]
    valid = torch.ones(4, 300, dtype=torch.bool)
    for result in (umeyama(source, target, valid), umeyama_ransac(source, target, valid)):
        torch.testing.assert_close(result.rotation, rotation, rtol=0, atol=1e-9)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.floats(0, 0.4), st.booleans())
def test_outliers(seed: int, share: float, far: bool) -> None:
    """Up to 40 % of wrong correspondences, in the cube or far away in depth."""
    source, target, rotation, translation, scale = planted(seed, dtype=torch.float32)
    source = source + 0.002 * torch.randn(source.shape)
    wrong = torch.rand(4, 300).argsort(dim=1) < share * 300
    if far:
        target = torch.where(wrong[..., None], target + torch.randn(target.shape) * 3, target)
    else:
        source = torch.where(wrong[..., None], torch.rand(source.shape) - 0.5, source)
    valid = torch.ones(4, 300, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    result = umeyama_ransac(source, target, valid, refinements=3, generator=generator)
    assert not result.reasons.any()
    assert (rotation_error_degrees(result.rotation, rotation) < 0.5).all()
    assert ((result.scale / scale - 1).abs() < 0.01).all()
    assert ((result.translation - translation).norm(dim=1) < 0.005 * scale).all()


def test_refinement_improves_upon_the_published_rule() -> None:
    source, target, rotation, *_ = planted(4, count=32, points=150)
    wrong = torch.rand(32, 150) < 0.4
    source = torch.where(wrong[..., None], torch.rand(source.shape) - 0.5, source)
    valid = torch.ones(32, 150, dtype=torch.bool)
    samples = draw_samples(valid, 128, 5)
    errors = [
        rotation_error_degrees(
            umeyama_ransac(source, target, valid, samples=samples, refinements=rounds).rotation,
            rotation,
        ).mean()
        for rounds in (0, 3)
    ]
    assert errors[1] < errors[0] / 4


def test_points_that_are_not_valid_may_hold_anything() -> None:
    source, target, rotation, *_ = planted(5)
    valid = torch.rand(4, 300) < 0.5
    samples = draw_samples(valid, 20, 5)
    assert valid[torch.arange(4)[:, None, None], samples].all()
    expected = umeyama_ransac(source, target, valid, samples=samples)
    source[~valid], target[~valid] = torch.nan, torch.inf
    result = umeyama_ransac(source, target, valid, samples=samples)
    assert torch.equal(result.rotation, expected.rotation)
    torch.testing.assert_close(result.rotation, rotation, rtol=0, atol=1e-9)


def test_no_consensus_and_no_instances() -> None:
    source, target, *_ = planted(6)
    # Only the five points of the sample agree with it, at a far smaller scale than the others.
    target[:2, :5] = 0.001 * source[:2, :5]
    valid = torch.ones(4, 300, dtype=torch.bool)
    samples = torch.arange(5).expand(4, 1, 5)
    result = umeyama_ransac(source, target, valid, samples=samples)
    lost = FailureReason.RANSAC_NO_CONSENSUS
    assert result.reasons.tolist() == [lost, lost, FailureReason.OK, FailureReason.OK]
    assert not result.translation[:2].any() and (result.scale[:2] == 1).all()
    empty = umeyama_ransac(source[:0], target[:0], valid[:0])
    assert empty.rotation.shape == (0, 3, 3) and empty.reasons.shape == (0,)


def test_grouping_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, *_ = planted(7, count=5)
    wrong = torch.rand(5, 300) < 0.4
    source = torch.where(wrong[..., None], torch.rand(source.shape) - 0.5, source)
    valid = torch.ones(5, 300, dtype=torch.bool)
    samples = draw_samples(valid, 128, 5)
    expected = umeyama_ransac(source, target, valid, samples=samples)
    for module in (ransac, similarity):
        monkeypatch.setattr(module, "MEMORY", 2 * 18 * 300)
    result = umeyama_ransac(source, target, valid, samples=samples)
    torch.testing.assert_close(result.rotation, expected.rotation, rtol=0, atol=1e-12)
    torch.testing.assert_close(result.scale, expected.scale, rtol=1e-12, atol=0)


def test_search_equals_the_loop_with_early_stop() -> None:
    """Scores are given by the sample numbers themselves, so that the choice is known."""
    torch.manual_seed(8)
    scores = torch.rand(6, 40).round(decimals=1)
    scores[0] = -torch.inf
    samples = torch.arange(40).expand(6, 40)[..., None]

    def evaluate(rows: torch.Tensor, tried: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return scores[rows[:, None], tried[..., 0]], tried.double() + 1

    def enough(best: torch.Tensor, iterations: torch.Tensor) -> torch.Tensor:
        return best + iterations / 20 > 1.4

    models, best = best_models(samples, evaluate, enough, 1)
    for row in range(6):
        top, chosen = -torch.inf, 0
        for iteration in range(40):
            if scores[row, iteration] > top:
                top, chosen = scores[row, iteration].item(), iteration + 1
            if top + iteration / 20 > 1.4:
                break
        assert (best[row].item(), models[row].item()) == (top, chosen)


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_fast_rotation_equals_the_projection(seed: int) -> None:
    torch.manual_seed(seed)
    matrix = torch.randn(50, 3, 3, dtype=torch.float64)
    s = torch.linalg.svdvals(matrix)
    sign = torch.linalg.det(matrix).sign()
    rotation, total = similarity._fast_rotation(matrix)
    clear = s[:, 1] + sign * s[:, 2] > 0.01 * s[:, 0]
    expected = project_to_rotation(matrix)
    torch.testing.assert_close(rotation[clear], expected[clear], rtol=0, atol=1e-8)
    torch.testing.assert_close(
        total[clear], (s[:, 0] + s[:, 1] + sign * s[:, 2])[clear], rtol=1e-8, atol=0
    )
    line = matrix[:, :, :1] * matrix[:, :1, :]
    assert similarity._fast_rotation(line)[0].isnan().all()


def test_autocast_does_not_reach_the_solve() -> None:
    source, target, *_ = planted(9, dtype=torch.float32)
    valid = torch.ones(4, 300, dtype=torch.bool)
    samples = draw_samples(valid, 8, 5)
    expected = umeyama_ransac(source, target, valid, samples=samples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = umeyama_ransac(source, target, valid, samples=samples)
    assert torch.equal(result.rotation, expected.rotation)


def test_unknown_rule_is_named() -> None:
    points = torch.rand(1, 5, 3)
    with pytest.raises(ValueError, match=r"one of \('corrected', 'nocs'\), got 'official'"):
        umeyama_ransac(points, points, torch.ones(1, 5, dtype=torch.bool), rule="official")
    with pytest.raises(ValueError, match="rule 'nocs' has no refinements, got 2"):
        umeyama_ransac(
            points, points, torch.ones(1, 5, dtype=torch.bool), rule="nocs", refinements=2
        )


def test_failures_are_listed() -> None:
    reasons = torch.tensor([0, FailureReason.TOO_FEW_POINTS, 0, FailureReason.NO_VALID_DEPTH])
    assert alignment_failures(reasons) == [
        AlignmentFailure(1, FailureReason.TOO_FEW_POINTS),
        AlignmentFailure(3, FailureReason.NO_VALID_DEPTH),
    ]
