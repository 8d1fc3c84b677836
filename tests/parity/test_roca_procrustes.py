"""The weighted rotation and translation solve against the published implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.geometry.procrustes import project_to_rotation, weighted_procrustes
from roca_nocs.geometry.rotation import matrix_to_quaternion


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, torch.Tensor]:
    with np.load(golden_dir / "roca" / "procrustes.npz") as arrays:
        return {
            name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "case_names"
        }


def solve(
    golden: dict[str, torch.Tensor], weighted: bool = True, dtype: torch.dtype = torch.float32, **o
) -> tuple[torch.Tensor, torch.Tensor]:
    mask = golden["masks"].to(dtype)
    source = (golden["scaled_nocs"].to(dtype) * mask).flatten(2).mT
    target = (golden["points"].to(dtype) * mask).flatten(2).mT
    weights = mask * golden["weights"].to(dtype) if weighted else mask
    return weighted_procrustes(source, target, weights.flatten(1), **o)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("iterations", "tolerance"), [(1, 1e-5), (3, 1e-4)])
def test_solution(
    golden: dict[str, torch.Tensor], weighted: bool, iterations: int, tolerance: float
) -> None:
    rotation, translation = solve(golden, weighted, iterations=iterations)
    variant = f"{'weighted' if weighted else 'unweighted'}_{iterations}"
    close = {"rtol": 0, "atol": tolerance}
    torch.testing.assert_close(rotation, golden[f"out_rot_{variant}"], **close)
    torch.testing.assert_close(translation, golden[f"out_trs_{variant}"], **close)
    if variant == "weighted_1":
        quaternion = matrix_to_quaternion(rotation)
        torch.testing.assert_close(quaternion, golden["out_quat_weighted_1"], **close)


def test_centred_solution(golden: dict[str, torch.Tensor]) -> None:
    expected = golden["out_rot_weighted_centred_f64"], golden["out_trs_weighted_centred_f64"]
    for dtype, atol in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        solution = solve(golden, dtype=dtype, centred=True)
        for ours, theirs in zip(solution, expected, strict=True):
            torch.testing.assert_close(ours, theirs.to(dtype), rtol=0, atol=atol)


def test_gradients(golden: dict[str, torch.Tensor]) -> None:
    inputs = dict(golden)
    names = ("scaled_nocs", "points", "weights")
    for name in (*names, "masks"):
        inputs[name] = golden[name][golden["grad_case_index"]].requires_grad_(name in names)
    rotation, translation = solve(inputs)
    result = torch.cat([rotation.flatten(1), translation], dim=1)
    gradients = torch.autograd.grad(
        (result * golden["grad_coef"]).sum(), [inputs[name] for name in names]
    )
    for name, gradient in zip(names, gradients, strict=True):
        expected = golden[f"out_grad_{name}"]
        atol = 1e-3 * float(expected.abs().max())
        torch.testing.assert_close(gradient, expected, rtol=0, atol=atol)


def test_projection(golden: dict[str, torch.Tensor]) -> None:
    rotation = project_to_rotation(golden["svd_in"])
    torch.testing.assert_close(rotation, golden["out_svd_rot"], rtol=0, atol=1e-5)
