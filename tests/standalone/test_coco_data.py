"""Reading, converting and registering data sets in COCO's format."""

import copy
import json
import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import convert_to_coco_json, register_coco_instances
from detectron2.data.datasets.coco import convert_to_coco_dict, load_coco_json
from detectron2.structures import BoxMode
from pycocotools.coco import COCO

NAME = "test_coco_data"
SQUARE = [2.0, 2, 6, 2, 6, 6, 2, 6]


@pytest.fixture(autouse=True)
def clean_catalogs():
    yield
    DatasetCatalog.pop(NAME, None)
    MetadataCatalog.pop(NAME, None)


def annotation(id_, **changes):
    return {
        "id": id_,
        "image_id": 5,
        "category_id": 7,
        "bbox": [1.5, 2, 3, 4],
        "area": 12,
        "iscrowd": 0,
        **changes,
    }


def content(*annotations):
    return {
        "images": [
            {"id": 5, "file_name": "b.jpg", "height": 20, "width": 30},
            {"id": 2, "file_name": "a.jpg", "height": 40, "width": 10},
        ],
        "annotations": list(annotations),
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


@pytest.fixture
def load(tmp_path):
    """Write the content and load it."""

    def write_and_load(data, *args, file_name="instances.json", **kwargs):
        path = tmp_path / file_name
        path.write_text(json.dumps(data))
        return load_coco_json(str(path), "images", *args, **kwargs)

    return write_and_load


def test_records(load):
    first, second = load(content(annotation(1)))
    assert first == {
        "file_name": "images/a.jpg",
        "height": 40,
        "width": 10,
        "image_id": 2,
        "annotations": [],
    }
    assert second["file_name"] == "images/b.jpg" and second["image_id"] == 5
    assert second["annotations"] == [
        {
            "iscrowd": 0,
            "bbox": [1.5, 2, 3, 4],
            "category_id": 7,
            "bbox_mode": BoxMode.XYWH_ABS,
        }
    ]


def test_classes_of_a_named_dataset(load, caplog):
    with caplog.at_level(logging.WARNING):
        records = load(content(annotation(1)), NAME.replace("coco", "c"))
    MetadataCatalog.pop(NAME.replace("coco", "c"))
    assert records[1]["annotations"][0]["category_id"] == 1
    assert "ategory ids" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load(content(annotation(1)), NAME)
    assert caplog.text == ""
    metadata = MetadataCatalog.get(NAME)
    assert metadata.thing_classes == ["dog", "cat"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}


def test_extra_keys_travel(load):
    pose = {"rotation": [[1, 0], [0, 1]], "depth": 2.5}
    records = load(content(annotation(1, pose=pose)), extra_annotation_keys=["pose", "absent"])
    assert records[1]["annotations"][0]["pose"] == pose
    assert "absent" not in records[1]["annotations"][0]
    assert "pose" not in load(content(annotation(1, pose=pose)))[1]["annotations"][0]


def test_invalid_polygons_are_dropped(load, caplog):
    with caplog.at_level(logging.WARNING):
        records = load(
            content(
                annotation(1, segmentation=[SQUARE, [1, 1, 2, 2], [1, 1, 2, 2, 3, 3, 4]]),
                annotation(2, segmentation=[[1, 1, 2, 2]]),
                annotation(3, segmentation=[]),
            )
        )
    kept = records[1]["annotations"]
    assert [a.get("segmentation") for a in kept] == [[SQUARE], None]
    assert "Filtered out" in caplog.text


@pytest.mark.standalone_only
def test_single_invalid_polygons_are_counted(load, caplog):
    with caplog.at_level(logging.WARNING):
        load(content(annotation(1, segmentation=[SQUARE, [1, 1, 2, 2]])))
    assert "Filtered out 1 polygons" in caplog.text and "0 instances" in caplog.text


def test_uncompressed_rle_is_compressed(load):
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[2:6, 3] = 1
    counts = [3 * 20 + 2, 4, 600 - 66]
    records = load(
        content(
            annotation(1, iscrowd=1, segmentation={"counts": counts, "size": [20, 30]}),
            annotation(2, segmentation={"counts": "not touched", "size": [20, 30]}),
        )
    )
    first, second = records[1]["annotations"]
    np.testing.assert_array_equal(mask_util.decode(first["segmentation"]), mask)
    assert first["iscrowd"] == 1
    assert second["segmentation"] == {"counts": "not touched", "size": [20, 30]}


def test_keypoints_become_continuous(load):
    records = load(content(annotation(1, keypoints=[10, 20, 2, 0, 0, 0])))
    assert records[1]["annotations"][0]["keypoints"] == [10.5, 20.5, 2, 0.5, 0.5, 0]


def test_duplicate_annotation_ids(load):
    twice = content(annotation(1), annotation(1))
    with pytest.raises(AssertionError, match="not unique"):
        load(twice)
    assert len(load(twice, file_name="instances_minival2014.json")[1]["annotations"]) == 2


def test_ignore_is_not_supported(load):
    load(content(annotation(1, ignore=0)))
    with pytest.raises(AssertionError, match="ignore"):
        load(content(annotation(1, ignore=1)))


def test_empty_box(load):
    with pytest.raises(ValueError, match="empty 'bbox' value"):
        load(content(annotation(1, bbox=[])))


def test_unknown_category(load):
    assert load(content(annotation(1, category_id=99)))[1]["annotations"][0]["category_id"] == 99
    with pytest.raises(KeyError, match="category_id=99"):
        load(content(annotation(1, category_id=99)), NAME)


def test_annotations_of_unknown_images_are_reported(load, caplog):
    with caplog.at_level(logging.WARNING):
        records = load(content(annotation(1), annotation(2, image_id=77)))
    assert sum(len(record["annotations"]) for record in records) == 1
    assert "contains 2 annotations, but only 1" in caplog.text


def test_file_without_annotations(load):
    data = content()
    del data["annotations"]
    assert [record["annotations"] for record in load(data, NAME)] == [[], []]


@pytest.mark.standalone_only
def test_duplicate_images_and_missing_categories(load):
    data = content()
    data["images"].append(data["images"][0])
    with pytest.raises(ValueError, match=r"Image ids .* not unique"):
        load(data)
    with pytest.raises(ValueError, match=f"no categories, which '{NAME}'"):
        load({**content(), "categories": []}, NAME)


def register(records, **metadata):
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(**{"thing_classes": ["dog", "cat"], **metadata})


def make_record(**changes):
    return {
        "file_name": "a.jpg",
        "image_id": 4,
        "height": 10,
        "width": 12,
        "annotations": [
            {"bbox": [1, 2, 4, 6], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, **changes}
        ],
    }


def test_convert_boxes():
    register([make_record()], thing_dataset_id_to_contiguous_id={3: 0, 7: 1})
    coco = convert_to_coco_dict(NAME)
    assert coco["images"] == [{"id": 4, "width": 12, "height": 10, "file_name": "a.jpg"}]
    assert coco["categories"] == [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
    assert coco["annotations"] == [
        {
            "id": 1,
            "image_id": 4,
            "bbox": [1.0, 2.0, 3.0, 4.0],
            "area": 12.0,
            "iscrowd": 0,
            "category_id": 7,
        }
    ]
    json.dumps(coco)


def test_convert_without_id_map_and_image_id():
    record = make_record(bbox=np.array([1.0, 2, 4, 6]))
    del record["image_id"]
    register([make_record(), record])
    coco = convert_to_coco_dict(NAME)
    assert [image["id"] for image in coco["images"]] == [4, 1]
    assert [a["id"] for a in coco["annotations"]] == [1, 2]
    assert coco["categories"][1] == {"id": 1, "name": "cat"}
    assert coco["annotations"][1]["category_id"] == 1


def test_convert_rotated_box():
    box = [5.0, 5, 4, 2, 30]
    register([make_record(bbox=box, bbox_mode=BoxMode.XYWHA_ABS)])
    entry = convert_to_coco_dict(NAME)["annotations"][0]
    assert entry["bbox"] == box and entry["area"] == pytest.approx(8)


def test_convert_polygons_and_rle():
    mask = np.zeros((10, 12), dtype=np.uint8, order="F")
    mask[1:3, 1:6] = 1
    records = [
        make_record(segmentation=[SQUARE], iscrowd=0),
        make_record(segmentation=mask_util.encode(mask), iscrowd=1),
    ]
    register(records)
    coco = json.loads(json.dumps(convert_to_coco_dict(NAME)))
    polygon, rle = coco["annotations"]
    assert polygon["segmentation"] == [SQUARE] and polygon["area"] == pytest.approx(16)
    assert rle["area"] == 10 and rle["iscrowd"] == 1
    np.testing.assert_array_equal(mask_util.decode(rle["segmentation"]), mask)


@pytest.mark.standalone_only
def test_convert_polygon_arrays():
    register([make_record(segmentation=[np.array(SQUARE)])])
    assert json.loads(json.dumps(convert_to_coco_dict(NAME)))["annotations"][0]["area"] == 16


@pytest.mark.standalone_only
def test_convert_leaves_the_records_alone():
    mask = mask_util.encode(np.ones((10, 12), dtype=np.uint8, order="F"))
    records = [make_record(segmentation=mask, keypoints=[1.5, 2.5, 2])]
    before = copy.deepcopy(records)
    register(records)
    entry = convert_to_coco_dict(NAME)["annotations"][0]
    assert entry["keypoints"] == [1, 2, 2] and entry["num_keypoints"] == 1
    assert records == before


def test_convert_errors():
    register([make_record(bbox=[1, 2, 3])])
    with pytest.raises(ValueError, match="bbox"):
        convert_to_coco_dict(NAME)
    DatasetCatalog.pop(NAME)
    register([make_record(bbox=np.zeros((1, 4)))])
    with pytest.raises(ValueError, match="bbox"):
        convert_to_coco_dict(NAME)
    DatasetCatalog.pop(NAME)
    register([make_record(segmentation=np.zeros((10, 12)))])
    with pytest.raises(TypeError, match="Unknown segmentation type"):
        convert_to_coco_dict(NAME)


def test_convert_test_set_has_no_annotations_key():
    register([{"file_name": "a.jpg", "image_id": 4, "height": 10, "width": 12}])
    assert "annotations" not in convert_to_coco_dict(NAME)


def test_convert_to_json_and_back(tmp_path, caplog):
    register([make_record(segmentation=[SQUARE])], thing_dataset_id_to_contiguous_id={3: 0, 7: 1})
    path = tmp_path / "new" / "dataset.json"
    convert_to_coco_json(NAME, str(path))
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".tmp"] == []
    loaded = load_coco_json(str(path), "", NAME)
    assert loaded[0]["annotations"][0]["segmentation"] == [SQUARE]
    assert loaded[0]["annotations"][0]["category_id"] == 1
    assert COCO(str(path)).getAnnIds(imgIds=[4]) == [1]

    path.write_text("{}")
    with caplog.at_level(logging.WARNING):
        convert_to_coco_json(NAME, str(path))
    assert path.read_text() == "{}" and "cached" in caplog.text
    convert_to_coco_json(NAME, str(path), allow_cached=False)
    assert len(json.loads(path.read_text())["annotations"]) == 1


def test_register_coco_instances(tmp_path):
    path = tmp_path / "instances.json"
    register_coco_instances(NAME, {"extra": 3}, str(path), "images")
    metadata = MetadataCatalog.get(NAME)
    assert (metadata.json_file, metadata.image_root) == (str(path), "images")
    assert metadata.evaluator_type == "coco" and metadata.extra == 3
    path.write_text(json.dumps(content(annotation(1))))
    assert len(DatasetCatalog.get(NAME)) == 2
    assert metadata.thing_classes == ["dog", "cat"]


def test_register_keeps_the_first_function():
    DatasetCatalog.register(NAME, lambda: ["first"])
    register_coco_instances(NAME, {}, "file.json", "images")
    assert DatasetCatalog.get(NAME) == ["first"]
    assert MetadataCatalog.get(NAME).json_file == "file.json"
    with pytest.raises(AssertionError, match="cannot be set"):
        register_coco_instances(NAME, {}, "other.json", "images")


@pytest.mark.standalone_only
def test_register_says_that_it_keeps_the_first_function(caplog):
    DatasetCatalog.register(NAME, lambda: ["first"])
    with caplog.at_level(logging.WARNING):
        register_coco_instances(NAME, {}, "file.json", "images")
    assert f"'{NAME}' is already registered" in caplog.text


@pytest.mark.parametrize("arguments", [(3, {}, "f", "i"), ("n", {}, 3, "i"), ("n", {}, "f", None)])
def test_register_checks_types(arguments):
    with pytest.raises(AssertionError):
        register_coco_instances(*arguments)
