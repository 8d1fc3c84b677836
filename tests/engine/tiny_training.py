"""A complete training that takes milliseconds: data set, model and config, for tests of the engine.

The model draws from the generators of python, numpy and torch in every step, so that a training
is reproduced only if all of them are restored.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils import comm
from PIL import Image
from torch import nn

import scripts

ROOT = Path(__file__).parents[2]

_CONFIG = """
from detectron2.config import LazyCall as L, LazyConfig
from detectron2.data.datasets import register_coco_instances
from engine.tiny_training import TinyDetector

register_coco_instances("{name}", {{}}, r"{folder}/annotations.json", r"{folder}/images")
_common = r"{root}/configs/common"
dataloader = LazyConfig.load(_common + "/data_coco.py", "dataloader")
for _part in (dataloader.train, dataloader.test):
    _part.dataset.names = "{name}"
    _part.num_workers = 0
_mapper = dataloader.train.mapper
_mapper.use_instance_mask = False
_mapper.augmentations = [_mapper.augmentations[1]]
dataloader.test.mapper.augmentations = []
dataloader.train.total_batch_size = 4
model = L(TinyDetector)(noise={noise}, batch_norm={batch_norm})
optimizer = LazyConfig.load(_common + "/optim.py", "adamw")
optimizer.lr = 0.01
lr_multiplier = LazyConfig.load(_common + "/schedule.py", "flat_then_cosine")
lr_multiplier.warmup = 2
train = LazyConfig.load(_common + "/train.py", "train")
train.output_dir = r"{folder}/output"
train.seed = 3
train.device = "cpu"
train.max_iter = 10
train.checkpointer.period = 2
train.eval_period = 4
train.log_period = 1
train.best.metric = "bbox/AP"
train.ema.enabled = True
train.ema.decay = 0.9
train.ema.evaluate_raw = True
"""


class TinyDetector(nn.Module):
    """Finds one box per image with a convolution and a linear layer.

    The environment variables TINY_KILL and TINY_NAN (the latter as ``rank:iteration``) make it kill
    its process, or return NaN, in that training step, counted from 0.
    """

    def __init__(self, noise: float = 0.0, batch_norm: bool = False) -> None:
        super().__init__()
        self.noise = noise
        self.conv = nn.Conv2d(3, 4, 4, stride=4)
        self.norm = nn.BatchNorm2d(4) if batch_norm else nn.Identity()
        self.box = nn.Linear(4, 4)
        self.label = nn.Linear(4, 2)
        # Begin near the mean box, so that a few iterations give an AP above 0.
        with torch.no_grad():
            self.box.bias.copy_(torch.tensor([-2.0, -1.6, 0.0, 0.3]))
        self.steps = 0

    def forward(self, samples: list[dict[str, Any]]) -> Any:
        images = ImageList.from_tensors([s["image"].float() / 255 - 0.5 for s in samples])
        features = self.norm(self.conv(images.tensor)).relu().mean(dim=(2, 3))
        if self.training:
            return self._losses(features, samples)
        boxes, logits = self.box(features).sigmoid(), self.label(features)
        return [
            {"instances": self._instances(*item)}
            for item in zip(samples, boxes, logits, strict=True)
        ]

    def _losses(
        self, features: torch.Tensor, samples: list[dict[str, Any]]
    ) -> dict[str, torch.Tensor]:
        self._misbehave()
        draws = torch.rand(()).item() + np.random.rand() + random.random()
        sizes = [torch.tensor(s["instances"].image_size[::-1] * 2) for s in samples]
        targets = torch.stack(
            [s["instances"].gt_boxes.tensor[0] / n for s, n in zip(samples, sizes, strict=True)]
        )
        labels = torch.stack([s["instances"].gt_classes[0] for s in samples])
        box = (self.box(features + self.noise * draws).sigmoid() - targets).abs().mean()
        if os.environ.get("TINY_NAN") == f"{comm.get_rank()}:{self.steps - 1}":
            box = box * float("nan")
        return {
            "loss_box": box,
            "loss_label": nn.functional.cross_entropy(self.label(features), labels),
        }

    def _misbehave(self) -> None:
        if os.environ.get("TINY_KILL") == str(self.steps):
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1

    @staticmethod
    def _instances(sample: dict[str, Any], box: torch.Tensor, logits: torch.Tensor) -> Instances:
        size = sample["height"], sample["width"]
        scores, labels = logits.softmax(-1).max(-1, keepdim=True)
        low, high = torch.minimum(box[:2], box[2:]), torch.maximum(box[:2], box[2:])
        boxes = torch.cat([low, high]) * torch.tensor([size[1], size[0]] * 2)
        return Instances(size, pred_boxes=Boxes(boxes[None]), scores=scores, pred_classes=labels)


def write_project(
    folder: Path, *, noise: float = 0.1, batch_norm: bool = True, num_images: int = 10
) -> Path:
    """Write a data set in COCO format (portrait and landscape images) and a config; its path."""
    generator = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(num_images):
        width, height = (32, 24) if number % 3 else (24, 32)
        pixels = generator.integers(0, 80, (height, width, 3))
        label, (x, y) = number % 2, generator.integers(0, 8, 2).tolist()
        box = [x, y, 12, 10]
        pixels[y : y + 10, x : x + 12, label] += 150
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"images/{number}.png")
        images.append(
            {"id": number, "file_name": f"{number}.png", "width": width, "height": height}
        )
        annotations.append(
            {"id": number + 1, "image_id": number, "category_id": label + 1, "bbox": box}
            | {"area": 120, "iscrowd": 0}
        )
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    info = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(info))
    config = folder / "config.py"
    values = {"noise": noise, "batch_norm": batch_norm, "root": ROOT, "folder": folder}
    config.write_text(_CONFIG.format(name=f"tiny_{abs(hash(folder))}", **values))
    return config


def run_train_net(
    *arguments: str | Path,
    environment: dict[str, str] | None = None,
    launcher: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run tools/train_net.py in a process of its own, with this test's interpreter."""
    settings = scripts.environment(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    return subprocess.run(
        [sys.executable, *launcher, str(ROOT / "tools/train_net.py"), *map(str, arguments)],
        env=settings | (environment or {}),
        capture_output=True,
        text=True,
        timeout=240,
    )
