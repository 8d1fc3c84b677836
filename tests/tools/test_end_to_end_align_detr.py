"""AlignDETR on a folder in COCO's format: train with averaging and bfloat16, then evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from scripts import ROOT, run_script

CONFIG = """
from detectron2.config import LazyConfig
from modeling.tiny_align_detr import narrow

dataloader, lr_multiplier, model, optimizer, train = LazyConfig.load(
    r"{root}/configs/aligndetr/rooms_r18.py",
    ("dataloader", "lr_multiplier", "model", "optimizer", "train"),
)
dataloader = LazyConfig.load(r"{root}/configs/common/data_coco_detr.py", "dataloader")
narrow(model)
model.num_classes = 80
for _resize in (
    dataloader.train.mapper.augmentation[1],
    dataloader.train.mapper.augmentation_with_crop[3],
):
    _resize.short_edge_length = [48, 56]
dataloader.test.mapper.augmentation[0].short_edge_length = 48
dataloader.train.mapper.augmentation_with_crop[1].short_edge_length = [40, 50]
dataloader.train.mapper.augmentation_with_crop[2].crop_size = [30, 40]
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = dataloader.test.num_workers = 0
lr_multiplier.warmup = 1
train.max_iter = 3
train.log_period = 1
train.amp.update(enabled=True, dtype="bfloat16")
train.ema.update(enabled=True, decay=0.5)
"""


def write_coco(folder: Path) -> None:
    """Three images for each split, the last one without an object."""
    metadata = MetadataCatalog.get("coco_2017_val")
    ids = metadata.thing_dataset_id_to_contiguous_id
    categories = [{"id": i, "name": metadata.thing_classes[row]} for i, row in ids.items()]
    random = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (folder / split).mkdir()
        images, annotations = [], []
        for number in range(1, 4):
            pixels = random.integers(0, 256, (60, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / f"{number}.jpg")
            file = {"id": number, "file_name": f"{number}.jpg", "height": 60, "width": 80}
            images.append(file)
            if number == 3:
                continue
            box = [10.0 * number, 5.0, 30.0, 40.0]
            annotations.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": [1, 90][number - 1],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = folder / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(content))


def train_net(datasets: Path, config: Path, *arguments: str) -> None:
    options = ["--config-file", str(config), "--num-gpus", "0", *arguments]
    run_script("train_net.py", *options, datasets=datasets)


def test_coco_folder(tmp_path: Path) -> None:
    write_coco(tmp_path / "datasets/coco")
    config, output = tmp_path / "config.py", tmp_path / "output"
    config.write_text(CONFIG.format(root=ROOT))
    train_net(tmp_path / "datasets", config, f"train.output_dir={output}")
    trained = json.loads((output / "results.json").read_text())
    assert np.isfinite(trained["bbox"]["AP"])

    # Heads are stored under both of their names, and averaged once.
    stored = torch.load(output / "model_final.pth", weights_only=True)
    for state, prefix in ((stored["model"], ""), (stored["ema_state"], "module.")):
        for name in ("class_embed.0.weight", "bbox_embed.2.layers.1.bias"):
            other = f"{prefix}transformer.decoder.{name}"
            assert torch.equal(state[f"{prefix}{name}"], state[other])
    assert not torch.equal(
        stored["model"]["class_embed.0.weight"], stored["ema_state"]["module.class_embed.0.weight"]
    )

    train_net(tmp_path / "datasets", output / "config.yaml", "--eval-only")
    assert json.loads((output / "results.json").read_text()) == trained
