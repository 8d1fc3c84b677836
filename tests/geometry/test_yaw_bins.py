"""Headings as bins and residuals: inverses over the whole circle, settings, gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.geometry.yaw_bins import YawBins, wrap_angle

few = settings(max_examples=20, deadline=None)
divisions = st.one_of(
    st.builds(YawBins, st.integers(1, 36), st.just("half_width"), st.sampled_from(["2pi", "pi"])),
    st.builds(YawBins, st.integers(4, 36), st.just("birdnet"), st.sampled_from(["2pi", "pi"])),
)


def angles(num_bins: int, dtype: torch.dtype) -> torch.Tensor:
    """The circle, its seam, centres and edges of the bins, and their neighbours."""
    steps = torch.arange(-8 * num_bins, 8 * num_bins + 1, dtype=torch.float64)
    special = math.pi * steps / (4 * num_bins)
    near = [special + offset for offset in (-1e-9, 0, 1e-9)]
    random = torch.Generator().manual_seed(num_bins)
    anywhere = 20 * torch.rand(200, generator=random, dtype=torch.float64) - 10
    exact = torch.tensor([math.pi, -math.pi, 3 * math.pi], dtype=torch.float64)
    return torch.cat([*near, anywhere, exact]).to(dtype)


@few
@given(divisions, st.sampled_from([torch.float64, torch.float32]))
def test_decode_inverts_encode(bins: YawBins, dtype: torch.dtype) -> None:
    angle = angles(bins.num_bins, dtype)
    index, residual = bins.encode(angle)
    assert index.dtype == torch.int64 and residual.dtype == dtype
    assert (0 <= index).all() and (index < bins.num_bins).all()
    period = math.pi if bins.period == "pi" else 2 * math.pi
    decoded = bins.decode(index, residual)
    assert (-period / 2 <= decoded).all() and (decoded < period / 2).all()
    error = wrap_angle(decoded.double() - angle.double(), period).abs().max()
    assert error < (1e-12 if dtype == torch.float64 else 4e-6)


@few
@given(st.integers(1, 36))
def test_residual_stays_in_its_bin(num_bins: int) -> None:
    _, residual = YawBins(num_bins).encode(angles(num_bins, torch.float64))
    # At an edge the sum of rounded numbers decides, to the last digits.
    assert (residual.abs() <= 1 + 1e-9).all()
    index, residual = YawBins(num_bins).encode(torch.tensor(-math.pi, dtype=torch.float64))
    assert index == 0 and residual == 0


def test_large_residuals_are_not_squashed() -> None:
    bins = YawBins(12)
    decoded = bins.decode(torch.tensor([6, 6]), torch.tensor([3.0, -25.0]))
    expected = wrap_angle(torch.tensor([3.0, -25.0]) * math.pi / 12)
    torch.testing.assert_close(decoded, expected)


@few
@given(divisions)
def test_gradient_of_the_residual(bins: YawBins) -> None:
    index = torch.arange(bins.num_bins)
    residual = torch.linspace(-1, 1, bins.num_bins, dtype=torch.float64).requires_grad_()
    bins.decode(index, residual).sum().backward()
    if bins.residual == "birdnet":
        expected = 1 / math.trunc(bins.num_bins / math.pi)
    else:
        expected = (math.pi if bins.period == "pi" else 2 * math.pi) / bins.num_bins / 2
    torch.testing.assert_close(residual.grad, torch.full_like(residual, expected))


def test_mirrored_heading_has_the_mirrored_bin() -> None:
    bins = YawBins(12)
    angle = torch.linspace(-3.1, 3.1, 101, dtype=torch.float64)
    index, residual = bins.encode(angle)
    mirrored, mirrored_residual = bins.encode(math.pi - angle)
    assert torch.equal(mirrored, (6 - index) % 12)
    torch.testing.assert_close(mirrored_residual, -residual)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_wrap(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).eps
    angle = torch.tensor([0.5, -math.pi, math.pi, -math.pi * (1 + tiny), 7.0, -tiny], dtype=dtype)
    wrapped = wrap_angle(angle)
    pi = torch.tensor(math.pi, dtype=dtype)
    assert (-pi <= wrapped).all() and (wrapped < pi).all()
    assert wrapped[0] == angle[0] and wrapped[1] == -pi and wrapped[2] == -pi
    assert wrapped[5] == angle[5]
    turns = (wrapped.double() - angle.double()) / (2 * math.pi)
    assert (turns - turns.round()).abs().max() < 2 * tiny


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((12, "sigmoid"), "unknown yaw residual 'sigmoid'"),
        ((12, "half_width", "180"), "unknown yaw period '180'"),
        ((0,), "0 yaw bins"),
        ((3, "birdnet"), "3 yaw bins; a residual 'birdnet' needs 4"),
    ],
)
def test_bad_settings(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        YawBins(*arguments)
