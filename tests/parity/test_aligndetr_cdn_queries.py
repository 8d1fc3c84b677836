"""Denoising queries with given random numbers against the published implementation."""

from pathlib import Path

import pytest
import torch

from parity.aligndetr_arrays import Arrays, cases, load, targets
from roca_nocs.modeling.transformer.denoising import DenoisingDraws, build_denoising_queries


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Arrays:
    return load(golden_dir / "aligndetr" / "cdn_queries.npz")


def draws_of(case: Arrays) -> DenoisingDraws | None:
    """The recorded draws; the published code draws new labels only for the rows it replaces."""
    if "draw_label_flip_p" not in case:
        return None
    flip = case["draw_label_flip_p"]
    new_labels = torch.zeros(len(flip), dtype=torch.int64)
    new_labels[flip < 0.5 * case["label_noise_ratio"]] = case["draw_new_labels"]
    return DenoisingDraws(flip, new_labels, case["draw_box_sign01"], case["draw_box_part"])


def test_queries(golden: Arrays) -> None:
    for _, case in cases(golden):
        queries = build_denoising_queries(
            targets(case),
            case["label_enc_weight"],
            num_queries=int(case["num_queries"]),
            dn_number=int(case["dn_number"]),
            label_noise_ratio=float(case["label_noise_ratio"]),
            box_noise_scale=float(case["box_noise_scale"]),
            draws=draws_of(case),
        )
        assert queries.single_padding == int(case["out_single_padding"])
        assert queries.num_groups == int(case["out_num_groups"])
        torch.testing.assert_close(queries.content, case["out_query_label"], rtol=0, atol=1e-6)
        logits = case["out_query_box_unact"]
        torch.testing.assert_close(queries.boxes_logits, logits, rtol=0, atol=1e-5)
        assert torch.equal(queries.attention_mask, case["out_attn_mask"])


def test_batch_without_targets(golden: Arrays) -> None:
    assert golden["empty_batch_returns_none"]
    empty = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
    sizes = {"num_queries": 5, "dn_number": 10, "label_noise_ratio": 0.5, "box_noise_scale": 1.0}
    assert build_denoising_queries([empty, empty], torch.randn(3, 8), **sizes) is None
