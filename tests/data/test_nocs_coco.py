"""The part of COCO that NOCS trains with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.builtin import builtin_datasets, load_builtin
from roca_nocs.data.datasets.nocs import CLASSES
from roca_nocs.data.datasets.nocs_coco import load_nocs_coco

NAMES = ["person", "bottle", "wine glass", "cup", "bowl", "laptop"]
SQUARE = [[1, 1, 9, 1, 9, 9, 1, 9]]


def write(root: Path, objects: list[tuple[int, str, int]], names: list[str] = NAMES) -> None:
    """Images 1-4, and objects (image, category, crowd)."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "val2017").mkdir(exist_ok=True)
    images = [{"id": i, "file_name": f"{i}.png", "height": 12, "width": 16} for i in range(1, 5)]
    for image in images:
        Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(root / "val2017" / image["file_name"])
    annotations: list[dict[str, Any]] = [
        {
            "id": number,
            "image_id": image,
            "category_id": 10 * NAMES.index(name) + 5,
            "bbox": [1, 1, 8, 8],
            "area": 64,
            "iscrowd": crowd,
            "segmentation": SQUARE,
        }
        for number, (image, name, crowd) in enumerate(objects, start=1)
    ]
    categories = [{"id": 10 * NAMES.index(name) + 5, "name": name} for name in names]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations/instances_val2017.json").write_text(json.dumps(data))


def test_classes_crowds_and_other_images(tmp_path: Path) -> None:
    objects = [
        (1, "person", 0),
        (2, "cup", 0),
        (2, "person", 0),
        (2, "laptop", 0),
        (3, "bottle", 1),
        (4, "bowl", 0),
        (4, "bottle", 0),
        (4, "wine glass", 0),
    ]
    write(tmp_path / "coco", objects)
    dataset = next(d for d in builtin_datasets() if d.name == "nocs_coco_val")
    records = load_builtin(dataset, tmp_path)
    found = {
        record["image_id"]: [CLASSES[a["category_id"]] for a in record["annotations"]]
        for record in records
    }
    assert found == {2: ["mug", "laptop"], 4: ["bowl", "bottle"]}
    for record in records:
        assert Path(record["file_name"]).is_file()
        assert "intrinsics" not in record and "nocs_file_name" not in record


def test_missing_category_is_named(tmp_path: Path) -> None:
    write(tmp_path, [(1, "person", 0)], names=["person", "bottle", "laptop"])
    with pytest.raises(
        DatasetError, match=r"instances_val2017\.json: there are no categories bowl"
    ):
        load_nocs_coco(tmp_path, "val")
