"""FutureDETR on single images, as its image configs build it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from roca_nocs.engine.config import load_config
from roca_nocs.modeling.meta_arch import FutureDETR

CONFIGS = Path(__file__).parents[2] / "configs/future_detr"

SMALL = [
    "model.detector.num_queries=6",
    "model.detector.enc_layers=1",
    "model.detector.dec_layers=2",
    "model.detector.dim_feedforward=32",
    "model.detector.num_classes=3",
    "model.detections_per_image=9",
]


@pytest.fixture(scope="module")
def model() -> FutureDETR:
    torch.manual_seed(0)
    return instantiate(load_config(CONFIGS / "image_r18.py", SMALL).model)


def sample(height: int, width: int, boxes: list[list[float]]) -> dict[str, Any]:
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) % 3
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    instances.gt_masks = BitMasks(masks)
    return {"image": torch.rand(3, height, width) * 255, "instances": instances}


@pytest.mark.parametrize("boxes", [[[4.0, 4.0, 30.0, 20.0]], []], ids=["objects", "none"])
def test_training(model: FutureDETR, boxes: list[list[float]]) -> None:
    """Every parameter gets a gradient, with and without objects in the whole batch."""
    model.train().zero_grad()
    batch = [sample(64, 96, boxes * 2), sample(48, 64, [])]
    with EventStorage():
        losses = model(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_inference(model: FutureDETR) -> None:
    model.eval()
    batch = [
        {"image": torch.rand(3, 64, 96) * 255, "height": 128, "width": 192},
        {"image": torch.rand(3, 48, 64) * 255},
    ]
    with torch.no_grad():
        results = [each["instances"] for each in model(batch)]
    for instances, size in zip(results, [(128, 192), (48, 64)], strict=True):
        assert instances.image_size == size
        assert len(instances) == 9
        assert instances.pred_masks.shape == (9, *size)
        assert instances.pred_masks.dtype == torch.bool
        assert (instances.scores.diff() <= 0).all()
        boxes = instances.pred_boxes.tensor
        assert (boxes >= 0).all() and (boxes[:, 2] <= size[1]).all()


@pytest.mark.parametrize(
    ("config", "entries", "parameters"),
    [("image_r50", 629, 42_166_355), ("image_r50_dc5", 629, 42_166_355)],
)
def test_published_widths(config: str, entries: int, parameters: int) -> None:
    """Deformable DETR with refinement, for 80 classes instead of 91, and DETR's mask head."""
    with torch.device("meta"):
        detector = instantiate(load_config(CONFIGS / f"{config}.py").model.detector)
    masks = 131_584 + 1_202_073
    fewer_classes = 6 * 11 * 257
    assert parameters == 40_849_660 - fewer_classes + masks
    assert sum(p.numel() for p in detector.parameters()) == parameters
    assert len(detector.state_dict()) == entries
    assert detector.level_strides[1:] == ((16, 16, 32) if "dc5" in config else (16, 32, 64))
    assert detector.level_strides[detector.seg_level] == 32


@pytest.mark.parametrize("name", ["image_r50", "image_r50_dc5"])
def test_published_schedule(name: str) -> None:
    """Fifty passes over COCO's 118287 images, 32 a step, ten times slower after the fortieth."""
    config = load_config(CONFIGS / f"{name}.py")
    batch, images = config.dataloader.train.total_batch_size, 118_287
    assert (batch, config.optimizer.lr) == (32, 2e-4)
    assert config.train.max_iter * batch / images == pytest.approx(50, rel=0.02)
    (drop,) = config.lr_multiplier.milestones
    assert drop / config.train.max_iter == 0.8
