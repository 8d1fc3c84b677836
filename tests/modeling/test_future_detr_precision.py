"""FutureDETR in half precision: losses, gradients and results of clips and images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from modeling.tiny_future_detr import build_future_detr, make_clip
from roca_nocs.modeling.future.clip_results import ClipResults
from roca_nocs.modeling.tracking.runtime_tracker import RuntimeTracker

HALF = [torch.float16, torch.bfloat16]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("fusion", "mask_type", "mode"),
    [("streaming", "conv", "autoregressive"), ("memory", "dot", "parallel")],
)
def test_clips(device: str, dtype: torch.dtype, fusion: str, mask_type: str, mode: str) -> None:
    model = build_future_detr(
        seed=3,
        detector={"mask_type": mask_type},
        rollout={"mode": mode},
        temporal_fusion=fusion,
    ).to(device)
    clips = [make_clip(frames=2), make_clip([], seed=1, frames=2)]
    with torch.autocast(device, dtype):
        losses = model(clips)
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    model.eval()
    model.tracker = RuntimeTracker(0.01, 0.005, 5)  # some queries are tracks
    model.results = ClipResults(min_score=0.0)
    with torch.no_grad():
        exact = model(clips)
        with torch.autocast(device, dtype):
            found = model(clips)
    for each, expected in zip(found, exact, strict=True):
        assert each["instances"].shape == expected["instances"].shape
        assert each["boxes"].isfinite().all()
        count = model.detector.num_queries
        close = {"atol": 0.05, "rtol": 0.05}
        torch.testing.assert_close(
            each["scores_per_step"][0, :count].float(),
            expected["scores_per_step"][0, :count],
            **close,
        )


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_images(device: str, dtype: torch.dtype) -> None:
    model = build_future_detr(seed=3, num_future=0).to(device)
    image: dict[str, Any] = {"image": torch.rand(3, 24, 40)}
    instances = Instances((24, 40))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 3.0, 20.0, 18.0]]))
    instances.gt_classes = torch.tensor([1])
    instances.gt_masks = BitMasks(torch.ones(1, 24, 40, dtype=torch.bool))
    with torch.autocast(device, dtype):
        losses = model([image | {"instances": instances}])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad(), torch.autocast(device, dtype):
        (result,) = model.eval()([image])
    found = result["instances"]
    assert len(found) > 0 and found.scores.isfinite().all()
    assert found.pred_boxes.tensor.isfinite().all()
