"""The IoU-aware BCE and its gradient against the published implementation."""

from pathlib import Path

import pytest
import torch

from parity.aligndetr_arrays import Arrays, cases, load
from roca_nocs.geometry.boxes import cxcywh_to_xyxy, elementwise_iou
from roca_nocs.modeling.criteria.ia_bce import alignment_quality, ia_bce, local_rank


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Arrays:
    return load(golden_dir / "aligndetr" / "ia_bce.npz")


@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"), [(torch.float64, 1e-8, 1e-8), (torch.float32, 1e-5, 1e-6)]
)
def test_loss_and_gradient(golden: Arrays, dtype: torch.dtype, rtol: float, atol: float) -> None:
    for prefix, case in cases(golden):
        logits = case["pred_logits"].to(dtype).requires_grad_()
        where = case["img_idx"], case["src_idx"]
        matched = (*where, case["matched_labels"])
        predicted = cxcywh_to_xyxy(case["pred_boxes"].to(dtype)[where])
        iou = elementwise_iou(predicted, cxcywh_to_xyxy(case["matched_tgt_boxes"].to(dtype)))
        quality = alignment_quality(logits[matched], iou, float(case["alpha"]))
        expected = case["quality_t_before_rank_weight"].to(dtype)
        torch.testing.assert_close(quality, expected, rtol=rtol, atol=atol, msg=prefix)

        weight = torch.ones_like(quality)
        if case["uses_rank_weight"]:
            groups = case["img_idx"] * (case["tgt_idx"].max() + 1) + case["tgt_idx"]
            rank = local_rank(quality, groups)
            weight = torch.exp(-rank.to(dtype) / case["tau"].to(dtype))
        expected = case["rank_weight"].to(dtype)
        torch.testing.assert_close(weight, expected, rtol=1e-7, atol=1e-7, msg=prefix)

        loss = ia_bce(logits, matched, expected * quality, float(case["gamma"])).sum()
        loss = loss / float(case["avg_factor"])
        loss.backward()
        assert loss.item() == pytest.approx(float(case["loss_class"]), rel=rtol), prefix
        expected = case["grad_pred_logits"].to(dtype)
        torch.testing.assert_close(logits.grad, expected, rtol=rtol, atol=atol, msg=prefix)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_extreme_logits(golden: Arrays, dtype: torch.dtype) -> None:
    logits = golden["range_logits"].to(dtype).requires_grad_()
    matched = tuple(golden["range_pos"][:, None])
    # The target is the predicted box itself.
    corners = cxcywh_to_xyxy(golden["range_box"].to(dtype))
    quality = alignment_quality(logits[matched], elementwise_iou(corners, corners), 0.25)
    loss = ia_bce(logits, matched, quality, 2.0).sum()
    loss.backward()
    assert loss.item() == pytest.approx(float(golden["range_stable_loss_float64"]), rel=1e-5)
    expected = golden["range_stable_grad_float64"].to(dtype)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-5, atol=0)
