"""SceneMapper against the same work done with detectron2's pieces, at 480x360 with colour jitter.

The baseline reads the same three files, runs detectron2's RandomContrast, RandomBrightness and
RandomSaturation through AugInput, moves the maps by ``apply_segmentation``, makes one mask per
object by comparison and boxes by ``BitMasks.get_bounding_boxes``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances
from timing import compare

from roca_nocs.data.mappers import SceneMapper
from roca_nocs.data.transforms import ColorJitter

HEIGHT, WIDTH, OBJECTS = 360, 480, 6
RANGE = (0.8, 1.2)


def write_record(folder: Path) -> dict:
    """A record with smooth colours, rectangles as objects and a tilted depth plane."""
    generator = np.random.default_rng(0)
    color = cv2.resize(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8), (WIDTH, HEIGHT))
    noise = generator.normal(0, 3, color.shape)
    color = np.clip(color + noise, 0, 255).astype(np.uint8)
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number in range(1, OBJECTS + 1):
        y, x = generator.integers(0, HEIGHT - 90), generator.integers(0, WIDTH - 120)
        ids[y : y + 90, x : x + 120] = number
    depth = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) * 4 + 1000
    names = {key: str(folder / f"{key}.png") for key in ("instance", "depth")}
    names["color"] = str(folder / "color.jpg")
    cv2.imwrite(names["color"], color, [cv2.IMWRITE_JPEG_QUALITY, 90])
    cv2.imwrite(names["instance"], ids)
    cv2.imwrite(names["depth"], depth.astype(np.uint16))
    return {
        "layout": "scan2cad",
        "file_name": names["color"],
        "height": HEIGHT,
        "width": WIDTH,
        "image_id": 0,
        "intrinsics": np.array([[433.2, 0, 239.6], [0, 434.1, 182.2], [0, 0, 1]]),
        "instance_file_name": names["instance"],
        "depth_file_name": names["depth"],
        "annotations": [
            {"category_id": 0, "alignment_id": number} for number in range(1, OBJECTS + 1)
        ],
    }


def with_detectron2(record: dict, augmentations: T.AugmentationList) -> dict:
    image = detection_utils.read_image(record["file_name"], format="RGB")
    ids = cv2.imread(record["instance_file_name"], cv2.IMREAD_UNCHANGED)
    depth = cv2.imread(record["depth_file_name"], cv2.IMREAD_UNCHANGED)
    aug_input = T.AugInput(image)
    transforms = augmentations(aug_input)
    ids = transforms.apply_segmentation(ids)
    depth = transforms.apply_segmentation(depth.astype(np.float32) / 1000)
    numbers = [annotation["alignment_id"] for annotation in record["annotations"]]
    masks = BitMasks(torch.from_numpy(np.stack([ids == number for number in numbers])))
    instances = Instances(ids.shape, gt_masks=masks, gt_boxes=masks.get_bounding_boxes())
    return {
        "image": torch.from_numpy(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1))),
        "depth": torch.from_numpy(depth),
        "instances": instances,
    }


def main() -> None:
    chain = T.AugmentationList(
        [T.RandomContrast(*RANGE), T.RandomBrightness(*RANGE), T.RandomSaturation(*RANGE)]
    )
    jitter = ColorJitter(RANGE, RANGE, RANGE)
    mapper = SceneMapper(True, augmentations=[jitter], maps=("depth",))
    with tempfile.TemporaryDirectory() as folder:
        record = write_record(Path(folder))
        image = detection_utils.read_image(record["file_name"], format="RGB")

        def apply(augmentation: Callable[[T.AugInput], object]) -> None:
            augmentation(T.AugInput(image))

        compare(
            f"colour jitter {WIDTH}x{HEIGHT}, vs detectron2's three augmentations",
            lambda: apply(chain),
            lambda: apply(jitter),
        )
        compare(
            f"mapper {WIDTH}x{HEIGHT} with colour jitter, vs detectron2's pieces",
            lambda: with_detectron2(record, chain),
            lambda: mapper(record),
        )


if __name__ == "__main__":
    main()
