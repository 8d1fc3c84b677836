"""Resizing, flipping, cropping: sizes, coordinates, pixel values."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import ListConfig
from PIL import Image
from torch.nn import functional as F

RANDOM = np.random.RandomState(0)


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 1), (12, 10, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_resize_keeps_axes_and_dtype(shape, dtype):
    image = (RANDOM.rand(*shape) * 255).astype(dtype)
    resized = T.ResizeTransform(12, 10, 5, 20).apply_image(image)
    assert resized.shape == (5, 20, *shape[2:]) and resized.dtype == dtype


def test_resize_of_uint8_is_pillows():
    image = RANDOM.randint(0, 256, (12, 10, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((20, 5), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(T.ResizeTransform(12, 10, 5, 20).apply_image(image), expected)


def test_resize_of_float_is_interpolation_without_antialiasing():
    image = RANDOM.rand(12, 10).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(image)[None, None], (5, 20), mode="bilinear")
    resized = T.ResizeTransform(12, 10, 5, 20).apply_image(image)
    np.testing.assert_allclose(resized, expected[0, 0].numpy(), atol=1e-7)
    # A step of one row: averaging over three rows does not see what two samples see.
    step = np.zeros((6, 1), dtype=np.float32)
    step[1] = 90.0
    np.testing.assert_allclose(T.ResizeTransform(6, 1, 2, 1).apply_image(step)[:, 0], [90, 0])
    pillow = T.ResizeTransform(6, 1, 2, 1).apply_image(step.astype(np.uint8))[:, 0]
    assert 0 < pillow[0] < 90


def test_resize_of_a_flipped_view():
    image = RANDOM.rand(4, 6, 2)
    resize = T.ResizeTransform(4, 6, 8, 3)
    np.testing.assert_array_equal(
        resize.apply_image(image[:, ::-1]), resize.apply_image(image[:, ::-1].copy())
    )


@pytest.mark.parametrize("interpolation", ["NEAREST", "BILINEAR", "BICUBIC"])
def test_resize_filters_of_float_images(interpolation):
    image = RANDOM.rand(7, 5, 2)
    resize = T.ResizeTransform(7, 5, 11, 3, getattr(Image.Resampling, interpolation))
    mode = interpolation.lower()
    expected = F.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None],
        (11, 3),
        mode=mode,
        align_corners=None if mode == "nearest" else False,
    )
    np.testing.assert_allclose(
        resize.apply_image(image), expected[0].permute(1, 2, 0).numpy(), atol=1e-12
    )


def test_resize_segmentation_is_nearest():
    labels = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    resized = T.ResizeTransform(2, 2, 4, 6).apply_segmentation(labels)
    np.testing.assert_array_equal(resized, labels.repeat(2, axis=0).repeat(3, axis=1))


@pytest.mark.standalone_only
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16, bool])
def test_resize_segmentation_of_other_integers(dtype):
    labels = np.array([[0, 1], [2, 255]]).astype(dtype)
    resized = T.ResizeTransform(2, 2, 4, 6).apply_segmentation(labels)
    assert resized.dtype == dtype
    np.testing.assert_array_equal(resized, labels.repeat(2, axis=0).repeat(3, axis=1))


@pytest.mark.standalone_only
def test_resize_of_float_with_an_unknown_filter_names_the_known_ones():
    resize = T.ResizeTransform(2, 2, 4, 4, Image.Resampling.LANCZOS)
    with pytest.raises(ValueError, match="nearest, bilinear or bicubic"):
        resize.apply_image(np.zeros((2, 2)))
    assert resize.apply_image(np.zeros((2, 2), np.uint8)).shape == (4, 4)


def test_resize_checks_the_size_of_the_input():
    with pytest.raises(AssertionError):
        T.ResizeTransform(4, 5, 8, 8).apply_image(np.zeros((5, 4), np.uint8))


def test_resize_coordinates_and_inverse():
    resize = T.ResizeTransform(10, 20, 30, 10)
    np.testing.assert_allclose(resize.apply_coords(np.array([[4.0, 5.0]])), [[2.0, 15.0]])
    np.testing.assert_allclose(resize.apply_box(np.array([[4.0, 5, 8, 6]])), [[2, 15, 4, 18]])
    inverse = resize.inverse()
    assert (inverse.h, inverse.w, inverse.new_h, inverse.new_w) == (30, 10, 10, 20)
    np.testing.assert_allclose(inverse.apply_coords(np.array([[2.0, 15.0]])), [[4.0, 5.0]])


def test_flip_uses_continuous_coordinates():
    np.testing.assert_array_equal(T.HFlipTransform(8).apply_coords(np.array([[0.0, 3]])), [[8, 3]])
    np.testing.assert_array_equal(T.VFlipTransform(6).apply_coords(np.array([[0.0, 2]])), [[0, 4]])
    np.testing.assert_array_equal(
        T.HFlipTransform(8).apply_box(np.array([[1.0, 2, 3, 4]])), [[5, 2, 7, 4]]
    )


@pytest.mark.parametrize(
    ("height", "width", "short", "longest", "expected"),
    [
        (480, 640, 800, 1333, (800, 1067)),
        (100, 1000, 800, 1333, (133, 1333)),
        (333, 500, 800, 1333, (800, 1201)),
        (640, 480, 800, 1333, (1067, 800)),
        (500, 500, 300, 1333, (300, 300)),
        (1, 1, 5, 3, (3, 3)),
    ],
)
def test_shortest_edge_output_shape(height, width, short, longest, expected):
    assert T.ResizeShortestEdge.get_output_shape(height, width, short, longest) == expected


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    short=st.integers(1, 1200),
    longest=st.integers(1, 2000),
)
def test_shortest_edge_output_shape_properties(height, width, short, longest):
    new_height, new_width = T.ResizeShortestEdge.get_output_shape(height, width, short, longest)
    assert max(new_height, new_width) <= max(longest, 1)
    assert min(new_height, new_width) <= short
    assert max(new_height, new_width) == longest or min(new_height, new_width) == short
    swapped = T.ResizeShortestEdge.get_output_shape(width, height, short, longest)
    assert swapped == (new_width, new_height)


def test_shortest_edge_arguments():
    image = np.zeros((60, 80, 3), np.uint8)
    fixed = T.ResizeShortestEdge(30).get_transform(image)
    assert (fixed.new_h, fixed.new_w) == (30, 40)
    choice = T.ResizeShortestEdge(ListConfig([15]), 200, "choice").get_transform(image)
    assert (choice.new_h, choice.new_w) == (15, 20)
    assert isinstance(T.ResizeShortestEdge(0).get_transform(image), T.NoOpTransform)
    with pytest.raises(AssertionError, match="two values using 'range'"):
        T.ResizeShortestEdge((1, 2, 3))
    with pytest.raises(AssertionError):
        T.ResizeShortestEdge((1, 2), sample_style="linear")


def test_shortest_edge_range_includes_both_ends():
    augmentation = T.ResizeShortestEdge((6, 8))
    image = np.zeros((4, 4), np.uint8)
    np.random.seed(0)
    assert {augmentation.get_transform(image).new_h for _ in range(40)} == {6, 7, 8}


@pytest.mark.parametrize("shape", [5, (5, 5), ListConfig([5, 5])])
def test_resize_augmentation(shape):
    image, transforms = T.apply_augmentations([T.Resize(shape)], np.zeros((3, 9), np.uint8))
    assert image.shape == (5, 5) and isinstance(transforms[0], T.ResizeTransform)


@pytest.mark.parametrize("both", [True, False])
def test_random_flip_needs_exactly_one_direction(both):
    with pytest.raises(ValueError):
        T.RandomFlip(horizontal=both, vertical=both)


def test_extent_of_the_whole_image_is_the_identity():
    image = RANDOM.randint(0, 256, (6, 8, 3)).astype(np.uint8)
    extent = T.ExtentTransform((0, 0, 8, 6), (6, 8))
    np.testing.assert_array_equal(extent.apply_image(image), image)
    points = np.array([[1.5, 2.5]])
    np.testing.assert_allclose(extent.apply_coords(points), points)


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 1), (10, 10, 3)])
def test_extent_scales_and_fills(shape):
    image = np.full(shape, 200, np.uint8)
    extent = T.ExtentTransform((-10, 0, 10, 10), (20, 40))
    result = extent.apply_image(image)
    assert result.shape == (20, 40, *shape[2:])
    assert (result[:, :19] == 0).all() and (result[:, 21:] == 200).all()
    np.testing.assert_allclose(extent.apply_coords(np.array([[0.0, 5.0]])), [[20.0, 10.0]])
    assert extent.apply_box(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.standalone_only
def test_extent_of_a_segmentation_is_nearest():
    labels = np.array([[10, 10, 200, 200]] * 4, dtype=np.uint8)
    result = T.ExtentTransform((0.3, 0, 3.3, 4), (8, 11)).apply_segmentation(labels)
    assert set(np.unique(result)) == {10, 200}


@pytest.mark.standalone_only
def test_extent_fill_is_the_value_of_every_channel():
    image = np.zeros((4, 4, 3), np.uint8)
    result = T.ExtentTransform((8, 8, 12, 12), (2, 2), fill=7).apply_image(image)
    assert (result == 7).all()
