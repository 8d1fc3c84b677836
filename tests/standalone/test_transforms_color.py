"""Transforms of pixel values."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import ImageOps

IMAGE = np.random.RandomState(0).randint(0, 256, (6, 8, 3)).astype(np.uint8)


def test_color_transform_leaves_geometry_alone():
    transform = T.ColorTransform(lambda image: 255 - image)
    np.testing.assert_array_equal(transform.apply_image(IMAGE), 255 - IMAGE)
    coordinates = np.array([[1.0, 2.0]])
    assert transform.apply_coords(coordinates) is coordinates
    assert transform.apply_segmentation(IMAGE) is IMAGE
    assert isinstance(transform.inverse(), T.NoOpTransform)


def test_pil_color_transform():
    transform = T.PILColorTransform(lambda image: ImageOps.solarize(image, 100))
    expected = np.where(IMAGE < 100, IMAGE, 255 - IMAGE)
    np.testing.assert_array_equal(transform.apply_image(IMAGE), expected)


@pytest.mark.parametrize("kind", [T.ColorTransform, T.PILColorTransform])
def test_operation_must_be_callable(kind):
    with pytest.raises(ValueError, match="callable"):
        kind("invert")


def fixed(kind, weight, image=IMAGE):
    return T.apply_augmentations([kind(weight, weight)], image)[0]


@pytest.mark.parametrize("kind", [T.RandomBrightness, T.RandomContrast, T.RandomSaturation])
def test_weight_one_preserves(kind):
    np.testing.assert_array_equal(fixed(kind, 1.0), IMAGE)


def test_references_at_weight_zero():
    image = IMAGE.astype(np.float64)
    np.testing.assert_allclose(fixed(T.RandomBrightness, 0.0, image), 0)
    np.testing.assert_allclose(fixed(T.RandomContrast, 0.0, image), image.mean())
    grey = 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]
    result = fixed(T.RandomSaturation, 0.0, image)
    np.testing.assert_allclose(result, np.repeat(grey[..., None], 3, axis=2))


def test_uint8_is_clipped():
    brighter = fixed(T.RandomBrightness, 3.0)
    assert brighter.dtype == np.uint8
    np.testing.assert_array_equal(brighter, np.minimum(3 * IMAGE.astype(int), 255))


def test_lighting_without_scale_changes_nothing():
    np.testing.assert_array_equal(
        T.apply_augmentations([T.RandomLighting(0.0)], IMAGE.astype(np.float32))[0], IMAGE
    )


@pytest.mark.parametrize("augmentation", [T.RandomSaturation(0, 1), T.RandomLighting(1.0)])
def test_colour_policies_need_three_channels(augmentation):
    with pytest.raises(AssertionError, match="only works on RGB"):
        augmentation.get_transform(IMAGE[:, :, :1])
