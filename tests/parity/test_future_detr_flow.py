"""Warping by a flow against PowerBEV's code, linking of ids by flow against FIERY's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from parity.aligndetr_arrays import load
from roca_nocs.modeling.future.flow import warp_by_flow
from roca_nocs.modeling.future.instance_ids import link_by_flow


def test_flow_warp(golden_dir: Path) -> None:
    golden = load(golden_dir / "future_detr" / "flow_warp.npz")
    maps, flow, nearest, bilinear = (
        golden[name].flatten(0, 1).float()
        for name in ("occupancy", "backward_flow_xy", "out_nearest", "out_bilinear")
    )
    torch.testing.assert_close(warp_by_flow(maps, flow, "nearest"), nearest, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(warp_by_flow(maps, flow + 0.3), bilinear, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("key", "far"), [("consistent", None), ("consistent_threshold100", 100.0)])
def test_link_by_flow(golden_dir: Path, key: str, far: float | None) -> None:
    golden = load(golden_dir / "future_detr" / "flow_id_association.npz")
    distance = float(golden["matching_threshold"]) if far is None else far
    for clip, flow, expected in zip(
        golden["per_frame_instance"], golden["future_flow"], golden[key], strict=True
    ):
        linked = link_by_flow(clip, flow.float(), distance)
        assert torch.equal(linked, expected.long())
