"""The DETR mapper: which list of augmentations, what becomes of boxes, masks and bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from roca_nocs.data.detr_mapper import DetrDatasetMapper


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """40x30 pixels with an object at the left, one at the right and a crowd."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    boxes = [[2.0, 5.0, 8.0, 10.0], [30.0, 5.0, 20.0, 10.0], [0.0, 0.0, 40.0, 30.0]]
    return {
        "file_name": str(tmp_path / "image.png"),
        "image_id": 7,
        "height": 30,
        "width": 40,
        "annotations": [
            {
                "bbox": box,
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": number,
                "iscrowd": int(number == 2),
                "segmentation": [[*box[:2], box[0] + 8, box[1], box[0] + 8, box[1] + 10]],
            }
            for number, box in enumerate(boxes)
        ],
    }


def test_boxes_are_clipped_and_crowds_left_out(record: dict[str, Any]) -> None:
    found = DetrDatasetMapper([], None)(record)
    boxes = found["instances"].gt_boxes.tensor.tolist()
    assert boxes == [[2, 5, 10, 15], [30, 5, 40, 15]]
    assert found["instances"].gt_classes.tolist() == [0, 1]
    assert "annotations" not in found and len(record["annotations"]) == 3


def test_cropped_half_of_the_time(record: dict[str, Any]) -> None:
    """One draw decides before any other; a crop may leave no object."""
    mapper = DetrDatasetMapper([], [T.CropTransform(12, 0, 10, 30)])
    for seed in range(6):
        np.random.seed(seed)
        found = mapper(record)
        cropped = found["image"].shape == (3, 30, 10)
        assert len(found["instances"]) == (0 if cropped else 2)
        after = np.random.rand()
        np.random.seed(seed)
        assert cropped == (np.random.rand() <= 0.5)
        assert np.random.rand() == after


def test_without_crop_list_nothing_is_drawn(record: dict[str, Any]) -> None:
    np.random.seed(0)
    DetrDatasetMapper([], None)(record)
    after = np.random.rand()
    np.random.seed(0)
    assert np.random.rand() == after


def test_masks_and_format(record: dict[str, Any]) -> None:
    rgb = DetrDatasetMapper([T.HFlipTransform(40)], None, mask_on=True)(record)
    assert len(rgb["instances"].gt_masks) == 2
    bgr = DetrDatasetMapper([T.HFlipTransform(40)], None, img_format="BGR")(record)
    assert not bgr["instances"].has("gt_masks")
    assert (rgb["image"].flip(0) == bgr["image"]).all()


def test_evaluation_has_no_targets(record: dict[str, Any]) -> None:
    found = DetrDatasetMapper([], None, is_train=False)(record)
    assert set(found) == {"file_name", "image_id", "height", "width", "image"}


def test_bad_files_are_named(record: dict[str, Any]) -> None:
    record["width"] = 41
    with pytest.raises(ValueError, match=r"image_id=7, file .*image\.png"):
        DetrDatasetMapper([], None)(record)
