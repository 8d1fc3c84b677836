"""A made-up street in the KITTI layout, and what models return for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from roca_nocs.data.datasets.kitti_files import KittiLabels, calibration_text, label_text
from roca_nocs.geometry.cuboids import alpha_from_rotation_y, box_corners, rotation_from_yaw

Batch = list[tuple[Mapping[str, Any], Instances]]

WIDTH, HEIGHT = 1242, 375
PROJECTION = np.array(
    [[721.5, 0, 609.5, 44.9], [0, 721.5, 172.9, 0.2], [0, 0, 1, 0.003]], dtype=np.float64
)
SIZES = {
    "Car": (1.6, 1.5, 3.9),
    "Pedestrian": (0.6, 1.8, 0.8),
    "Cyclist": (0.6, 1.7, 1.8),
    "Van": (1.9, 2.2, 5.0),
}


def write_street(root: Path, num_images: int, split: str = "val", seed: int = 0) -> None:
    """Images of one object of each type and of an area to be ignored; the last one is empty."""
    rng = np.random.default_rng(seed)
    folder = root / ("testing" if split == "test" else "training")
    for part in ("image_2", "calib", "label_2"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets").mkdir(exist_ok=True)
    names = [f"{number:06d}" for number in range(num_images)]
    (root / f"ImageSets/{split}.txt").write_text("\n".join(names) + "\n")
    for name in names:
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"image_2/{name}.png")
        (folder / f"calib/{name}.txt").write_text(calibration_text({"P2": PROJECTION}))
        if split != "test":
            labels = "" if name == names[-1] else label_text(random_labels(rng))
            (folder / f"label_2/{name}.txt").write_text(labels)


def random_labels(rng: np.random.Generator) -> KittiLabels:
    kinds = list(rng.permutation(list(SIZES)))
    count = len(kinds)
    dimensions = np.array([SIZES[kind] for kind in kinds]) * rng.uniform(0.9, 1.1, (count, 3))
    depth = rng.uniform(9, 24, count)
    # Side by side and far enough apart that no two objects overlap.
    x = depth * (np.arange(count) - 1.5) * 0.42 + rng.uniform(-0.3, 0.3, count)
    centers = np.stack([x, 1.65 - dimensions[:, 1] / 2, depth], axis=1)
    rotation_y = rng.uniform(-math.pi, math.pi, count)
    corners = box_corners(
        *(torch.from_numpy(each) for each in (centers, dimensions)),
        rotation_from_yaw(torch.from_numpy(rotation_y)),
    ).numpy()
    image = corners @ PROJECTION[:, :3].T + PROJECTION[:, 3]
    pixels = image[..., :2] / image[..., 2:]
    boxes = np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)
    unknown = np.full(1, -1.0)

    def with_area(values: np.ndarray, area: Any) -> np.ndarray:
        return np.concatenate([values, np.reshape(area, (1, *values.shape[1:]))])

    return KittiLabels(
        types=(*kinds, "DontCare"),
        truncation=with_area(np.zeros(count), -1),
        occlusion=with_area(np.zeros(count, np.int64), -1),
        alpha=with_area(rotation_y - np.arctan2(x, depth), -10),
        boxes=with_area(boxes, [600, 5, 660, 60]),
        dimensions=with_area(dimensions, np.repeat(unknown, 3)),
        centers=with_area(centers, np.full(3, -1000.0)),
        rotation_y=with_area(rotation_y, -10),
        scores=np.full(count + 1, np.nan),
    )


def perfect_batch(records: Sequence[Mapping[str, Any]]) -> Batch:
    """The annotations of records as detections with distinct scores."""
    total = sum(len(record["annotations"]) for record in records)
    scores = iter(torch.linspace(1, 0.5, max(total, 1), dtype=torch.float64).tolist())
    return [(record, perfect_instances(record, scores)) for record in records]


def perfect_instances(record: Mapping[str, Any], scores: Any) -> Instances:
    annotations = record["annotations"]

    def numbers(name: str, *shape: int) -> torch.Tensor:
        values = [each[name] for each in annotations]
        return torch.tensor(values, dtype=torch.float64).reshape(-1, *shape)

    instances = Instances((record["height"], record["width"]))
    instances.pred_boxes = Boxes(numbers("bbox", 4))
    instances.pred_classes = numbers("category_id").long()
    instances.scores = torch.tensor([next(scores) for _ in annotations], dtype=torch.float64)
    instances.pred_center_cam = numbers("center", 3)
    instances.pred_dimensions = numbers("dimensions", 3)
    instances.pred_R = numbers("rotation", 3, 3)
    instances.pred_rotation_y = numbers("rotation_y")
    instances.pred_alpha = numbers("alpha")
    return instances


def noisy(batch: Batch, seed: int = 0) -> Batch:
    """Detections that are a little off, with others far off, and shuffled scores."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for record, instances in batch:
        both = Instances.cat([instances, instances]) if len(instances) else instances
        count = len(both)

        def noise(*shape: int, count: int = count) -> torch.Tensor:
            return torch.randn(count, *shape, generator=generator, dtype=torch.float64)

        amount = 0.04 + 0.4 * (torch.arange(count) >= count // 2).double()
        both.pred_center_cam = both.pred_center_cam + amount[:, None] * noise(3)
        both.pred_boxes = Boxes(both.pred_boxes.tensor + 20 * amount[:, None] * noise(4))
        both.pred_rotation_y = both.pred_rotation_y + amount * noise()
        both.pred_R = rotation_from_yaw(both.pred_rotation_y)
        both.pred_alpha = alpha_from_rotation_y(both.pred_rotation_y, both.pred_center_cam)
        both.scores = torch.rand(count, generator=generator, dtype=torch.float64)
        result.append((record, both))
    return result


def run(evaluator: Any, batch: Batch) -> dict[str, dict[str, float]]:
    evaluator.reset()
    for record, instances in batch:
        evaluator.process([{"image_id": record["image_id"]}], [{"instances": instances}])
    return evaluator.evaluate()
