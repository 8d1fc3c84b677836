"""Reading images and handling annotations."""

import struct
import sys

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image

SQUARE = [2.0, 2, 6, 2, 6, 6, 2, 6]
PIXELS = np.random.RandomState(0).randint(0, 256, (6, 8, 3)).astype(np.uint8)


@pytest.fixture
def image_file(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(path)
    return str(path)


def test_read_formats(image_file):
    np.testing.assert_array_equal(utils.read_image(image_file), PIXELS)
    np.testing.assert_array_equal(utils.read_image(image_file, "RGB"), PIXELS)
    np.testing.assert_array_equal(utils.read_image(image_file, "BGR"), PIXELS[:, :, ::-1])
    grey = utils.read_image(image_file, "L")
    assert grey.shape == (6, 8, 1) and grey.dtype == np.uint8
    np.testing.assert_array_equal(grey[:, :, 0], np.asarray(Image.fromarray(PIXELS).convert("L")))
    hsv = utils.read_image(image_file, "HSV")
    np.testing.assert_array_equal(hsv, np.asarray(Image.fromarray(PIXELS).convert("HSV")))


def test_read_yuv(tmp_path):
    path = tmp_path / "grey_and_red.png"
    Image.fromarray(np.array([[[255, 255, 255], [255, 0, 0]]], dtype=np.uint8)).save(path)
    yuv = utils.read_image(str(path), "YUV-BT.601")
    np.testing.assert_allclose(yuv[0, 0], [1, 0, 0], atol=1e-4)
    np.testing.assert_allclose(yuv[0, 1], [0.299, -0.14713, 0.615])


def test_read_without_format_keeps_the_mode(tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(PIXELS[:, :, 0]).save(path)
    np.testing.assert_array_equal(utils.read_image(str(path)), PIXELS[:, :, 0])


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.transpose(1, 0, 2)),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: np.rot90(stored.transpose(1, 0, 2), 2)),
        (8, lambda stored: np.rot90(stored)),
    ],
)
def test_read_turns_upright(tmp_path, orientation, upright):
    path = tmp_path / "camera.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(path, exif=exif)
    np.testing.assert_array_equal(utils.read_image(str(path), "RGB"), upright(PIXELS))


def test_read_survives_damaged_exif(image_file, monkeypatch):
    def broken(self):
        raise struct.error("unpack requires a buffer of 2 bytes")

    monkeypatch.setattr(Image.Image, "getexif", broken)
    np.testing.assert_array_equal(utils.read_image(image_file, "RGB"), PIXELS)


@pytest.mark.parametrize("image_format", ["RGB", "BGR", "YUV-BT.601", "HSV", "L"])
def test_convert_back_to_rgb(image_file, image_format):
    image = utils.read_image(image_file, image_format)
    for given in (image, torch.from_numpy(image.copy())):
        rgb = utils.convert_image_to_rgb(given, image_format)
        assert rgb.shape == (6, 8, 3)
        expected = PIXELS.astype(float)
        if image_format == "L":
            expected = np.repeat(image, 3, axis=2)
        tolerance = 12 if image_format == "HSV" else 0.1  # Pillow's HSV has 8 bits a channel
        np.testing.assert_allclose(rgb.astype(float), expected, atol=tolerance)


def test_check_image_size():
    image = np.zeros((4, 6, 3))
    record = {}
    utils.check_image_size(record, image)
    assert record == {"width": 6, "height": 4}
    utils.check_image_size(record, image)
    with pytest.raises(utils.SizeMismatchError, match=r"a\.jpg.*\(6, 4\).*\(4, 6\)") as caught:
        utils.check_image_size({"file_name": "a.jpg", "width": 4, "height": 6}, image)
    assert isinstance(caught.value, ValueError)


@pytest.mark.standalone_only
def test_check_image_size_with_one_side_only():
    record = {"height": 4}
    utils.check_image_size(record, np.zeros((4, 6, 3)))
    assert record["width"] == 6
    with pytest.raises(utils.SizeMismatchError):
        utils.check_image_size({"height": 5}, np.zeros((4, 6, 3)))


def make_annotation(**changes):
    return {
        "bbox": [1.0, 2, 4, 6],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 3,
        "segmentation": [list(SQUARE)],
        **changes,
    }


def test_transform_box_and_polygons():
    given = make_annotation()
    transforms = T.TransformList([T.HFlipTransform(10), T.ResizeTransform(20, 10, 40, 30)])
    result = utils.transform_instance_annotations(given, transforms, (40, 30))
    assert result is given
    np.testing.assert_allclose(result["bbox"], [15, 4, 27, 16])
    assert result["bbox_mode"] == BoxMode.XYXY_ABS
    np.testing.assert_allclose(result["segmentation"], [[24, 4, 12, 4, 12, 12, 24, 12]])


def test_transform_accepts_a_plain_list_and_clips():
    result = utils.transform_instance_annotations(
        make_annotation(bbox=[-3.0, 2, 50, 6]), [T.NoOpTransform()], (7, 9)
    )
    np.testing.assert_allclose(result["bbox"], [0, 2, 9, 7])


def test_transform_rle():
    mask = np.zeros((4, 6), dtype=np.uint8, order="F")
    mask[:, :2] = 1
    given = make_annotation(segmentation=mask_util.encode(mask))
    result = utils.transform_instance_annotations(given, [T.HFlipTransform(6)], (4, 6))
    np.testing.assert_array_equal(result["segmentation"], mask[:, ::-1])


def test_transform_rejects_other_segmentations():
    with pytest.raises(ValueError, match="Cannot transform segmentation of type"):
        utils.transform_instance_annotations(
            make_annotation(segmentation="polygon"), [T.NoOpTransform()], (9, 9)
        )


@pytest.mark.standalone_only
def test_transform_does_not_truncate_integers():
    given = make_annotation(bbox=[1, 1, 1, 1], segmentation=[[1, 1, 3, 1, 3, 3]])
    result = utils.transform_instance_annotations(
        given, [T.ResizeTransform(10, 10, 5, 15)], (5, 15)
    )
    np.testing.assert_allclose(result["bbox"], [1.5, 0.5, 3, 1])
    np.testing.assert_allclose(result["segmentation"], [[1.5, 0.5, 4.5, 0.5, 4.5, 1.5]])


@pytest.mark.standalone_only
def test_transform_leaves_the_polygon_arrays_alone():
    polygon = np.array(SQUARE)
    utils.transform_instance_annotations(
        make_annotation(segmentation=[polygon]), [T.HFlipTransform(10)], (20, 10)
    )
    np.testing.assert_array_equal(polygon, SQUARE)


@pytest.mark.standalone_only
def test_transform_rejects_keypoints_before_it_changes_anything():
    given = make_annotation(keypoints=[1, 2, 2])
    with pytest.raises(NotImplementedError, match="keypoints"):
        utils.transform_instance_annotations(given, [T.HFlipTransform(10)], (20, 10))
    assert given == make_annotation(keypoints=[1, 2, 2])


@pytest.mark.standalone_only
def test_cropping_polygons_without_shapely_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "shapely", None)
    monkeypatch.delitem(sys.modules, "shapely.geometry", raising=False)
    with pytest.raises(ImportError, match="pip install shapely"):
        utils.transform_instance_annotations(
            make_annotation(), [T.CropTransform(0, 0, 5, 5)], (5, 5)
        )


def instances_from(*segmentations, mask_format="polygon", size=(8, 10)):
    annotations = [
        make_annotation(bbox=[1.0, 2, 5, 8], bbox_mode=BoxMode.XYXY_ABS, segmentation=s)
        for s in segmentations
    ]
    return utils.annotations_to_instances(annotations, size, mask_format)


def test_instances_with_polygons():
    instances = instances_from([SQUARE], [SQUARE, SQUARE])
    assert instances.image_size == (8, 10)
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor([[1.0, 2, 5, 8]] * 2))
    assert instances.gt_classes.tolist() == [3, 3] and instances.gt_classes.dtype == torch.int64
    assert isinstance(instances.gt_masks, PolygonMasks) and len(instances.gt_masks.polygons[1]) == 2


def test_instances_convert_the_box_mode():
    instances = utils.annotations_to_instances([make_annotation()], (20, 20))
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor([[1.0, 2, 5, 8]]))


def test_instances_with_bitmaps():
    bitmap = np.zeros((8, 10), dtype=np.uint8)
    bitmap[2:6, 2:6] = 1
    rle = mask_util.encode(np.asfortranarray(bitmap))
    instances = instances_from([SQUARE], rle, bitmap[:, ::1], mask_format="bitmask")
    assert isinstance(instances.gt_masks, BitMasks)
    masks = instances.gt_masks.tensor
    assert masks.dtype == torch.bool and masks.shape == (3, 8, 10) and masks.is_contiguous()
    for mask in masks:
        np.testing.assert_array_equal(mask.numpy(), bitmap.astype(bool))


def test_instances_of_nothing():
    instances = utils.annotations_to_instances([], (8, 10))
    assert len(instances) == 0 and instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.gt_classes.dtype == torch.int64 and not instances.has("gt_masks")


def test_instances_without_segmentation():
    plain = make_annotation()
    del plain["segmentation"]
    assert not utils.annotations_to_instances([plain, plain], (8, 10)).has("gt_masks")


def test_instances_mask_errors():
    with pytest.raises(ValueError, match="mask_format=='polygon'"):
        instances_from(np.zeros((8, 10)))
    with pytest.raises(ValueError, match="mask_format=='polygon'"):
        instances_from([[1.0, 2, 3]])
    with pytest.raises(AssertionError):
        instances_from([SQUARE], mask_format="rle")
    with pytest.raises(AssertionError):
        instances_from(np.zeros((1, 8, 10)), mask_format="bitmask")
    with pytest.raises(ValueError, match="Cannot convert segmentation of type"):
        instances_from("x", mask_format="bitmask")


@pytest.mark.standalone_only
@pytest.mark.parametrize("without", [0, 1])
def test_instances_with_and_without_masks_are_an_error(without):
    annotations = [make_annotation(), make_annotation()]
    del annotations[without]["segmentation"]
    with pytest.raises(ValueError, match=rf"Annotations \[{without}\] of 2 .*'segmentation'"):
        utils.annotations_to_instances(annotations, (8, 10))


def test_filter_empty_instances():
    instances = instances_from([SQUARE], [], [SQUARE])
    instances.gt_boxes.tensor[2, 2] = 1.0
    assert len(utils.filter_empty_instances(instances)) == 1
    assert len(utils.filter_empty_instances(instances, by_mask=False)) == 2
    kept, mask = utils.filter_empty_instances(instances, by_box=False, return_mask=True)
    assert len(kept) == 2 and mask.tolist() == [True, False, True]
    assert len(utils.filter_empty_instances(instances, by_mask=False, box_threshold=4.0)) == 0
    with pytest.raises(AssertionError):
        utils.filter_empty_instances(instances, by_box=False, by_mask=False)


@pytest.mark.standalone_only
def test_filter_returns_a_mask_even_without_masks():
    instances = utils.annotations_to_instances([], (8, 10))
    kept, mask = utils.filter_empty_instances(instances, by_box=False, return_mask=True)
    assert len(kept) == 0 and mask.shape == (0,)


def test_crop_contains_the_centre():
    instance = {"bbox": [10, 20, 100, 90], "bbox_mode": BoxMode.XYXY_ABS}
    for seed in range(30):
        np.random.seed(seed)
        crop = utils.gen_crop_transform_with_instance((40, 30), (150, 160), instance)
        assert (crop.w, crop.h) == (30, 40)
        assert crop.x0 <= 55 <= crop.x0 + 30 and crop.y0 <= 55 <= crop.y0 + 40
        assert 0 <= crop.x0 <= 130 and 0 <= crop.y0 <= 110
    with pytest.raises(AssertionError, match="outside of the image"):
        utils.gen_crop_transform_with_instance((10, 10), (15, 15), instance)
    with pytest.raises(AssertionError, match="larger than image"):
        utils.gen_crop_transform_with_instance((200, 10), (150, 160), instance)


def test_metadata_consistency():
    names = [f"test_detection_utils_{i}" for i in range(3)]
    try:
        for name, classes in zip(names, (["a"], ["a"], ["b"]), strict=True):
            MetadataCatalog.get(name).thing_classes = classes
        utils.check_metadata_consistency("thing_classes", names[:2])
        utils.check_metadata_consistency("thing_classes", [])
        with pytest.raises(ValueError, match="different metadata 'thing_classes'"):
            utils.check_metadata_consistency("thing_classes", names)
        with pytest.raises(AttributeError):
            utils.check_metadata_consistency("stuff_classes", names)
    finally:
        for name in names:
            MetadataCatalog.pop(name, None)


def test_augmentation_from_config():
    config = get_cfg()
    config.INPUT.MIN_SIZE_TRAIN = (30, 40)
    train = utils.build_augmentation(config, is_train=True)
    assert [type(a) for a in train] == [T.ResizeShortestEdge, T.RandomFlip]
    assert tuple(train[0].short_edge_length) == (30, 40) and train[0].max_size == 1333
    config.INPUT.RANDOM_FLIP = "vertical"
    assert utils.build_augmentation(config, is_train=True)[1].vertical
    config.INPUT.RANDOM_FLIP = "none"
    assert len(utils.build_augmentation(config, is_train=True)) == 1
    (test,) = utils.build_augmentation(config, is_train=False)
    assert tuple(test.short_edge_length) == (800, 800)
    assert utils.build_transform_gen is utils.build_augmentation
