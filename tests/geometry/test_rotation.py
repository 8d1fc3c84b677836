"""The (w, x, y, z) adapter of roma's quaternions."""

import math

import pytest
import roma
import torch
from hypothesis import given
from hypothesis import strategies as st

from roca_nocs.geometry.rotation import matrix_to_quaternion, quaternion_to_matrix


def test_scalar_comes_first() -> None:
    """A quarter turn about +y takes +z to +x."""
    half = math.sqrt(0.5)
    rotation = quaternion_to_matrix(torch.tensor([half, 0.0, half, 0.0], dtype=torch.float64))
    assert (rotation @ torch.tensor([0.0, 0, 1], dtype=torch.float64)).tolist() == pytest.approx(
        [1, 0, 0]
    )


@given(st.integers(0, 2**31))
def test_round_trip(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    rotation = roma.rotvec_to_rotmat(vector)
    quaternion = matrix_to_quaternion(rotation)
    assert (quaternion[:, 0] >= 0).all()
    assert torch.allclose(quaternion.norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert torch.allclose(quaternion_to_matrix(quaternion), rotation)
    assert torch.allclose(quaternion_to_matrix(-3 * quaternion), rotation)


def test_empty_batch() -> None:
    assert quaternion_to_matrix(torch.zeros(0, 4)).shape == (0, 3, 3)
    assert matrix_to_quaternion(torch.zeros(0, 3, 3)).shape == (0, 4)
