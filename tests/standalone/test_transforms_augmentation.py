"""The base classes of augmentations: what they ask for, apply and print."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from omegaconf import ListConfig


def make_image(height=6, width=8):
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


class NeedsSegmentation(T.Augmentation):
    def get_transform(self, image, sem_seg):
        assert image.shape[:2] == sem_seg.shape
        return T.HFlipTransform(image.shape[1])


def test_inputs_are_asked_for_by_name():
    image = make_image()
    inputs = T.AugInput(image, sem_seg=image[:, :, 0])
    transform = NeedsSegmentation()(inputs)
    assert isinstance(transform, T.HFlipTransform)
    np.testing.assert_array_equal(inputs.image, image[:, ::-1])
    np.testing.assert_array_equal(inputs.sem_seg, image[:, ::-1, 0])


def test_any_attribute_of_the_input_can_be_asked_for():
    class NeedsCamera(T.Augmentation):
        def get_transform(self, image, intrinsics):
            assert intrinsics == "K"
            return T.NoOpTransform()

    inputs = T.AugInput(make_image())
    with pytest.raises(AttributeError, match="intrinsics"):
        NeedsCamera()(inputs)
    inputs.intrinsics = "K"
    assert isinstance(NeedsCamera()(inputs), T.NoOpTransform)


def test_single_parameter_receives_the_image():
    class LegacyName(T.Augmentation):
        def get_transform(self, img):
            return T.VFlipTransform(img.shape[0])

    image = make_image()
    inputs = T.AugInput(image)
    LegacyName()(inputs)
    np.testing.assert_array_equal(inputs.image, image[::-1])


def test_input_args_override_the_names():
    class Renamed(T.Augmentation):
        input_args = ("image", "boxes")

        def get_transform(self, first, second):
            assert first.ndim == 3 and second.shape == (1, 4)
            return T.NoOpTransform()

    Renamed()(T.AugInput(make_image(), boxes=np.zeros((1, 4))))


def test_variadic_get_transform_is_rejected():
    class Variadic(T.Augmentation):
        def get_transform(self, image, *others):
            return T.NoOpTransform()

    with pytest.raises(TypeError, match="args"):
        Variadic()(T.AugInput(make_image()))


def test_get_transform_must_exist_and_return_a_transform():
    with pytest.raises(NotImplementedError):
        T.Augmentation()(T.AugInput(make_image()))

    class ReturnsNothing(T.Augmentation):
        def get_transform(self, image):
            return None

    with pytest.raises(AssertionError, match="must return an instance of Transform"):
        ReturnsNothing()(T.AugInput(make_image()))


def test_list_applies_in_order_and_returns_what_was_used():
    image = make_image()
    inputs = T.AugInput(image, boxes=np.array([[1.0, 2, 3, 4]]))
    transforms = T.AugmentationList([T.RandomFlip(prob=1.0), T.CropTransform(0, 0, 4, 3)])(inputs)
    assert isinstance(transforms, T.TransformList)
    assert [type(t) for t in transforms.transforms] == [T.HFlipTransform, T.CropTransform]
    np.testing.assert_array_equal(inputs.image, image[:3, :3:-1])
    np.testing.assert_array_equal(inputs.boxes, [[5, 2, 7, 4]])
    np.testing.assert_array_equal(transforms.apply_image(image), inputs.image)


def test_list_from_a_config_container():
    augmentations = ListConfig([T.RandomFlip(prob=1.0)], flags={"allow_objects": True})
    result = T.AugInput(make_image()).apply_augmentations(augmentations)
    assert isinstance(result[0], T.HFlipTransform)


def test_list_rejects_other_objects():
    with pytest.raises(AssertionError):
        T.AugmentationList([T.RandomFlip(), "flip"])


def test_apply_augmentations_to_image_and_to_input():
    image = make_image()
    flipped, transforms = T.apply_augmentations([T.RandomFlip(prob=1.0)], image)
    np.testing.assert_array_equal(flipped, image[:, ::-1])
    assert len(transforms) == 1
    inputs = T.AugInput(image)
    returned, _ = T.apply_augmentations([T.RandomFlip(prob=1.0)], inputs)
    assert returned is inputs
    np.testing.assert_array_equal(inputs.image, image[:, ::-1])


def test_empty_list_changes_nothing():
    image = make_image()
    result, transforms = T.apply_augmentations([], image)
    assert result is image and len(transforms) == 0


def test_aliases():
    assert T.TransformGen is T.Augmentation
    assert T.StandardAugInput is T.AugInput
    assert T.apply_transform_gens is T.apply_augmentations


@pytest.mark.parametrize("image", [[[1, 2], [3, 4]], np.zeros(3), np.zeros((1, 2, 3, 4))])
def test_input_must_be_an_image_array(image):
    with pytest.raises(AssertionError):
        T.AugInput(image)


def test_repr_shows_arguments_that_were_given():
    assert str(T.RandomFlip()) == "RandomFlip()"
    assert str(T.RandomFlip(prob=float("0.5"))) == "RandomFlip(prob=0.5)"
    crop = T.RandomCrop("relative", (100, 100))
    assert repr(crop) == "RandomCrop(crop_type='relative', crop_size=(100, 100))"
    combined = T.AugmentationList([T.RandomFlip(), crop])
    assert str(combined) == f"AugmentationList[{T.RandomFlip()}, {crop}]"


def test_repr_of_a_class_whose_arguments_are_not_kept():
    class Forgetful(T.Augmentation):
        def __init__(self, secret):
            pass

    assert "secret" not in repr(Forgetful(3)) and "Forgetful" in repr(Forgetful(3))


def test_rand_range():
    np.random.seed(0)
    augmentation = T.Augmentation()
    expected = np.random.RandomState(0)
    assert augmentation._rand_range() == expected.uniform()
    assert augmentation._rand_range(3.0) == expected.uniform(0, 3)
    assert augmentation._rand_range(2.0, 3.0) == expected.uniform(2, 3)
    np.testing.assert_array_equal(
        augmentation._rand_range(2.0, 3.0, (2,)), expected.uniform(2, 3, 2)
    )


def test_registered_type_travels_through_a_list():
    class Shift(T.NoOpTransform):
        def __init__(self, amount):
            self.amount = amount

    Shift.register_type("depth_of_test", lambda transform, depth: depth + transform.amount)
    assert T.TransformList([Shift(1), Shift(2)]).apply_depth_of_test(10) == 13


@pytest.mark.parametrize("probability", [-0.01, 1.01])
def test_random_apply_checks_the_probability(probability):
    with pytest.raises(AssertionError, match=r"between 0\.0 and 1\.0"):
        T.RandomApply(T.NoOpTransform(), prob=probability)


@pytest.mark.parametrize("wrapped", [T.HFlipTransform(8), T.RandomFlip(prob=1.0)])
def test_random_apply_always_and_never(wrapped):
    image = make_image()
    for probability, expected in ((1.0, image[:, ::-1]), (0.0, image)):
        inputs = T.AugInput(image)
        T.RandomApply(wrapped, probability)(inputs)
        np.testing.assert_array_equal(inputs.image, expected)
        transform = T.RandomApply(wrapped, probability).get_transform(image)
        np.testing.assert_array_equal(transform.apply_image(image), expected)


def test_random_apply_of_a_list():
    image = make_image()
    inputs = T.AugInput(image)
    T.RandomApply(T.AugmentationList([T.HFlipTransform(8), T.VFlipTransform(6)]), 1.0)(inputs)
    np.testing.assert_array_equal(inputs.image, image[::-1, ::-1])
