"""Position code and deformable attention against the published code."""

from __future__ import annotations

from pathlib import Path

import torch

from parity.future_detr_arrays import load, parameters
from roca_nocs.layers.ms_deform_attn import MultiScaleDeformableAttention
from roca_nocs.layers.position import PositionEmbeddingSine


def test_sine_position(golden_dir: Path) -> None:
    golden = load(golden_dir / "future_detr" / "sine_position.npz")
    sizes = int(golden["num_pos_feats"]), int(golden["temperature"])
    # Where a row or a column has no valid cell the code is meaningless.
    for name, offset in (("pos_detr", 0.0), ("pos_deformable_detr", -0.5)):
        found = PositionEmbeddingSine(*sizes, offset=offset)(golden["padding_mask"])
        torch.testing.assert_close(found, golden[name], atol=1e-5, rtol=1e-4)


def test_ms_deform_attn(golden_dir: Path) -> None:
    golden = load(golden_dir / "future_detr" / "ms_deform_attn.npz")
    width = golden["query"].shape[-1]
    sizes = (int(golden[name]) for name in ("n_heads", "n_levels", "n_points"))
    attention = MultiScaleDeformableAttention(width, *sizes)
    initial = golden["initial_sampling_offsets_bias"]
    torch.testing.assert_close(attention.sampling_offsets.bias.detach(), initial)
    attention.load_state_dict(parameters(golden))
    shapes = [tuple(shape) for shape in golden["spatial_shapes"].tolist()]
    with torch.no_grad():
        for points, masked in (("ref2", True), ("ref4", False)):
            found = attention(
                golden["query"],
                golden["value"],
                reference_points=golden[points],
                spatial_shapes=shapes,
                key_padding_mask=golden["padding_mask"] if masked else None,
            )
            expected = golden[f"out_{points}_{'masked' if masked else 'unmasked'}"]
            # The module adds the query, the published one leaves that to its layer.
            found = found - golden["query"]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
