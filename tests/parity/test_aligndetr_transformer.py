"""Encoder, proposals and decoder against the published code, with and without denoising."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from parity.aligndetr_model import Golden, build_transformer_with_heads
from roca_nocs.modeling.transformer.align_detr_transformer import TransformerOutput
from roca_nocs.modeling.transformer.denoising import DenoisingQueries

OUTPUTS = {
    "inter_states": "states",
    "init_reference": "init_reference",
    "inter_references": "references",
    "enc_state": "encoder_states",
    "enc_reference": "encoder_boxes",
}


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Golden:
    return np.load(golden_dir / "aligndetr" / "transformer.npz")


def inputs(golden: Golden, kind: str) -> list[torch.Tensor]:
    levels = range(int(golden["num_feature_levels"]))
    return [torch.from_numpy(golden[f"{kind}{level}"]) for level in levels]


def assert_outputs(golden: Golden, prefix: str, found: TransformerOutput) -> None:
    for name, attribute in OUTPUTS.items():
        expected = torch.from_numpy(golden[f"{prefix}_{name}"])
        torch.testing.assert_close(getattr(found, attribute), expected, atol=1e-4, rtol=0)


def test_without_denoising(golden: Golden) -> None:
    transformer = build_transformer_with_heads(golden).eval()
    with torch.no_grad():
        found = transformer(*(inputs(golden, kind) for kind in ("feat", "mask", "pos")))
    assert_outputs(golden, "nodn", found)


def test_with_denoising_and_gradients(golden: Golden) -> None:
    transformer = build_transformer_with_heads(golden)
    features = [feature.requires_grad_() for feature in inputs(golden, "feat")]
    content = torch.from_numpy(golden["dn_query_label"])
    denoising = DenoisingQueries(
        content=content,
        boxes_logits=torch.from_numpy(golden["dn_query_box_unact"]),
        attention_mask=torch.from_numpy(golden["attn_mask"]),
        single_padding=content.shape[1],
        num_groups=1,
    )
    found = transformer(features, inputs(golden, "mask"), inputs(golden, "pos"), denoising)
    assert_outputs(golden, "dn", found)

    sum(
        (getattr(found, attribute) * torch.from_numpy(golden[f"cotangent_{name}"])).sum()
        for name, attribute in OUTPUTS.items()
    ).backward()
    gradients = {f"grad_feat{level}": each.grad for level, each in enumerate(features)}
    named = dict(transformer.named_parameters())
    without = set(golden["params_without_grad"].tolist())
    assert {name for name, each in named.items() if each.grad is None} == without
    gradients |= {f"grad/{name}": each.grad for name, each in named.items()}
    keys = [key for key in golden if key.startswith("grad")]
    assert {f"grad_feat{level}" for level in range(len(features))} < set(keys)
    for key in keys:
        expected = torch.from_numpy(golden[key])
        difference = (gradients[key] - expected).abs().max()
        assert difference <= 1e-3 * expected.abs().max(), key
