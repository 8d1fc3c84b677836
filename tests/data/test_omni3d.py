"""Omni3D's annotation files and the records made of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.builtin import builtin_datasets
from roca_nocs.data.datasets.kitti import yaw_rotation
from roca_nocs.data.datasets.omni3d import ALL_CLASSES, INDOOR, OUTDOOR, load_omni3d

K = [[500.0, 0.0, 60.0], [0.0, 500.0, 20.0], [0.0, 0.0, 1.0]]


def annotation(identifier: int, **changed: Any) -> dict[str, Any]:
    """A car that counts in training and evaluation."""
    entry = {
        "id": identifier,
        "image_id": 5,
        "category_id": 12,
        "category_name": "car",
        "dataset_id": 3,
        "valid3D": True,
        "bbox2D_tight": [11, 10, 29, 20],
        "bbox2D_proj": [-8.0, 9.0, 30.0, 21.0],
        "bbox2D_trunc": [0.0, 9.0, 30.0, 21.0],
        "bbox3D_cam": np.zeros((8, 3)).tolist(),
        "center_cam": [1.0, 0.5, 10.0],
        "dimensions": [1.6, 1.5, 4.0],
        "R_cam": yaw_rotation(0.3).tolist(),
        "behind_camera": False,
        "visibility": 0.9,
        "truncation": 0.1,
        "segmentation_pts": -1,
        "lidar_pts": -1,
        "depth_error": -1,
    }
    return entry | changed


def image(identifier: int = 5, **changed: Any) -> dict[str, Any]:
    entry = {
        "id": identifier,
        "dataset_id": 3,
        "width": 120,
        "height": 40,
        "file_path": f"drives/a/{identifier}.png",
        "K": K,
        "src_90_rotate": 0,
        "src_flagged": False,
    }
    return entry | changed


def content(*annotations: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """A file with two images; category ids are neither contiguous nor in order."""
    return {
        "info": {"id": 3, "name": "small_train"},
        "images": [image(5), image(8)],
        "categories": [
            {"id": 12, "name": "car", "supercategory": "vehicle"},
            {"id": 40, "name": "dontcare", "supercategory": "none"},
            {"id": 7, "name": "pedestrian", "supercategory": "person"},
            {"id": 21, "name": "tram", "supercategory": "vehicle"},
        ],
        "annotations": list(annotations),
    } | changed


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Write a file with its images and load it."""
    (tmp_path / "drives/a").mkdir(parents=True)
    for identifier in (5, 8):
        Image.new("RGB", (120, 40)).save(tmp_path / f"drives/a/{identifier}.png")

    def write_and_load(data: Any, **options: Any) -> list[dict[str, Any]]:
        path = tmp_path / "small_train.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return load_omni3d(path, tmp_path, **{"is_train": True, **options})

    return write_and_load


def test_record_field_by_field(load: Callable, tmp_path: Path) -> None:
    first, second = load(content(annotation(1), annotation(2, category_id=7, visibility=0.6)))
    assert (first["layout"], first["image_id"], first["dataset_id"]) == ("omni3d", 5, 3)
    assert first["file_name"] == str(tmp_path / "drives/a/5.png")
    assert (first["height"], first["width"], first["scene_id"]) == (40, 120, "drives/a")
    np.testing.assert_array_equal(first["intrinsics"], K)
    np.testing.assert_array_equal(first["projection"], np.column_stack([K, np.zeros(3)]))
    car, pedestrian = first["annotations"]
    # Ids by ascending id of the file, without dontcare: pedestrian 7, car 12, tram 21.
    assert (car["category_id"], pedestrian["category_id"]) == (1, 0)
    assert first["known_classes"] == [0, 1, 2]
    assert car["bbox"] == [0.0, 9.0, 30.0, 21.0]  # within the image
    assert car["center"] == [1.0, 0.5, 10.0] and car["dimensions"] == [1.6, 1.5, 4.0]
    np.testing.assert_allclose(car["rotation"], yaw_rotation(0.3))
    assert car["rotation_y"] == pytest.approx(0.3)
    assert car["alpha"] == pytest.approx(0.3 - np.arctan2(1.0, 10.0))
    assert (car["has3d"], car["annotation_id"], car["truncation"]) == (True, 1, 0.1)
    assert (car["occlusion"], pedestrian["occlusion"]) == (0, 1)
    assert second["annotations"] == second["ignored"] == second["ignore_boxes"] == []


def test_classes_are_mapped_by_name(load: Callable) -> None:
    first, _ = load(
        content(annotation(1), annotation(2, category_id=7)), classes=("bus", "car", "chair")
    )
    assert [each["category_id"] for each in first["annotations"]] == [1]
    assert first["known_classes"] == [1]  # buses and chairs may be there without an annotation


def test_ids_of_the_file_become_those_of_the_metadata(load: Callable) -> None:
    options = {"classes": ("bus", "car", "pedestrian"), "dataset_name": "small_omni3d"}
    try:
        load(content(), **options)
        load(content(), **options)  # read again
        metadata = MetadataCatalog.get("small_omni3d")
        # The file has no bus, and its tram is no class here.
        assert metadata.thing_dataset_id_to_contiguous_id == {12: 1, 7: 2}
    finally:
        MetadataCatalog.pop("small_omni3d")


@pytest.mark.parametrize("prefix", ["omni3d", "omni3d_all"])
@pytest.mark.parametrize(("split", "counts"), [("train", 1), ("val", 1), ("test", 0)])
def test_only_the_test_split_is_read_by_the_rules_of_evaluation(
    load: Callable, tmp_path: Path, prefix: str, split: str, counts: int
) -> None:
    load(content())  # makes the images
    (tmp_path / "Omni3D").mkdir()
    half_hidden = content(annotation(1, visibility=0.3))
    (tmp_path / f"Omni3D/KITTI_{split}.json").write_text(json.dumps(half_hidden))
    (dataset,) = (each for each in builtin_datasets() if each.name == f"{prefix}_kitti_{split}")
    assert len(dataset.classes) == {"omni3d": 11, "omni3d_all": 50}[prefix]
    try:
        first, _ = dataset.load(tmp_path / "Omni3D")
        metadata = MetadataCatalog.get(dataset.name)
        assert metadata.thing_dataset_id_to_contiguous_id == {7: 0, 12: 1}
    finally:
        # As it was registered, without the ids of this file.
        registered = metadata.as_dict()
        del registered["name"], registered["thing_dataset_id_to_contiguous_id"]
        MetadataCatalog.pop(dataset.name)
        MetadataCatalog.get(dataset.name).set(**registered)
    assert (len(first["annotations"]), len(first["ignored"])) == (counts, 1 - counts)
    assert first["known_classes"] == [0, 1]  # whatever else the class list has


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ((), [0, 9, 30, 21]),
        (("bbox2D_trunc",), [-8, 9, 30, 21]),
        (("bbox2D_trunc", "bbox2D_proj"), [11, 10, 29, 20]),
        (("bbox2D_trunc", "bbox2D_proj", "bbox2D_tight"), None),
    ],
)
def test_order_of_the_2d_boxes(load: Callable, missing: tuple, expected: list | None) -> None:
    first, _ = load(content(annotation(1, **{field: [-1] * 4 for field in missing})))
    assert [each["bbox"] for each in first["annotations"]] == ([expected] if expected else [])


def test_box_that_reaches_beyond_the_image(load: Callable) -> None:
    entry = annotation(1)
    first, _ = load(content(entry), truncated_boxes=False)
    assert first["annotations"][0]["bbox"] == [-8, 9, 30, 21]
    del entry["bbox2D_trunc"]  # a file may lack the field
    first, _ = load(content(entry))
    assert first["annotations"][0]["bbox"] == [-8, 9, 30, 21]


HARD: dict[str, tuple[dict[str, Any], bool, bool]] = {
    # what, ignored in training, ignored in evaluation
    "truncated": ({"truncation": 0.5}, False, True),
    "truncated most": ({"truncation": 0.75}, True, True),
    "truncation unknown": ({"truncation": -1}, False, False),
    "a third outside": ({"truncation": 1 / 3}, False, True),
    "hidden": ({"visibility": 0.3}, False, True),
    "hidden most": ({"visibility": 0.25}, True, True),
    "visibility unknown": ({"visibility": -1}, False, False),
    "low": ({"bbox2D_trunc": [0, 9, 30, 11.2]}, False, True),
    "lowest": ({"bbox2D_trunc": [0, 9, 30, 11]}, True, True),
    "huge": ({"bbox2D_trunc": [0, 0, 30, 60]}, True, True),
    "no lidar points": ({"lidar_pts": 0}, True, True),
    "no pixels": ({"segmentation_pts": 0}, True, True),
    "wrong depth": ({"depth_error": 0.6}, True, True),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("is_train", [True, False])
def test_what_is_too_hard(load: Callable, name: str, is_train: bool) -> None:
    changed, *ignored = HARD[name]
    first, _ = load(content(annotation(1, **changed)), is_train=is_train)
    expected = ignored[0 if is_train else 1]
    assert (len(first["annotations"]), len(first["ignored"])) == ((0, 1) if expected else (1, 0))
    assert len(first["ignore_boxes"]) == len(first["ignored"])


@pytest.mark.parametrize(
    "changed",
    [
        {"valid3D": False},
        {"behind_camera": True},
        {"dimensions": [0.0, 1.0, 1.0]},
        {"center_cam": [0.0, 0.0, -2.0]},
    ],
)
def test_without_3d_box_the_2d_box_stays_in_training(load: Callable, changed: dict) -> None:
    first, _ = load(content(annotation(1, **changed, R_cam=[[-1] * 3] * 3)))
    (kept,) = first["annotations"]
    assert kept["has3d"] is False and kept["bbox"] == [0.0, 9.0, 30.0, 21.0]
    first, _ = load(content(annotation(1, **changed)), is_train=False)
    assert first["annotations"] == [] and first["ignored"][0]["has3d"] is False


def test_dontcare_is_ignored_and_other_categories_are_not_there(load: Callable) -> None:
    entries = [annotation(1, category_id=40), annotation(2, category_id=21)]
    first, _ = load(content(*entries), classes=("car",))
    assert first["annotations"] == first["ignored"] == []
    assert first["ignore_boxes"] == [[0.0, 9.0, 30.0, 21.0]]


def test_merged_files_have_lists_of_infos(load: Callable) -> None:
    assert len(load(content(annotation(1), info=[{"id": 3}, {"id": 4}]))) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[]", "holds a list, expected an object"),
        (content(images=[image(5), image(5)]), "the image id 5 occurs twice"),
        (content(images=[image(5, K=[[1, 2], [3, 4]])]), "image 5: 'K' has the wrong length"),
        (content(images=[image(5, K=np.zeros((3, 3)).tolist())]), "no positive focal lengths"),
        (content(images=[image(9)]), r"drives/a/9\.png does not exist"),
        (content(annotation(4, image_id=6)), "annotation 4: 'image_id' is 6"),
        (content(annotation(4, category_id=6)), "annotation 4: 'category_id' is 6"),
        (content(annotation(4, dimensions=[1.0, 2.0])), "annotation 4: 'dimensions'"),
        (content(annotation(4, center_cam=[1, None, 3])), "annotation 4: 'center_cam'"),
        (content(annotation(4, R_cam=np.ones((3, 3)).tolist())), "annotation 4: 'R_cam' is no"),
        (
            content(annotation(4, bbox2D_trunc=[5, 5, 1, 9])),
            "annotation 4: 'bbox2D_trunc'.*negative",
        ),
        (content(annotation(4, truncation="x")), "annotation 4: 'truncation'"),
    ],
)
def test_bad_input_is_named(load: Callable, data: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as error:
        load(data)
    assert "small_train.json" in str(error.value)


def test_missing_field_is_named(load: Callable) -> None:
    entry = annotation(4)
    del entry["visibility"]
    with pytest.raises(DatasetError, match="annotation 4: the field 'visibility' is missing"):
        load(content(entry))


def test_class_lists_of_the_published_splits() -> None:
    assert (len(OUTDOOR), len(INDOOR), len(ALL_CLASSES)) == (11, 38, 50)
    assert len(set(ALL_CLASSES)) == 50
    # Sorted by id, as the outputs of the published models are.
    for names in (OUTDOOR, INDOOR):
        assert [ALL_CLASSES.index(name) for name in names] == sorted(
            ALL_CLASSES.index(name) for name in names
        )
    assert (OUTDOOR[0], OUTDOOR[-1], INDOOR[:3]) == (
        *("pedestrian", "trailer"),
        ("bicycle", "books", "bottle"),
    )
