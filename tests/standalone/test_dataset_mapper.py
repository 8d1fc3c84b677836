"""From a record to the input of a model."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image

PIXELS = np.random.RandomState(0).randint(0, 256, (20, 30, 3)).astype(np.uint8)


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(path)

    def annotation(x, category, **changes):
        return {
            "bbox": [x, 2.0, 6.0, 8.0],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": category,
            "iscrowd": 0,
            "segmentation": [[x, 2.0, x + 6, 2, x + 6, 10]],
            "keypoints": [x, 2.0, 2],
            **changes,
        }

    return {
        "file_name": str(path),
        "image_id": 9,
        "width": 30,
        "height": 20,
        "annotations": [
            annotation(1.0, 4),
            annotation(10.0, 5, iscrowd=1),
            annotation(20.0, 6),
            annotation(40.0, 7),  # outside of the image: empty after clipping
        ],
    }


def make_mapper(is_train=True, augmentations=(), image_format="RGB", **settings):
    return DatasetMapper(
        is_train, augmentations=list(augmentations), image_format=image_format, **settings
    )


def test_training(record):
    before = copy.deepcopy(record)
    result = make_mapper(augmentations=[T.HFlipTransform(30)], image_format="BGR")(record)
    assert record == before
    assert result["image"].dtype == torch.uint8 and result["image"].shape == (3, 20, 30)
    expected = PIXELS[:, ::-1, ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(result["image"].numpy(), expected)
    assert (result["width"], result["height"], result["image_id"]) == (30, 20, 9)
    assert "annotations" not in result
    instances = result["instances"]
    assert instances.image_size == (20, 30)
    torch.testing.assert_close(
        instances.gt_boxes.tensor, torch.tensor([[23.0, 2, 29, 10], [4, 2, 10, 10]])
    )
    assert instances.gt_classes.tolist() == [4, 6]
    assert not instances.has("gt_masks")


def test_inference(record):
    result = make_mapper(False, [T.ResizeShortestEdge(10)])(record)
    assert result["image"].shape == (3, 10, 15)
    assert (result["width"], result["height"]) == (30, 20)
    assert "annotations" not in result and "instances" not in result


@pytest.mark.parametrize(
    ("mask_format", "kind"), [("polygon", PolygonMasks), ("bitmask", BitMasks)]
)
def test_masks(record, mask_format, kind):
    del record["annotations"][3]
    mapper = make_mapper(
        augmentations=[T.Resize((40, 60))],
        use_instance_mask=True,
        instance_mask_format=mask_format,
    )
    masks = mapper(record)["instances"].gt_masks
    assert isinstance(masks, kind) and len(masks) == 2
    if mask_format == "polygon":
        np.testing.assert_allclose(masks.polygons[0][0], [2, 4, 14, 4, 14, 20])
    else:
        expected = utils.polygons_to_bitmask([np.array([2.0, 4, 14, 4, 14, 20])], 40, 60)
        np.testing.assert_array_equal(masks.tensor[0].numpy(), expected)


def test_recomputed_boxes_are_those_of_the_masks(record):
    record["annotations"] = record["annotations"][:1]
    record["annotations"][0]["bbox"] = [0.0, 0.0, 20, 20]
    mapper = make_mapper(use_instance_mask=True, recompute_boxes=True)
    boxes = mapper(record)["instances"].gt_boxes.tensor
    torch.testing.assert_close(boxes, torch.tensor([[1.0, 2, 7, 10]]))
    with pytest.raises(AssertionError, match="requires instance masks"):
        make_mapper(recompute_boxes=True)


@pytest.mark.standalone_only
def test_recomputed_boxes_of_an_image_with_crowds_only(record):
    record["annotations"] = record["annotations"][1:2]
    mapper = make_mapper(use_instance_mask=True, recompute_boxes=True)
    assert len(mapper(record)["instances"]) == 0


def test_image_without_objects(record):
    record["annotations"] = []
    assert len(make_mapper(use_instance_mask=True)(record)["instances"]) == 0
    del record["annotations"]
    assert "instances" not in make_mapper()(record)


def test_wrong_size_is_reported(record):
    record["width"] = 31
    with pytest.raises(utils.SizeMismatchError, match=record["file_name"]):
        make_mapper()(record)


def test_missing_size_is_filled_in(record):
    del record["width"], record["height"]
    result = make_mapper(False, [T.Resize(5)])(record)
    assert (result["width"], result["height"]) == (30, 20)


def test_semantic_segmentation(record, tmp_path):
    labels = PIXELS[:, :, 0]
    path = tmp_path / "labels.png"
    Image.fromarray(labels).save(path)
    record["sem_seg_file_name"] = str(path)
    result = make_mapper(augmentations=[T.HFlipTransform(30)])(record)
    assert result["sem_seg"].dtype == torch.int64 and "sem_seg_file_name" not in result
    np.testing.assert_array_equal(result["sem_seg"].numpy(), labels[:, ::-1])


def test_grey_images_are_writable_and_silent(record):
    result = make_mapper(image_format="L")(record)
    assert result["image"].shape == (1, 20, 30)


def test_seed_decides(record):
    augmentations = [T.RandomFlip(), T.ResizeShortestEdge((10, 30)), T.RandomBrightness(0.5, 1.5)]
    mapper = make_mapper(augmentations=augmentations)
    results = []
    for _ in range(2):
        np.random.seed(5)
        results.append(mapper(record))
    assert torch.equal(results[0]["image"], results[1]["image"])
    # Seed 5: uniform 0.22 < 0.5 flips, then an integer of [10, 30] is drawn.
    draws = np.random.RandomState(5)
    assert draws.uniform() < 0.5
    assert results[0]["image"].shape[1] == draws.randint(10, 31)


def test_from_lazy_config(record):
    config = LazyCall(DatasetMapper)(
        is_train=True,
        augmentations=[LazyCall(T.ResizeShortestEdge)(short_edge_length=(10, 10), max_size=14)],
        image_format="RGB",
        use_instance_mask=True,
    )
    result = instantiate(config)(record)
    assert result["image"].shape == (3, 9, 14)
    assert len(result["instances"].gt_masks) == 2


def test_from_yacs_config(record):
    config = get_cfg()
    config.INPUT.MIN_SIZE_TRAIN = (10,)
    config.INPUT.MIN_SIZE_TEST = 40
    config.MODEL.MASK_ON = True
    train = DatasetMapper(config, True)
    assert train(record)["image"].shape == (3, 10, 15)
    assert train.use_instance_mask and not train.recompute_boxes and train.image_format == "BGR"
    assert DatasetMapper(config, is_train=False)(record)["image"].shape == (3, 40, 60)
    config.INPUT.CROP.ENABLED = True
    cropping = DatasetMapper(config, True)
    assert cropping.recompute_boxes and isinstance(cropping.augmentations.augs[0], T.RandomCrop)
    assert not DatasetMapper(config, False).recompute_boxes


@pytest.mark.standalone_only
def test_keypoints_are_refused():
    with pytest.raises(NotImplementedError, match="use_keypoint"):
        make_mapper(use_keypoint=True)


def test_subclass_can_keep_other_annotations(record):
    class KeepsIds(DatasetMapper):
        def _transform_annotations(self, dataset_dict, transforms, image_shape):
            dataset_dict["categories"] = [a["category_id"] for a in dataset_dict["annotations"]]
            super()._transform_annotations(dataset_dict, transforms, image_shape)

    mapper = KeepsIds(True, augmentations=[], image_format="RGB")
    assert mapper(record)["categories"] == [4, 5, 6, 7]
