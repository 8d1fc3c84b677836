"""Every mistake in a COCO-format file gives one error that names file, record and field."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st

from roca_nocs.data.coco_json import (
    DatasetError,
    check_files,
    get_numbers,
    parse_coco,
    read_coco,
    read_json,
)
from roca_nocs.data.datasets import load_coco_format, register_coco_format

SQUARE = [[2, 2, 8, 2, 8, 8, 2, 8]]
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "b.jpg", "height": 24, "width": 32},
        {"id": 3, "file_name": "sub/a.jpg", "height": 24, "width": 32},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 20,
            "bbox": [2, 2, 6, 6],
            "segmentation": SQUARE,
            "iscrowd": 0,
            "note": "kept on request",
        },
        {"id": 2, "image_id": 7, "category_id": 10, "bbox": [0.5, 1, 3, 4.25]},
    ],
    "categories": [{"id": 20, "name": "lamp"}, {"id": 10, "name": "shelf"}],
}


def annotation(field: str, value: Any) -> Callable[[dict], None]:
    return lambda data: data["annotations"][1].__setitem__(field, value)


def image(field: str, value: Any) -> Callable[[dict], None]:
    return lambda data: data["images"][1].__setitem__(field, value)


MISTAKES = {
    "NaN in a box": (annotation("bbox", [0, float("nan"), 3, 4]), "annotation 2: 'bbox' is not f"),
    "infinite box": (annotation("bbox", [0, 1, float("inf"), 4]), "annotation 2: 'bbox' is not f"),
    "three numbers": (annotation("bbox", [0, 1, 3]), r"annotation 2: 'bbox' has the wrong length"),
    "text in a box": (annotation("bbox", [0, 1, "3", "x"]), r"annotation 2: 'bbox' is \[0, 1"),
    "negative size": (annotation("bbox", [0, 1, -3, 4]), "annotation 2: .* negative size"),
    "unknown class": (annotation("category_id", 11), "annotation 2: unknown category id 11; .*sh"),
    "unknown image": (annotation("image_id", 99), "annotation 2: 'image_id' is 99"),
    "crowd": (annotation("iscrowd", 2), "annotation 2: 'iscrowd' is 2"),
    "same id": (annotation("id", 1), r"annotations\[1\]: the id 1 occurs twice"),
    "text as id": (annotation("id", "2"), r"annotations\[1\]: 'id' is '2'"),
    "odd polygon": (annotation("segmentation", [[1, 2, 3]]), "annotation 2: .*even count"),
    "NaN polygon": (annotation("segmentation", [[1, 2, float("nan"), 3]]), "annotation 2: .*even"),
    "flat polygon": (annotation("segmentation", [1, 2, 3, 4]), "annotation 2: .*neither a list"),
    "other size": (
        annotation("segmentation", {"size": [32, 24], "counts": "0"}),
        r"annotation 2: the size \[32, 24\] .* differs from the image's \[24, 32\]",
    ),
    "no counts": (annotation("segmentation", {"size": [24, 32]}), "annotation 2: .*'counts' is m"),
    "no box": (lambda d: d["annotations"][1].pop("bbox"), "annotation 2: the field 'bbox' is mis"),
    "no id": (lambda d: d["annotations"][0].pop("id"), r"annotations\[0\]: the field 'id' is mis"),
    "no list": (lambda d: d.pop("categories"), r"set\.json: the field 'categories' is missing"),
    "no classes": (lambda d: d["categories"].clear(), "'categories' is empty"),
    "no record": (lambda d: d["images"].append(5), r"images\[2\] is not an object: 5"),
    "not a list": (lambda d: d.__setitem__("images", {}), "'images' is not a list"),
    "empty name": (image("file_name", ""), "image 3: 'file_name' is ''"),
    "zero height": (image("height", 0), "image 3: 'height' is 0"),
    "fraction": (image("width", 31.5), r"image 3: 'width' is 31\.5"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("b.jpg", "sub/a.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((24, 32, 3), np.uint8))
    (tmp_path / "set.json").write_text(json.dumps(CONTENT))
    return tmp_path


def changed(folder: Path, change: Callable[[dict], None]) -> Path:
    data = copy.deepcopy(CONTENT)
    change(data)
    path = folder / "set.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_named(folder: Path, mistake: str) -> None:
    change, message = MISTAKES[mistake]
    path = changed(folder, change)
    with pytest.raises(DatasetError, match=message) as error:
        read_coco(path)
    assert str(path) in str(error.value)


def test_valid_file(folder: Path) -> None:
    coco = read_coco(folder / "set.json")
    assert [record["id"] for record in coco.images] == [3, 7]
    assert coco.categories == {10: "shelf", 20: "lamp"}
    assert [record["id"] for record in coco.annotations[7]] == [1, 2]
    assert 3 not in coco.annotations


def test_malformed_json_gives_line_and_column(folder: Path) -> None:
    path = folder / "broken.json"
    path.write_text('{"images": [],\n "annotations": [}')
    with pytest.raises(DatasetError, match=r"broken\.json: malformed JSON at line 2, column 18"):
        read_json(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe\x00", "not a text file")],
)
def test_unreadable_json(folder: Path, content: bytes, message: str) -> None:
    path = folder / "broken.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"broken\.json: .*{message}"):
        read_json(path)


def test_truncated_json(folder: Path) -> None:
    path = folder / "set.json"
    path.write_text(json.dumps(CONTENT)[:-9])
    with pytest.raises(DatasetError, match=r"set\.json: malformed JSON at line 1"):
        read_coco(path)


def test_missing_json(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.json: no such file"):
        read_coco(folder / "none.json")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(b""), "is empty"),
    ],
)
def test_image_file_missing_or_empty(
    folder: Path, break_it: Callable[[Path], object], message: str
) -> None:
    break_it(folder / "sub" / "a.jpg")
    with pytest.raises(DatasetError, match=rf"set\.json: the image file .*a\.jpg {message}"):
        load_coco_format(folder / "set.json", folder)


def test_check_files_counts_the_others(tmp_path: Path) -> None:
    names = [tmp_path / f"{i}.png" for i in range(3)]
    names[0].write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"1\.png does not exist \(1 more like this\)"):
        check_files(names, "mask", "the set")
    check_files([], "mask", "the set")


def test_missing_image_folder_names_the_dataset(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"'mine': the image folder .*nowhere does not exist"):
        load_coco_format(folder / "set.json", folder / "nowhere", "mine")


def test_records_are_those_of_detectron2(folder: Path) -> None:
    ours = load_coco_format(folder / "set.json", folder, extra_annotation_keys=("note",))
    assert [record["image_id"] for record in ours] == [3, 7]
    assert ours[0]["annotations"] == []
    assert [a["category_id"] for a in ours[1]["annotations"]] == [1, 0]
    assert ours[1]["annotations"][0]["note"] == "kept on request"
    assert ours[1]["annotations"][1]["bbox_mode"] == BoxMode.XYWH_ABS
    name = "bad_input_reference"
    reference = load_coco_json(str(folder / "set.json"), str(folder), name, ["note"])
    MetadataCatalog.pop(name)
    for one, other in zip(ours, reference, strict=True):
        assert {k: v for k, v in one.items() if k != "annotations"} == {
            k: v for k, v in other.items() if k != "annotations"
        }
        for a, b in zip(one["annotations"], other["annotations"], strict=True):
            b.setdefault("iscrowd", 0)
            assert a == b


def test_short_polygons_are_left_out_and_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = changed(folder, annotation("segmentation", [[1, 2, 3, 4]]))
    (_, record) = load_coco_format(path, folder)
    assert len(record["annotations"]) == 1
    assert "left out 1 annotations without a valid polygon" in caplog.text


def test_uncompressed_run_lengths_are_compressed(folder: Path) -> None:
    segmentation = {"size": [24, 32], "counts": [10, 5, 24 * 32 - 15]}
    path = changed(folder, annotation("segmentation", segmentation))
    (_, record) = load_coco_format(path, folder)
    assert isinstance(record["annotations"][1]["segmentation"]["counts"], bytes)


def test_registration_opens_no_file_and_sets_metadata(folder: Path) -> None:
    name = "bad_input_registered"
    missing = folder / "later.json"
    register_coco_format(name, {"thing_classes": ["shelf", "lamp"]}, missing, folder)
    try:
        metadata = MetadataCatalog.get(name)
        assert metadata.json_file == str(missing) and metadata.evaluator_type == "coco"
        with pytest.raises(DatasetError, match=r"later\.json: no such file"):
            DatasetCatalog.get(name)
        missing.write_text(json.dumps(CONTENT))
        assert len(DatasetCatalog.get(name)) == 2
        assert metadata.thing_dataset_id_to_contiguous_id == {10: 0, 20: 1}
        assert len(DatasetCatalog.get(name)) == 2
        renamed = copy.deepcopy(CONTENT)
        renamed["categories"][0]["name"] = "light"
        missing.write_text(json.dumps(renamed))
        with pytest.raises(DatasetError, match=r"\['shelf', 'light'\] differ .*'shelf', 'lamp'"):
            DatasetCatalog.get(name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=8,
    )
)
def test_numbers_are_accepted_or_named(value: Any) -> None:
    try:
        read = get_numbers({"t": value}, "t", (3,), "file: annotation 4")
    except DatasetError as error:
        assert str(error).startswith("file: annotation 4: 't'")
    else:
        assert read is value and len(value) == 3


def test_integer_beyond_floats_is_named() -> None:
    with pytest.raises(DatasetError, match=r"'t' is .* expected 2 finite numbers"):
        get_numbers({"t": [1, 10**400]}, "t", (2,), "file")


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_top_level_must_be_an_object(data: Any) -> None:
    with pytest.raises(DatasetError, match=r"x\.json: the file holds a"):
        parse_coco(data, "x.json")
