"""Weighted Procrustes: planted poses, reflections, degenerate input, derivatives."""

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.geometry.procrustes import project_to_rotation, weighted_procrustes


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_planted_pose_with_outliers_switched_off(seed: int, centred: bool) -> None:
    random = generator(seed)
    torch.manual_seed(seed)
    source = torch.rand(4, 60, 3, generator=random) - 0.5
    rotation = roma.random_rotmat(4)
    translation = torch.randn(4, 3, generator=random) if centred else torch.zeros(4, 3)
    target = source @ rotation.mT + translation[:, None]
    target[:, 40:] = torch.randn(4, 20, 3, generator=random) * 5
    weights = torch.rand(4, 60, generator=random) + 0.1
    weights[:, 40:] = 0
    solution = weighted_procrustes(source, target, weights, centred=centred)
    torch.testing.assert_close(solution[0], rotation, rtol=0, atol=1e-5)
    torch.testing.assert_close(solution[1], translation, rtol=0, atol=1e-5)


def test_agrees_with_roma() -> None:
    random = generator(0)
    source, target = torch.randn(2, 5, 30, 3, generator=random, dtype=torch.float64)
    weights = torch.rand(5, 30, generator=random, dtype=torch.float64)
    ours = weighted_procrustes(source, target, weights, centred=True)
    theirs = roma.rigid_points_registration(source, target, weights)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-9)


def test_reweighting_rejects_outliers() -> None:
    random = generator(1)
    torch.manual_seed(1)
    source = torch.rand(1, 200, 3, generator=random, dtype=torch.float64) - 0.5
    rotation = roma.random_rotmat(1, dtype=torch.float64)
    target = source @ rotation.mT
    target[:, :20] += 1
    weights = torch.ones(1, 200, dtype=torch.float64)
    errors = [
        (weighted_procrustes(source, target, weights, centred=True, iterations=n)[0] - rotation)
        .norm()
        .item()
        for n in (1, 20)
    ]
    assert errors[1] < 1e-3 < 0.03 < errors[0]


def test_mirrored_points_give_a_rotation() -> None:
    source = torch.randn(3, 50, 3, generator=generator(2))
    target = source * torch.tensor([1.0, 1.0, -1.0])
    rotation, _ = weighted_procrustes(source, target, torch.ones(3, 50))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(3))


def degenerate(kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.randn(2, 40, 3, generator=generator(3))
    weights = torch.ones(2, 40)
    if kind == "empty":
        weights = torch.zeros(2, 40)
    elif kind == "point":
        weights = torch.zeros(2, 40).index_fill(1, torch.tensor(7), 1.0)
    elif kind == "collinear":
        source = source[:, :, :1] * torch.tensor([1.0, 2.0, -1.0])
    elif kind == "planar":
        source = source * torch.tensor([1.0, 1.0, 0.0])
    elif kind == "origin":
        source = torch.zeros_like(source)
    elif kind == "mirrored square":
        # Two equal singular values and a reflection: the rotation is not unique.
        square = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]).repeat(1, 40, 1)[:, :40]
        return square, square * torch.tensor([1.0, 1.0, -1.0]), torch.ones(1, 40)
    elif kind == "no regions":
        return source[:0], source[:0].clone(), weights[:0]
    return source, source.clone(), weights


@pytest.mark.parametrize(
    "kind",
    ["empty", "point", "collinear", "planar", "origin", "mirrored square", "no regions"],
)
@pytest.mark.parametrize("options", [{}, {"centred": True}, {"iterations": 3}])
def test_degenerate_input(kind: str, options: dict) -> None:
    inputs = [each.requires_grad_() for each in degenerate(kind)]
    rotation, translation = weighted_procrustes(*inputs, **options)
    assert rotation.isfinite().all() and translation.isfinite().all()
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(len(rotation)))
    if kind == "empty":
        assert torch.equal(rotation, torch.eye(3).expand(2, 3, 3))
        assert torch.equal(translation, torch.zeros(2, 3))
    coefficients = torch.randn(rotation.shape, generator=generator(4))
    loss = (rotation * coefficients).sum() + translation.square().sum()
    for gradient in torch.autograd.grad(loss, inputs):
        assert gradient.isfinite().all()
        if kind == "empty":
            assert not gradient.any()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_projection_gradient(seed: int) -> None:
    matrix = torch.randn(3, 3, 3, generator=generator(seed), dtype=torch.float64)
    s = torch.linalg.svdvals(matrix)
    # Far from the degenerate set, where finite differences mean something.
    if ((s[:, 1] - s[:, 2]) > 0.05 * s[:, 0]).all():
        assert torch.autograd.gradcheck(project_to_rotation, matrix.requires_grad_())


@pytest.mark.parametrize("options", [{}, {"centred": True}, {"iterations": 2}])
def test_solve_gradient(options: dict) -> None:
    random = generator(5)
    source, target = torch.randn(2, 2, 6, 3, generator=random, dtype=torch.float64)
    weights = torch.rand(2, 6, generator=random, dtype=torch.float64) + 0.1
    inputs = source.requires_grad_(), target.requires_grad_()
    if options.get("iterations", 1) == 1:
        inputs = (*inputs, weights.requires_grad_())
        assert torch.autograd.gradcheck(lambda *a: weighted_procrustes(*a, **options), inputs)
    else:
        # The residuals are scaled by constant weights, so these have no full derivative.
        assert torch.autograd.gradcheck(
            lambda s, t: weighted_procrustes(s, t, weights, **options), inputs
        )


def test_autocast_does_not_reach_the_solve() -> None:
    random = generator(6)
    source, target = torch.randn(2, 3, 20, 3, generator=random)
    weights = torch.rand(3, 20, generator=random)
    expected = weighted_procrustes(source, target, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = weighted_procrustes(source, target, weights)
    for ours, theirs in zip(result, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_iterations_must_be_positive() -> None:
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        weighted_procrustes(*degenerate("planar"), iterations=0)
