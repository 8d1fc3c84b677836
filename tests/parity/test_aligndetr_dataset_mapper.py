"""The mapper against that of detrex, under numpy's seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from roca_nocs.data.detr_mapper import DetrDatasetMapper


@pytest.fixture
def golden(golden_dir: Path) -> dict[str, np.ndarray]:
    return np.load(golden_dir / "aligndetr" / "dataset_mapper.npz")


@pytest.fixture
def record(golden: dict[str, np.ndarray], tmp_path: Path) -> dict[str, Any]:
    image = golden["image_small_rgb"]
    file = tmp_path / "image.png"
    Image.fromarray(image).save(file)
    columns = (golden[f"ann_{name}"].tolist() for name in ("bbox_xywh", "category", "iscrowd"))
    return {
        "file_name": str(file),
        "height": image.shape[0],
        "width": image.shape[1],
        "image_id": 1,
        "annotations": [
            {
                "bbox": box,
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": category,
                "iscrowd": crowd,
                "segmentation": [[0.0, 0.0, 1.0, 0.0, 1.0, 1.0]],
            }
            for box, category, crowd in zip(*columns, strict=True)
        ],
    }


def resize(lengths: np.ndarray, **options: Any) -> T.ResizeShortestEdge:
    return T.ResizeShortestEdge(tuple(lengths.tolist()), sample_style="choice", **options)


def test_training(golden: dict[str, np.ndarray], record: dict[str, Any]) -> None:
    last = resize(golden["short_edges"], max_size=int(golden["max_size"]))
    mapper = DetrDatasetMapper(
        augmentation=[T.RandomFlip(), last],
        augmentation_with_crop=[
            T.RandomFlip(),
            resize(golden["short_edges_before_crop"]),
            T.RandomCrop("absolute_range", tuple(golden["crop_range"].tolist())),
            last,
        ],
    )
    for number, seed in enumerate(golden["np_random_seeds"].tolist()):
        np.random.seed(seed)
        found = mapper(record)
        prefix = f"s{seed}_"
        image, instances = found["image"], found["instances"]
        assert tuple(image.shape) == tuple(golden["out_shapes"][number])
        assert instances.image_size == tuple(image.shape[1:])
        assert instances.gt_classes.tolist() == golden[prefix + "classes"].tolist()
        np.testing.assert_allclose(
            instances.gt_boxes.tensor, golden[prefix + "boxes_xyxy"], atol=1e-3
        )
        expected = torch.from_numpy(golden[prefix + "image_stride8"])
        difference = image[:, ::8, ::8].int() - expected.int()
        assert difference.abs().max() <= 1
        mean = image.float().mean(dim=(1, 2))
        np.testing.assert_allclose(mean, golden[prefix + "image_channel_mean"], atol=0.1)
        assert not instances.has("gt_masks")
    assert any(golden[f"s{seed}_crop_branch"] for seed in golden["np_random_seeds"])


def test_evaluation(golden: dict[str, np.ndarray], record: dict[str, Any]) -> None:
    mapper = DetrDatasetMapper(
        augmentation=[
            T.ResizeShortestEdge(int(golden["test_short_edge"]), int(golden["test_max_size"]))
        ],
        augmentation_with_crop=None,
        is_train=False,
    )
    found = mapper(record)
    assert sorted(found) == golden["test_keys"].tolist()
    difference = found["image"].int() - torch.from_numpy(golden["test_image"]).int()
    assert difference.abs().max() <= 1
