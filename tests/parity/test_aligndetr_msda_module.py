"""The deformable-attention module against the published one."""

from pathlib import Path

import pytest
import torch

from parity.aligndetr_arrays import Arrays, cases, load
from roca_nocs.layers import ms_deform_attn
from roca_nocs.layers.ms_deform_attn import MultiScaleDeformableAttention

SIZES = ("embed_dim", "num_heads", "num_levels", "num_points")
KEYWORDS = ("query_pos", "key_padding_mask", "reference_points")


def build(case: Arrays) -> MultiScaleDeformableAttention:
    return MultiScaleDeformableAttention(**{name: int(case[name]) for name in SIZES})


def test_initial_offsets(golden_dir: Path) -> None:
    for _, case in cases(load(golden_dir / "aligndetr" / "msda_module.npz")):
        module = build(case)
        torch.testing.assert_close(
            module.sampling_offsets.bias.detach(),
            case["init_sampling_offsets_bias"],
            atol=1e-6,
            rtol=0,
        )
        assert not module.sampling_offsets.weight.any()
        assert not module.attention_weights.weight.any()
        assert not module.attention_weights.bias.any()


@pytest.mark.parametrize("compiled", [True, False])
def test_module(golden_dir: Path, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled operator and PyTorch formulation."""
    if not compiled:
        monkeypatch.setattr(ms_deform_attn, "COMPILED_DEVICES", frozenset())
    for _, case in cases(load(golden_dir / "aligndetr" / "msda_module.npz")):
        module = build(case)
        weights = {k.removeprefix("sd/"): v for k, v in case.items() if k.startswith("sd/")}
        module.load_state_dict(weights, strict=True)
        output = module(
            case["query"],
            case["value"],
            spatial_shapes=[(height, width) for height, width in case["spatial_shapes"].tolist()],
            **{name: case[name] for name in KEYWORDS},
        )
        torch.testing.assert_close(output.detach(), case["output"], atol=2e-5, rtol=0)
