"""IoU, GIoU and the logit of coordinates against the published implementation."""

from pathlib import Path

import pytest
import torch

from parity.aligndetr_arrays import Arrays, load
from roca_nocs.geometry.boxes import (
    cxcywh_to_xyxy,
    elementwise_giou,
    elementwise_iou,
    inverse_sigmoid,
    pairwise_iou_giou,
)


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Arrays:
    return load(golden_dir / "aligndetr" / "embeddings_and_boxes.npz")


def test_pairwise(golden: Arrays) -> None:
    a, b = (cxcywh_to_xyxy(golden[f"pair_boxes_{name}_cxcywh"]) for name in "ab")
    iou, giou = pairwise_iou_giou(a, b)
    torch.testing.assert_close(iou, golden["pair_iou"], atol=1e-5, rtol=0)
    torch.testing.assert_close(giou, golden["pair_giou"], atol=1e-5, rtol=0)


def test_elementwise(golden: Arrays) -> None:
    a, b = (cxcywh_to_xyxy(golden[f"pair_boxes_{name}_cxcywh"]) for name in "ab")
    rows, columns = (
        each.flatten() for each in torch.meshgrid(indices(a), indices(b), indexing="ij")
    )
    iou, giou = (f(a[rows], b[columns]) for f in (elementwise_iou, elementwise_giou))
    torch.testing.assert_close(iou, golden["pair_iou"].flatten(), atol=1e-5, rtol=0)
    torch.testing.assert_close(giou, golden["pair_giou"].flatten(), atol=1e-5, rtol=0)


def indices(boxes: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(boxes))


@pytest.mark.parametrize("eps", ["1e-3", "1e-5"])
def test_inverse_sigmoid(golden: Arrays, eps: str) -> None:
    ours = inverse_sigmoid(golden["inverse_sigmoid_input"], float(eps))
    torch.testing.assert_close(ours, golden[f"inverse_sigmoid_output_eps{eps}"], atol=1e-5, rtol=0)


def test_default_epsilon(golden: Arrays) -> None:
    ours = inverse_sigmoid(golden["inverse_sigmoid_input"])
    torch.testing.assert_close(ours, golden["inverse_sigmoid_output_eps1e-3"], atol=1e-5, rtol=0)
