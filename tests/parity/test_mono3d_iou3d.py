"""Exact overlap of oriented boxes against independent float64 solutions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.geometry.box3d_overlap import OrientedBoxes, elementwise_overlap, pairwise_overlap


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, torch.Tensor]:
    with np.load(golden_dir / "mono3d" / "iou3d_pairs.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "category"}


def boxes(golden: dict[str, torch.Tensor], which: int, dtype: torch.dtype) -> OrientedBoxes:
    # Width, height and length lie along z, y and x of the box.
    extents = golden[f"dims_whl{which}"].flip(1)
    return OrientedBoxes(
        golden[f"center{which}"].to(dtype), extents.to(dtype), golden[f"R{which}"].to(dtype)
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-4)])
def test_overlap(golden: dict[str, torch.Tensor], dtype: torch.dtype, tolerance: float) -> None:
    volume, iou = elementwise_overlap(boxes(golden, 1, dtype), boxes(golden, 2, dtype))
    expected = golden["iou3d"].to(dtype)
    torch.testing.assert_close(iou, expected, rtol=0, atol=tolerance)
    expected = golden["intersection_volume"].to(dtype)
    torch.testing.assert_close(volume, expected, rtol=tolerance, atol=tolerance)
    assert iou.max() <= 1


def test_all_pairs_and_swapped_sets(golden: dict[str, torch.Tensor]) -> None:
    golden = {name: array[::3] for name, array in golden.items()}
    one, two = boxes(golden, 1, torch.float64), boxes(golden, 2, torch.float64)
    _, iou = pairwise_overlap(one, two)
    torch.testing.assert_close(iou.diagonal(), golden["iou3d"], rtol=0, atol=1e-7)
    _, swapped = pairwise_overlap(two, one)
    torch.testing.assert_close(iou, swapped.mT, rtol=0, atol=1e-9)
