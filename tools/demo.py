#!/usr/bin/env python
"""Draws what a trained model finds, in images of a dataset or in given files.

    tools/demo.py --run output/rooms_r18                      # its first test dataset
    tools/demo.py --run output/rooms_r18 --input photo.jpg    # own pictures

``--run`` is the output directory of tools/train_net.py: its config.yaml and newest checkpoint are
used. The result is one picture: input, ground truth where there is one, and detections.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import Instances
from pycocotools import mask as rle

from roca_nocs.engine.checkpoint import Checkpointer
from roca_nocs.utils.visualize import (
    contact_sheet,
    draw_boxes,
    draw_masks,
    magnification,
    magnify,
)


def load_model(run: Path) -> tuple[Any, torch.nn.Module]:
    """The config of a run and its model with the newest weights, in evaluation mode."""
    config_file = run / "config.yaml"
    if not config_file.is_file():
        raise SystemExit(f"{config_file} does not exist: is {run} the output of train_net.py?")
    cfg = LazyConfig.load(str(config_file))
    model = instantiate(cfg.model).to(cfg.train.device)
    checkpointer = Checkpointer(model, str(run))
    if not checkpointer.has_checkpoint():
        raise SystemExit(f"{run} holds no checkpoint; train first.")
    checkpointer.resume_or_load("", resume=True)
    return cfg, model.eval()


def assumed_intrinsics(height: int, width: int) -> np.ndarray:
    """A 60 degree field of view, for pictures of unknown cameras."""
    focal = 0.5 * max(height, width) / np.tan(np.pi / 6)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def draw_predictions(
    image: np.ndarray, instances: Instances, names: list[str], threshold: float
) -> np.ndarray:
    """The detections above a score, as masks, boxes and labels."""
    instances = instances[instances.scores >= threshold].to("cpu")
    factor = magnification(image)
    image = magnify(image, factor)
    if instances.has("pred_masks"):
        image = draw_masks(image, magnify(instances.pred_masks.numpy(), factor, (1, 2)))
    pairs = zip(instances.pred_classes.tolist(), instances.scores.tolist(), strict=True)
    labels = [f"{names[label]} {score:.0%}" for label, score in pairs]
    return draw_boxes(image, instances.pred_boxes.tensor.numpy() * factor, labels)


def draw_annotations(image: np.ndarray, annotations: list[dict], names: list[str]) -> np.ndarray:
    """The ground truth of a record."""
    factor = magnification(image)
    image = magnify(image, factor)
    with_masks = [each for each in annotations if "segmentation" in each]
    if with_masks:
        masks = [rle.decode(each["segmentation"]).astype(bool) for each in with_masks]
        image = draw_masks(image, magnify(np.stack(masks), factor, (1, 2)))
    boxes = np.array([each["bbox"] for each in annotations], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return draw_boxes(image, boxes * factor, [names[each["category_id"]] for each in annotations])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="output directory of a training")
    parser.add_argument("--dataset", help="registered name; default: the run's test dataset")
    parser.add_argument("--input", nargs="+", help="image files instead of a dataset")
    parser.add_argument("--count", type=int, default=6, help="images to draw of a dataset")
    parser.add_argument("--threshold", type=float, default=0.5, help="smallest score to draw")
    parser.add_argument("--output", type=Path, help="picture to write; default: RUN/demo.png")
    args = parser.parse_args()

    cfg, model = load_model(args.run)
    mapper = instantiate(cfg.dataloader.test.mapper)
    dataset = args.dataset or cfg.dataloader.test.dataset.names
    dataset = dataset if isinstance(dataset, str) else dataset[0]
    records = [{"file_name": name} for name in args.input or ()]
    if not records:
        everything = DatasetCatalog.get(dataset)
        records = everything[:: max(1, len(everything) // args.count)][: args.count]
    names = MetadataCatalog.get(dataset).thing_classes

    rows = []
    for record in records:
        image = read_image(record["file_name"], format="RGB")
        record.setdefault("height", image.shape[0])
        record.setdefault("width", image.shape[1])
        record.setdefault("intrinsics", assumed_intrinsics(*image.shape[:2]))
        with torch.no_grad():
            instances = model([mapper(record)])[0]["instances"]
        row = [
            magnify(image, magnification(image)),
            draw_predictions(image, instances, names, args.threshold),
        ]
        if "annotations" in record:
            row.insert(1, draw_annotations(image, record["annotations"], names))
        rows.append(row)
    titles = ["input", "ground truth", "found"] if len(rows[0]) == 3 else ["input", "found"]
    output = args.output or args.run / "demo.png"
    cv2.imwrite(str(output), contact_sheet(rows, titles)[..., ::-1])
    print(f"{len(rows)} images drawn to {output}")


if __name__ == "__main__":
    main()
