"""The global tables of data sets and their metadata; reading what they name."""

import copy
import logging
import pickle

import pytest
from detectron2.config import LazyCall, instantiate
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    Metadata,
    MetadataCatalog,
    get_detection_dataset_dicts,
)
from detectron2.data.build import (
    filter_images_with_only_crowd_annotations,
    print_instances_class_histogram,
)

NAME = "test_catalog_dataset"


@pytest.fixture(autouse=True)
def clean_catalogs():
    yield
    for name in (NAME, NAME + "_2"):
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


def test_register_and_get_calls_each_time():
    calls = []
    DatasetCatalog.register(NAME, lambda: calls.append(1) or [{"n": len(calls)}])
    assert calls == []
    assert DatasetCatalog.get(NAME) == [{"n": 1}]
    assert DatasetCatalog.get(NAME) == [{"n": 2}]


def test_dictionary_interface():
    count = len(DatasetCatalog)
    DatasetCatalog.register(NAME, list)
    assert NAME in DatasetCatalog and NAME in DatasetCatalog.list()
    assert len(DatasetCatalog) == count + 1 and NAME in str(DatasetCatalog)
    DatasetCatalog.remove(NAME)
    assert NAME not in DatasetCatalog
    with pytest.raises(KeyError):
        DatasetCatalog.remove(NAME)


def test_register_errors():
    DatasetCatalog.register(NAME, list)
    with pytest.raises(AssertionError, match=f"Dataset '{NAME}' is already registered!"):
        DatasetCatalog.register(NAME, list)
    with pytest.raises(AssertionError, match="function"):
        DatasetCatalog.register(NAME + "_2", [])


def test_unknown_dataset_lists_the_known_ones():
    DatasetCatalog.register(NAME, list)
    with pytest.raises(KeyError, match=f"'nowhere' is not registered.*{NAME}"):
        DatasetCatalog.get("nowhere")


def test_errors_of_the_registered_function_pass_through():
    def broken():
        raise KeyError("inner")

    DatasetCatalog.register(NAME, broken)
    with pytest.raises(KeyError, match="inner"):
        DatasetCatalog.get(NAME)


def test_metadata_is_created_once():
    metadata = MetadataCatalog.get(NAME)
    assert metadata is MetadataCatalog.get(NAME)
    assert metadata.name == NAME and NAME in MetadataCatalog.list()
    MetadataCatalog.remove(NAME)
    assert metadata is not MetadataCatalog.get(NAME)
    with pytest.raises(AssertionError):
        MetadataCatalog.get("")


def test_metadata_values_are_constant():
    metadata = MetadataCatalog.get(NAME).set(thing_classes=["a"], evaluator_type="coco")
    metadata.thing_classes = ["a"]
    with pytest.raises(AssertionError, match="cannot be set to a different value"):
        metadata.thing_classes = ["b"]
    assert metadata.thing_classes == ["a"]
    entries = metadata.as_dict()
    assert entries == {"name": NAME, "thing_classes": ["a"], "evaluator_type": "coco"}
    entries["more"] = 1
    assert not hasattr(metadata, "more")


def test_missing_metadata():
    metadata = MetadataCatalog.get(NAME)
    with pytest.raises(AttributeError, match=rf"{NAME}.*metadata is empty"):
        _ = metadata.thing_classes
    metadata.evaluator_type = "coco"
    with pytest.raises(AttributeError, match="evaluator_type"):
        _ = metadata.thing_classes
    assert metadata.get("thing_classes") is None
    assert metadata.get("thing_classes", 3) == 3
    assert metadata.get("evaluator_type", 3) == "coco"


def test_old_names_are_translated(caplog):
    with caplog.at_level(logging.WARNING):
        metadata = MetadataCatalog.get(NAME)
        metadata.class_names = ["a"]
    assert "renamed to 'thing_classes'" in caplog.text
    assert metadata.thing_classes == ["a"] == metadata.class_names


@pytest.mark.standalone_only
def test_old_names_are_not_stored_twice():
    metadata = MetadataCatalog.get(NAME).set(class_names=["a"])
    assert metadata.as_dict() == {"name": NAME, "thing_classes": ["a"]}


def test_metadata_copies_and_pickles():
    metadata = Metadata(name="n").set(thing_classes=["a"])
    assert copy.deepcopy(metadata).as_dict() == metadata.as_dict()
    assert pickle.loads(pickle.dumps(metadata)).thing_classes == ["a"]
    assert Metadata().name == "N/A"


@pytest.mark.parametrize(
    ("name", "images", "annotations"),
    [
        ("coco_2014_train", "coco/train2014", "coco/annotations/instances_train2014.json"),
        ("coco_2014_minival", "coco/val2014", "coco/annotations/instances_minival2014.json"),
        (
            "coco_2014_valminusminival",
            "coco/val2014",
            "coco/annotations/instances_valminusminival2014.json",
        ),
        ("coco_2017_train", "coco/train2017", "coco/annotations/instances_train2017.json"),
        ("coco_2017_val", "coco/val2017", "coco/annotations/instances_val2017.json"),
        ("coco_2017_val_100", "coco/val2017", "coco/annotations/instances_val2017_100.json"),
        ("coco_2017_test", "coco/test2017", "coco/annotations/image_info_test2017.json"),
        ("coco_2017_test-dev", "coco/test2017", "coco/annotations/image_info_test-dev2017.json"),
    ],
)
def test_coco_splits_are_registered(name, images, annotations):
    assert name in DatasetCatalog
    metadata = MetadataCatalog.get(name)
    assert metadata.image_root.endswith(images)
    assert metadata.json_file.endswith(annotations)
    assert metadata.evaluator_type == "coco"


def test_coco_classes():
    metadata = MetadataCatalog.get("coco_2017_val")
    classes, id_map = metadata.thing_classes, metadata.thing_dataset_id_to_contiguous_id
    assert len(classes) == len(set(classes)) == len(metadata.thing_colors) == 80
    assert (classes[0], classes[56], classes[79]) == ("person", "chair", "toothbrush")
    assert "dining table" in classes and "hair drier" in classes
    assert (id_map[1], id_map[62], id_map[90]) == (0, 56, 79)
    assert list(id_map.values()) == list(range(80)) and sorted(id_map) == list(id_map)
    assert metadata.thing_colors[0] == [220, 20, 60]
    assert metadata.thing_colors[79] == [191, 162, 208]


def annotated(*categories, **changes):
    return {
        "file_name": "a.jpg",
        "annotations": [{"category_id": c, "iscrowd": 0, **changes} for c in categories],
    }


def test_crowd_filter():
    kept = [annotated(0), {"annotations": [{"iscrowd": 1}, {}]}]
    dropped = [annotated(), annotated(1, iscrowd=1)]
    assert filter_images_with_only_crowd_annotations(dropped + kept) == kept


def test_dataset_dicts():
    first = [annotated(0), annotated(), annotated(1, iscrowd=1)]
    second = [annotated(1, 1)]
    DatasetCatalog.register(NAME, lambda: first)
    DatasetCatalog.register(NAME + "_2", lambda: second)
    assert get_detection_dataset_dicts(NAME, filter_empty=False) == first
    assert get_detection_dataset_dicts([NAME, NAME + "_2"]) == [first[0], second[0]]


def test_dataset_dicts_from_a_config_list():
    DatasetCatalog.register(NAME, lambda: [annotated(0)])
    config = LazyCall(get_detection_dataset_dicts)(names=[NAME, NAME])
    assert len(instantiate(config)) == 2


def test_dataset_dicts_errors(caplog):
    with pytest.raises(AssertionError):
        get_detection_dataset_dicts([])
    with caplog.at_level(logging.WARNING), pytest.raises(KeyError, match="nowhere"):
        get_detection_dataset_dicts("nowhere")
    assert "nowhere" in caplog.text
    DatasetCatalog.register(NAME, list)
    with pytest.raises(AssertionError, match=f"Dataset '{NAME}' is empty!"):
        get_detection_dataset_dicts(NAME)
    DatasetCatalog.register(NAME + "_2", lambda: [annotated()])
    with pytest.raises(AssertionError, match="No valid data found"):
        get_detection_dataset_dicts(NAME + "_2")


def test_dataset_dicts_check_the_classes():
    DatasetCatalog.register(NAME, lambda: [annotated(0, 2)])
    assert len(get_detection_dataset_dicts(NAME)) == 1  # no class names, nothing to compare
    MetadataCatalog.get(NAME).thing_classes = ["a", "b"]
    with pytest.raises(AssertionError, match="Got an invalid category_id=2"):
        get_detection_dataset_dicts(NAME)
    assert len(get_detection_dataset_dicts(NAME, check_consistency=False)) == 1
    DatasetCatalog.register(NAME + "_2", lambda: [annotated(0)])
    MetadataCatalog.get(NAME + "_2").thing_classes = ["a"]
    with pytest.raises(ValueError, match="different metadata"):
        get_detection_dataset_dicts([NAME, NAME + "_2"])


def test_dataset_dicts_without_annotations():
    DatasetCatalog.register(NAME, lambda: [{"file_name": "a"}])
    MetadataCatalog.get(NAME).thing_classes = ["a"]
    assert get_detection_dataset_dicts(NAME) == [{"file_name": "a"}]


@pytest.mark.standalone_only
def test_dataset_dicts_with_annotations_for_some_images_only():
    DatasetCatalog.register(NAME, lambda: [{"file_name": "a"}, annotated(0)])
    MetadataCatalog.get(NAME).thing_classes = ["a"]
    assert get_detection_dataset_dicts(NAME) == [annotated(0)]
    assert len(get_detection_dataset_dicts(NAME, filter_empty=False)) == 2


@pytest.mark.standalone_only
def test_dataset_dicts_refuse_what_is_not_supported():
    for settings in ({"min_keypoints": 1}, {"proposal_files": ["p.pkl"]}):
        with pytest.raises(NotImplementedError, match="not supported"):
            get_detection_dataset_dicts(NAME, **settings)


def test_registered_torch_datasets_pass_through():
    dataset = DatasetFromList([1, 2, 3])
    DatasetCatalog.register(NAME, lambda: dataset)
    assert get_detection_dataset_dicts(NAME) is dataset
    assert len(get_detection_dataset_dicts([NAME, NAME])) == 6


def test_histogram(caplog):
    with caplog.at_level(logging.INFO):
        print_instances_class_histogram(
            [annotated(0, 2, 2), annotated(2), annotated(1, iscrowd=1)], ["ant", "bee", "cow"]
        )
    assert "all 3 categories" in caplog.text
    cells = [cell.strip() for cell in caplog.text.replace("\n", "").split("|")]
    for name, count in (("ant", "1"), ("bee", "0"), ("cow", "3"), ("total", "4")):
        assert cells[cells.index(name) + 1] == count
