"""NocsMapper: coordinates, depth and images without them; its augmentations; mixtures; sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from data.scene_record import write_record
from roca_nocs.data import class_sizes
from roca_nocs.data.class_sizes import mean_sizes
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.mixtures import mixed_records, repeat_factors
from roca_nocs.data.nocs_mapper import NocsMapper
from roca_nocs.data.transforms import RandomCameraRoll, RandomGamma, RandomRollCrop, SceneInput
from roca_nocs.geometry.camera import back_project


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    return write_record(tmp_path)


def coco_record(folder: Path) -> dict[str, Any]:
    """An image without a camera: a square, a triangle and a crowd."""
    image = np.full((40, 60, 3), 90, np.uint8)
    cv2.imwrite(str(folder / "coco.jpg"), image)
    square = [[10, 10, 30, 10, 30, 30, 10, 30]]
    triangle = [[40, 5, 55, 5, 55, 35]]
    common = {"bbox_mode": BoxMode.XYWH_ABS, "iscrowd": 0}
    return {
        "file_name": str(folder / "coco.jpg"),
        "height": 40,
        "width": 60,
        "image_id": 7,
        "annotations": [
            {**common, "bbox": [10, 10, 20, 20], "category_id": 1, "segmentation": square},
            {**common, "bbox": [40, 5, 15, 30], "category_id": 5, "segmentation": triangle},
            {**common, "bbox": [0, 0, 60, 40], "category_id": 0, "segmentation": square}
            | {"iscrowd": 1},
        ],
    }


def test_training_and_inference(record: dict[str, Any]) -> None:
    mapped = NocsMapper(True, augmentations=[])(record)
    assert "depth" not in mapped and mapped["nocs"].shape == (3, *mapped["image"].shape[1:])
    assert mapped["nocs"].abs().max() <= 0.5
    assert not mapped["nocs"][:, mapped["instance"] == 0].any()
    assert "gt_rotations" not in mapped["instances"].get_fields()

    mapped = NocsMapper(True, augmentations=[], depth=True)(record)
    inferred = NocsMapper(False, augmentations=[], depth=True)(record)
    assert torch.equal(mapped["depth"], inferred["depth"])
    assert not {"instances", "instance", "nocs"} & set(inferred)
    assert "depth" not in NocsMapper(False, augmentations=[])(record)


def test_maps_that_a_record_lacks(record: dict[str, Any]) -> None:
    for name in ("nocs", "depth"):
        del record[f"{name}_file_name"]
    mapped = NocsMapper(True, augmentations=[], depth=True)(record)
    assert len(mapped["instances"]) == 2 and not {"nocs", "depth"} & set(mapped)
    assert "depth" not in NocsMapper(False, augmentations=[], depth=True)(record)


def test_depth_follows_the_augmentations(record: dict[str, Any]) -> None:
    mapper = NocsMapper(False, augmentations=[T.Resize((60, 90))], depth=True)
    mapped = mapper(record)
    assert mapped["depth"].shape == (60, 90) and mapped["image"].shape == (3, 60, 90)


def test_images_without_a_camera(tmp_path: Path) -> None:
    record = coco_record(tmp_path)
    mapped = NocsMapper(True, augmentations=[])(record)
    instances = mapped["instances"]
    assert instances.gt_classes.tolist() == [1, 5]
    expected = torch.tensor([[10.0, 10, 30, 30], [40, 5, 55, 35]])
    torch.testing.assert_close(instances.gt_boxes.tensor, expected, atol=1, rtol=0)
    assert instances.gt_masks.tensor.flatten(1).sum(dim=1).tolist() == pytest.approx(
        [400, 225], 0.1
    )
    assert not {"nocs", "depth", "intrinsics"} & set(mapped)
    assert mapped["image_id"] == 7 and "annotations" in record
    assert "instances" not in NocsMapper(False, augmentations=[])(record)

    np.random.seed(0)
    rolled = NocsMapper(True, augmentations=[RandomRollCrop(20.0)])(record)["instances"]
    boxes = rolled.gt_masks.get_bounding_boxes().tensor
    assert torch.equal(rolled.gt_boxes.tensor, boxes)
    assert (boxes[0] - instances.gt_boxes.tensor[0]).abs().max() > 1

    code = mask_util.encode(np.asfortranarray(instances.gt_masks.tensor[0].numpy(), np.uint8))
    record["annotations"][0]["segmentation"] = code
    encoded = NocsMapper(True, augmentations=[])(record)["instances"]
    assert torch.equal(encoded.gt_masks.tensor, instances.gt_masks.tensor)

    record["annotations"] = []
    empty = NocsMapper(True, augmentations=[])(record)["instances"]
    assert len(empty) == 0 and empty.gt_masks.tensor.shape == (0, 40, 60)


def test_a_damaged_annotation_names_its_record(tmp_path: Path) -> None:
    record = coco_record(tmp_path)
    del record["annotations"][0]["segmentation"]
    with pytest.raises(ValueError, match=r"record image_id=7, file .*coco\.jpg: .*segmentation"):
        NocsMapper(True, augmentations=[])(record)


@pytest.mark.parametrize("flip", [T.RandomFlip(), T.RandomApply(T.RandomFlip(), 0.5)])
def test_flips_are_refused(flip: T.Augmentation) -> None:
    with pytest.raises(ValueError, match="RandomFlip mirrors the image"):
        NocsMapper(True, augmentations=[flip])


def plane() -> SceneInput:
    """A plane with depth in an image without black pixels, seen by a camera off the centre."""
    height, width = 60, 80
    intrinsics = torch.tensor([[90.0, 0, 41.5], [0, 90, 28.5], [0, 0, 1]], dtype=torch.float64)
    rays = back_project(torch.ones(height, width, dtype=torch.float64), intrinsics)
    depth = 2 / (rays @ torch.tensor([0.2, -0.3, 0.9], dtype=torch.float64))
    image = np.full((height, width, 3), 200, np.uint8)
    return SceneInput(image, intrinsics, {"depth": depth.numpy()}, chiral=True)


@pytest.mark.parametrize("seed", range(4))
def test_roll_and_crop(seed: int) -> None:
    np.random.seed(seed)
    scene = plane()
    T.AugmentationList([RandomRollCrop(max_degrees=5.0)])(scene)
    assert scene.image.shape == (60, 80, 3)
    assert scene.image[1:-1, 1:-1].min() > 190  # nothing from outside
    normal = scene.camera_rotation @ torch.tensor([0.2, -0.3, 0.9], dtype=torch.float64)
    points = back_project(torch.from_numpy(scene.maps["depth"]), scene.intrinsics)
    # Nearest samples are half a pixel off, before and after resizing.
    assert (points @ normal - 2).abs().max() < 0.03


@pytest.mark.parametrize(("width", "height"), [(200, 40), (40, 200)])
def test_large_rolls_of_narrow_images(width: int, height: int) -> None:
    np.random.seed(4)
    scene = plane()
    scene.image = np.full((height, width, 3), 200, np.uint8)
    scene.maps = {}
    scene.intrinsics[0, 2], scene.intrinsics[1, 2] = (width - 1) / 2, (height - 1) / 2
    T.AugmentationList([RandomRollCrop(max_degrees=40.0)])(scene)
    assert abs(np.arcsin(float(scene.camera_rotation[1, 0]))) > 0.2
    assert scene.image.shape == (height, width, 3)
    assert np.mean(scene.image > 190) > 0.97


def test_gamma() -> None:
    np.random.seed(0)
    image = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)
    transform = RandomGamma((0.8, 0.8), (0.9, 0.9)).get_transform(image)
    changed = transform.apply_image(image)
    expected = 255 * 0.9 * (np.arange(256) / 255) ** 0.8
    assert changed.dtype == np.uint8
    np.testing.assert_allclose(changed[:, 0, 1], expected, atol=0.5)
    drawn = [RandomGamma().get_transform(image).apply_image(image)[-1, 0, 0] for _ in range(20)]
    assert 204 <= min(drawn) < 215 < max(drawn) <= 255


@pytest.fixture
def mixture() -> Any:
    names = {"mixture_many": 8, "mixture_few": 2}
    annotations = [{"s": [0.5] * 3, "extents": [0.6, 0.8, 0.0], "category_id": 1, "iscrowd": 0}]
    for name, count in names.items():
        records = [{"image_id": k, "annotations": annotations} for k in range(count)]
        DatasetCatalog.register(name, lambda records=records: records)
        MetadataCatalog.get(name).set(thing_classes=["cup", "jar"])
    yield [*names]
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_shares_of_a_mixture(mixture: list[str]) -> None:
    records = mixed_records(mixture, [1, 3])
    factors = torch.tensor(repeat_factors(records))
    assert len(records) == 10
    torch.testing.assert_close(factors.sum(), torch.tensor(10.0))
    torch.testing.assert_close(factors[8:].sum() / factors.sum(), torch.tensor(0.75))
    with pytest.raises(ValueError, match="2 datasets need as many positive shares"):
        mixed_records(mixture, [1])
    with pytest.raises(ValueError, match=r"positive shares, got \[1, 0\]"):
        mixed_records(mixture, [1, 0])


def test_mean_sizes(mixture: list[str]) -> None:
    with pytest.raises(DatasetError, match="no object of cup has a pose or a metric model"):
        mean_sizes(mixture)
    DatasetCatalog.get(mixture[1])[0]["annotations"] = [
        {"s": [2.0] * 3, "extents": [0.5, 0.5, 0.5], "category_id": 0, "iscrowd": 0}
    ]
    sizes = mean_sizes(mixture)
    torch.testing.assert_close(sizes, torch.tensor([[1.0, 1, 1], [0.3, 0.4, 0]]))


@pytest.mark.parametrize("dataset", ["tabletop_tiny_real_test", "tabletop_tiny_real_train"])
def test_mean_sizes_of_models(
    embedded_names: Any, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    """Without poses, as REAL's training images are published, those of the metric models."""
    hidden: tuple[str, ...] = ()
    # The tiny data do not show all classes.
    others = [{"category_id": row, "s": [1.0] * 3, "extents": [0.1, 0.2, 0.3]} for row in range(6)]

    def records(name: str, filter_empty: bool) -> list[dict[str, Any]]:
        annotations = [each for r in DatasetCatalog.get(name) for each in r["annotations"]]
        shown = [{k: v for k, v in each.items() if k not in hidden} for each in annotations]
        return [{"annotations": shown}, {"annotations": others}]

    monkeypatch.setattr(class_sizes, "get_detection_dataset_dicts", records)
    expected = mean_sizes(dataset)
    hidden = ("q", "t", "s")
    torch.testing.assert_close(mean_sizes(dataset), expected, rtol=1e-4, atol=1e-5)
    others.clear()
    with pytest.raises(DatasetError, match="has a pose or a metric model"):
        mean_sizes("tabletop_tiny_val")  # CAMERA's models have a diagonal of 1
    with pytest.raises(DatasetError, match="tabletop_tiny_val and rooms_tiny_val have different"):
        mean_sizes(["tabletop_tiny_val", "rooms_tiny_val"])


def test_rolls_without_crop_keep_the_size() -> None:
    scene = plane()
    T.AugmentationList([RandomCameraRoll(10.0)])(scene)
    assert scene.image.shape == (60, 80, 3) and scene.image.min() == 0
