"""Random crops: sizes within the promised limits, inputs cut together."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import ListConfig

IMAGE = np.arange(60 * 80 * 3).astype(np.uint8).reshape(60, 80, 3)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    limits=st.tuples(st.integers(1, 100), st.integers(1, 100)).map(sorted),
    seed=st.integers(0, 1000),
)
def test_absolute_range_limits(height, width, limits, seed):
    np.random.seed(seed)
    low, high = limits
    crop = T.RandomCrop("absolute_range", (low, high)).get_transform(np.zeros((height, width)))
    assert min(height, low) <= crop.h <= min(height, high)
    assert min(width, low) <= crop.w <= min(width, high)
    assert 0 <= crop.x0 <= width - crop.w and 0 <= crop.y0 <= height - crop.h


def test_crop_sizes():
    assert T.RandomCrop("relative", (0.5, 0.25)).get_crop_size((60, 80)) == (30, 20)
    assert T.RandomCrop("relative", (0.5, 0.5)).get_crop_size((5, 7)) == (3, 4)  # half up
    assert T.RandomCrop("absolute", ListConfig([100, 20])).get_crop_size((60, 80)) == (60, 20)
    np.random.seed(0)
    sizes = [T.RandomCrop("relative_range", (0.5, 0.9)).get_crop_size((60, 80)) for _ in range(50)]
    assert all(30 <= height <= 60 and 72 <= width <= 80 for height, width in sizes)
    assert len(set(sizes)) > 20


def test_crop_errors():
    with pytest.raises(AssertionError):
        T.RandomCrop("square", (1, 1))
    with pytest.raises(AssertionError):
        T.RandomCrop("absolute_range", (5, 3)).get_crop_size((10, 10))
    with pytest.raises(AssertionError):
        T.RandomCrop("relative", (1.5, 1)).get_transform(IMAGE)


def test_crop_cuts_everything_together():
    np.random.seed(0)
    inputs = T.AugInput(IMAGE, boxes=np.array([[10.0, 10, 40, 40]]), sem_seg=IMAGE[:, :, 1])
    crop = T.RandomCrop("absolute", (20, 30))(inputs)
    window = (slice(crop.y0, crop.y0 + 20), slice(crop.x0, crop.x0 + 30))
    np.testing.assert_array_equal(inputs.image, IMAGE[window])
    np.testing.assert_array_equal(inputs.sem_seg, IMAGE[window][:, :, 1])
    shift = [crop.x0, crop.y0] * 2
    np.testing.assert_array_equal(inputs.boxes, np.array([[10.0, 10, 40, 40]]) - shift)


def test_category_area_constraint():
    labels = np.zeros((60, 80), np.uint8)
    labels[:, 40:] = 1
    augmentation = T.RandomCrop_CategoryAreaConstraint("absolute", (10, 10), 0.95)
    mixed = 0
    np.random.seed(0)
    for _ in range(20):
        crop = augmentation.get_transform(IMAGE, labels)
        mixed += len(np.unique(crop.apply_segmentation(labels))) == 2
    # One crop in eight shows both labels; the best of ten does in three of four.
    assert mixed >= 10
    # With the second label ignored one category is left everywhere: ten trials, then given up.
    ignoring = T.RandomCrop_CategoryAreaConstraint("absolute", (10, 10), 0.95, 1)
    assert isinstance(ignoring.get_transform(IMAGE, labels), T.CropTransform)


def test_fixed_size_crop_pads_and_crops():
    np.random.seed(0)
    inputs = T.AugInput(IMAGE, sem_seg=IMAGE[:, :, 0])
    transforms = T.FixedSizeCrop((40, 100))(inputs)
    assert inputs.image.shape == (40, 100, 3) and inputs.sem_seg.shape == (40, 100)
    y0 = transforms[0].y0
    np.testing.assert_array_equal(inputs.image[:, :80], IMAGE[y0 : y0 + 40])
    assert (inputs.image[:, 80:] == 128).all() and (inputs.sem_seg[:, 80:] == 255).all()


def test_fixed_size_crop_without_padding():
    inputs = T.AugInput(IMAGE)
    T.FixedSizeCrop(ListConfig([100, 30]), pad=False)(inputs)
    assert inputs.image.shape == (60, 30, 3)


@pytest.mark.parametrize(("scale", "size"), [(1.0, (60, 48)), (0.5, (30, 24))])
def test_resize_scale_fits_the_target(scale, size):
    image = np.zeros((100, 80), np.uint8)
    transform = T.ResizeScale(scale, scale, 60, 90).get_transform(image)
    assert (transform.new_h, transform.new_w) == size


def test_random_extent_of_scale_one_is_the_identity():
    result, transforms = T.apply_augmentations([T.RandomExtent((1, 1), (0, 0))], IMAGE)
    np.testing.assert_array_equal(result, IMAGE)
    assert transforms[0].src_rect == (0.0, 0.0, 80.0, 60.0)


def test_min_iou_crop_keeps_the_promised_overlap():
    box = np.array([[20.0, 15, 60, 45]])
    augmentation = T.MinIoURandomCrop(min_ious=(0.4,))
    np.random.seed(0)
    cut = 0
    for _ in range(30):
        inputs = T.AugInput(IMAGE, boxes=box.copy())
        crop = augmentation(inputs)
        if isinstance(crop, T.CropTransform):
            cut += 1
            assert 0.5 <= crop.h / crop.w <= 2.1
            x_center, y_center = inputs.boxes.reshape(2, 2).mean(axis=0)
            assert 0 < x_center < crop.w + 1 and 0 < y_center < crop.h + 1
    assert cut > 10


def test_min_iou_crop_without_boxes():
    augmentation = T.MinIoURandomCrop()
    assert isinstance(augmentation.get_transform(IMAGE, None), T.NoOpTransform)
    np.random.seed(0)
    chosen = [augmentation.get_transform(IMAGE, np.zeros((0, 4))) for _ in range(10)]
    assert any(isinstance(t, T.CropTransform) for t in chosen)


@pytest.mark.standalone_only
def test_min_iou_crop_gives_up_with_the_image_as_it_is():
    augmentation = T.MinIoURandomCrop(mode_trials=0)
    transform = augmentation.get_transform(IMAGE, np.array([[20.0, 15, 60, 45]]))
    assert isinstance(transform, T.NoOpTransform)
