"""Drawing."""

import sys

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks

pytest.importorskip("matplotlib")
from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer

HEIGHT, WIDTH = 40, 60
CHAIRS = {"thing_classes": ["chair", "table"], "thing_colors": [[255, 0, 0], [0, 0, 255]]}


@pytest.fixture(autouse=True)
def fixed_random_colors():
    np.random.seed(0)


@pytest.fixture
def image():
    return np.full((HEIGHT, WIDTH, 3), 100.0)


@pytest.fixture
def bitmaps():
    masks = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    masks[0, 5:20, 5:20] = True
    masks[1, 20:35, 30:55] = True
    return masks


def changed(visualizer):
    """Pixels that differ from the grey image."""
    return (visualizer.get_output().get_image() != 100).any(axis=2)


@pytest.mark.parametrize("size", [(40, 60), (64, 64), (928, 700), (1, 1)])
def test_output_shape(size):
    image = np.random.default_rng(0).uniform(0, 255, (*size, 3))
    output = Visualizer(image).get_output()
    assert isinstance(output, VisImage)
    np.testing.assert_array_equal(output.get_image(), image.astype(np.uint8))


def test_scale_and_clipping():
    image = np.array([[[-5.0, 0, 300]]]).repeat(4, axis=0).repeat(6, axis=1)
    output = Visualizer(image, scale=2.5).get_output().get_image()
    assert output.shape == (10, 15, 3)
    assert output.dtype == np.uint8
    np.testing.assert_array_equal(np.unique(output.reshape(-1, 3), axis=0), [[0, 0, 255]])


def test_save(image, tmp_path):
    from PIL import Image

    visualizer = Visualizer(image)
    visualizer.draw_circle((30, 20), color="red", radius=5)
    visualizer.get_output().save(str(tmp_path / "out.png"))
    saved = np.asarray(Image.open(tmp_path / "out.png").convert("RGB"))
    assert saved.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(saved[20, 30], [255, 0, 0])


def test_binary_mask_is_a_tint(image, bitmaps):
    visualizer = Visualizer(image)
    visualizer.draw_binary_mask(bitmaps[0], color="red", alpha=0.5)
    output = visualizer.get_output().get_image()
    np.testing.assert_allclose(output[12, 12], [178, 50, 50], atol=2)  # half way to (255, 0, 0)
    np.testing.assert_array_equal(output[30, 40], [100, 100, 100])


@pytest.mark.standalone_only
def test_mask_covers_exactly_its_pixels(image, bitmaps):
    bitmaps[0, 10:12, 10:12] = False  # a hole
    visualizer = Visualizer(image)
    visualizer.draw_binary_mask(bitmaps[0], color="red")
    np.testing.assert_array_equal(changed(visualizer), bitmaps[0])


def test_primitives_draw_where_they_should(image):
    draw = {
        "box": lambda v: v.draw_box((10, 10, 30, 30), edge_color="r"),
        "line": lambda v: v.draw_line([10, 30], [20, 20], color="r"),
        "circle": lambda v: v.draw_circle((20, 20), color="r"),
        "polygon": lambda v: v.draw_polygon(np.array([[10, 10], [30, 10], [20, 30]]), "r"),
        "text": lambda v: v.draw_text("x", (20, 10), color="r"),
    }
    for name, function in draw.items():
        visualizer = Visualizer(image)
        assert function(visualizer) is visualizer.get_output()
        pixels = changed(visualizer)
        assert pixels[8:33, 8:33].any(), name
        assert not pixels[:, 45:].any(), name


@pytest.mark.parametrize(
    "kind", ["array", "tensor", "list", "BitMasks", "polygons", "PolygonMasks"]
)
def test_overlay_instances(image, bitmaps, kind):
    polygons = [[np.array([5, 5, 20, 5, 20, 20, 5, 20.0])], [np.array([30, 20, 55, 20, 55, 35.0])]]
    masks = {
        "array": bitmaps,
        "tensor": torch.from_numpy(bitmaps),
        "list": list(bitmaps),
        "BitMasks": BitMasks(torch.from_numpy(bitmaps)),
        "polygons": polygons,
        "PolygonMasks": PolygonMasks(polygons),
    }[kind]
    visualizer = Visualizer(image)
    output = visualizer.overlay_instances(masks=masks, assigned_colors=["red", "blue"])
    image = output.get_image()
    assert image[12, 12].argmax() == 0
    assert image[24, 50].argmax() == 2
    np.testing.assert_array_equal(image[37, 5], [100, 100, 100])


def test_overlay_boxes_and_labels(image):
    boxes = torch.tensor([[2.0, 15, 25, 38], [30, 2, 55, 20]])
    for form in (boxes, boxes.numpy(), Boxes(boxes)):
        visualizer = Visualizer(image)
        visualizer.overlay_instances(boxes=form, labels=["a", "b"])
        assert changed(visualizer).any()


def test_nothing_to_overlay(image):
    visualizer = Visualizer(image)
    visualizer.overlay_instances()
    visualizer.overlay_instances(boxes=np.zeros((0, 4)), labels=[])
    assert not changed(visualizer).any()


@pytest.mark.standalone_only
def test_mismatched_inputs(image, bitmaps):
    with pytest.raises(ValueError, match=r"must have equal lengths, got \[1, 2\]"):
        Visualizer(image).overlay_instances(masks=bitmaps, labels=["only one"])
    with pytest.raises(ValueError, match=r"shape \(3, 3\), but the image is 40 x 60"):
        Visualizer(image).overlay_instances(masks=np.zeros((1, 3, 3)))


def predictions(bitmaps):
    return Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.tensor([[5.0, 5, 20, 20], [30, 20, 55, 35]])),
        pred_masks=torch.from_numpy(bitmaps),
        pred_classes=torch.tensor([0, 1]),
        scores=torch.tensor([0.9, 0.256]),
    )


class Names(dict):
    """Metadata with attributes, as detectron2's catalogue gives them."""

    __getattr__ = dict.__getitem__


def texts(visualizer):
    return [text.get_text() for text in visualizer.get_output().ax.texts]


def test_predictions(image, bitmaps):
    visualizer = Visualizer(image, Names(CHAIRS))
    output = visualizer.draw_instance_predictions(predictions(bitmaps))
    assert output is visualizer.get_output()
    assert sorted(texts(visualizer)) == ["chair 90%", "table 26%"]
    unnamed = Visualizer(image)
    unnamed.draw_instance_predictions(predictions(bitmaps))
    assert sorted(texts(unnamed)) == ["0 90%", "1 26%"]


def test_predictions_in_class_colors(image, bitmaps):
    scale = 6  # large enough for the labels not to cover the instances
    large = np.kron(image, np.ones((scale, scale, 1)))
    instances = predictions(np.kron(bitmaps, np.ones((1, scale, scale))).astype(bool))
    instances.pred_boxes.scale(scale, scale)
    visualizer = Visualizer(large, Names(CHAIRS), instance_mode=ColorMode.SEGMENTATION)
    output = visualizer.draw_instance_predictions(instances).get_image()
    assert output[18 * scale, 18 * scale].argmax() == 0
    assert output[33 * scale, 53 * scale].argmax() == 2


def test_predictions_on_grey(bitmaps):
    colorful = np.zeros((HEIGHT, WIDTH, 3))
    colorful[..., 0] = 240
    visualizer = Visualizer(colorful, instance_mode=ColorMode.IMAGE_BW)
    output = visualizer.draw_instance_predictions(predictions(bitmaps)).get_image()
    np.testing.assert_array_equal(output[38, 3], [80, 80, 80])
    empty = Visualizer(colorful, instance_mode=ColorMode.IMAGE_BW)
    output = empty.draw_instance_predictions(predictions(bitmaps)[:0]).get_image()
    np.testing.assert_array_equal(output, np.full_like(output, 80))


def test_empty_masks(image, bitmaps):
    visualizer = Visualizer(image)
    visualizer.draw_instance_predictions(predictions(np.zeros_like(bitmaps)))


def annotation(**fields):
    return {
        "bbox": [5, 5, 20, 15],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 1,
        "iscrowd": 0,
        **fields,
    }


def test_dataset_dict(image):
    polygon = [[5.0, 5, 25, 5, 25, 20]]
    record = {"annotations": [annotation(segmentation=polygon, iscrowd=1)], "file_name": "x"}
    visualizer = Visualizer(image, Names(CHAIRS))
    visualizer.draw_dataset_dict(record)
    assert texts(visualizer) == ["table|crowd"]
    assert changed(visualizer)[10, 20]


def test_dataset_dict_with_rle(image, bitmaps):
    import pycocotools.mask

    rle = pycocotools.mask.encode(np.asfortranarray(bitmaps[0].astype(np.uint8)))
    counts, position, value = [], 0, 0
    flat = bitmaps[0].T.ravel().astype(int)
    for k in [*np.flatnonzero(np.diff(flat)) + 1, len(flat)]:  # uncompressed: run lengths
        counts.append(int(k - position))
        position, value = k, 1 - value
    for segmentation in (rle, {"counts": counts, "size": [HEIGHT, WIDTH]}):
        visualizer = Visualizer(image)
        visualizer.draw_dataset_dict({"annotations": [annotation(segmentation=segmentation)]})
        assert changed(visualizer)[18, 18]


def test_dataset_dict_without_annotations(image):
    visualizer = Visualizer(image)
    visualizer.draw_dataset_dict({"file_name": "x"})
    visualizer.draw_dataset_dict({"annotations": []})
    assert not changed(visualizer).any()


@pytest.mark.standalone_only
def test_dataset_dict_with_some_masks(image):
    polygon = [[5.0, 5, 25, 5, 25, 20]]
    visualizer = Visualizer(image)
    visualizer.draw_dataset_dict({"annotations": [annotation(), annotation(segmentation=polygon)]})
    assert texts(visualizer) == ["1", "1"]


def test_keypoints(image):
    points = torch.tensor([[[20.0, 20.0, 1.0], [50.0, 30.0, 0.0]]])
    visualizer = Visualizer(image, Names(CHAIRS))
    visualizer.overlay_instances(keypoints=points)
    pixels = changed(visualizer)
    assert pixels[20, 20]
    assert not pixels[30, 50]


@pytest.mark.standalone_only
def test_missing_matplotlib_is_explained(image, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        Visualizer(image)
