"""Bins and residuals of headings against independent values and the BirdNet+ functions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.geometry.yaw_bins import YawBins, wrap_angle


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, torch.Tensor]:
    with np.load(golden_dir / "mono3d" / "yaw_bins.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def counts(golden: dict[str, torch.Tensor], scheme: str) -> list[int]:
    start = f"{scheme}_bin_B"
    found = [int(name.removeprefix(start)) for name in golden if name.startswith(start)]
    assert found
    return found


def test_canonical(golden: dict[str, torch.Tensor]) -> None:
    yaw = golden["yaw"]
    for count in counts(golden, "canonical"):
        bins = YawBins(count)
        index, residual = bins.encode(yaw)
        assert torch.equal(index, golden[f"canonical_bin_B{count}"])
        for ours, name in (
            (residual, "residual_norm"),
            (residual * np.pi / count, "residual_rad"),
            (bins.centers(torch.arange(count), torch.float64), "centres"),
        ):
            expected = golden[f"canonical_{name}_B{count}"]
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
        error = wrap_angle(bins.decode(index, residual) - yaw)
        assert error.abs().max() < 1e-12


def test_birdnet(golden: dict[str, torch.Tensor]) -> None:
    yaw = golden["yaw"]
    for count in counts(golden, "birdnet"):
        bins = YawBins(count, "birdnet")
        index, residual = bins.encode(yaw)
        expected = golden[f"birdnet_bin_B{count}"]
        position = (yaw + np.pi) * count / (2 * np.pi) + 0.5
        edge = (position - position.round()).abs() < 1e-6
        same = index == expected
        assert (same | edge).all()
        between = (index - expected)[~same] % count
        assert ((between == 1) | (between == count - 1)).all()
        delta = golden[f"birdnet_delta_B{count}"].double()
        torch.testing.assert_close(residual[same], delta[same], rtol=0, atol=1e-5)
        decoded = golden[f"birdnet_decoded_B{count}"].double()
        for ours in (bins.decode(index, residual), bins.decode(expected, delta)):
            assert wrap_angle(ours - decoded).abs().max() < 1e-5
