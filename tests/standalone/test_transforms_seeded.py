"""The same numpy seed chooses the same transforms in both implementations."""

import inspect

import numpy as np
import pytest
from detectron2.data import transforms as T

IMAGE = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)
INPUTS = {
    "image": IMAGE,
    "boxes": np.array([[10.0, 10, 40, 40], [30, 20, 70, 50]]),
    "sem_seg": (np.arange(60 * 80).reshape(60, 80) // 37 % 4).astype(np.uint8),
}
FIELDS = {
    T.HFlipTransform: ("width",),
    T.VFlipTransform: ("height",),
    T.ResizeTransform: ("new_h", "new_w"),
    T.CropTransform: ("x0", "y0", "w", "h"),
    T.PadTransform: ("x0", "y0", "x1", "y1"),
    T.ExtentTransform: ("src_rect", "output_size"),
    T.BlendTransform: ("src_weight", "dst_weight"),
    T.NoOpTransform: (),
}


def numbers(transform):
    """What was drawn, as one flat list; lists of transforms one after the other."""
    if isinstance(transform, T.TransformList):
        return [value for t in transform.transforms for value in numbers(t)]
    return [float(v) for f in FIELDS[type(transform)] for v in np.ravel(getattr(transform, f))]


def choose(augmentation):
    names = inspect.signature(augmentation.get_transform).parameters
    arguments = [INPUTS["image"]] if len(names) == 1 else [INPUTS[name] for name in names]
    return augmentation.get_transform(*arguments)


# Augmentation, what it chooses in three calls after seed 7, and the integer below one million
# that the generator yields next: it shows that the number of draws is the same, too.
# Recorded with detectron2 0.6 at commit 02b5c4e295e9.
RECORDED = {
    "hflip": (T.RandomFlip(), [[80], [], [80]], 328599),
    "vflip": (T.RandomFlip(0.5, horizontal=False, vertical=True), [[60], [], [60]], 328599),
    "short_edge_range": (
        T.ResizeShortestEdge((30, 90), 100),
        [[75, 100], [34, 45], [55, 73]],
        535030,
    ),
    "short_edge_choice": (
        T.ResizeShortestEdge((30, 45, 90), 100, "choice"),
        [[30, 40], [45, 60], [75, 100]],
        759363,
    ),
    "crop_relative_range": (
        T.RandomCrop("relative_range", (0.3, 0.5)),
        [[3, 3, 71, 21], [0, 7, 79, 48], [7, 8, 57, 22]],
        759782,
    ),
    "crop_relative": (
        T.RandomCrop("relative", (0.3, 0.5)),
        [[25, 4, 40, 18], [19, 3, 40, 18], [39, 23, 40, 18]],
        886108,
    ),
    "crop_absolute": (
        T.RandomCrop("absolute", (20, 100)),
        [[0, 4, 80, 20], [0, 25, 80, 20], [0, 3, 80, 20]],
        839891,
    ),
    "crop_absolute_range": (
        T.RandomCrop("absolute_range", (20, 70)),
        [[19, 3, 45, 24], [8, 14, 59, 43], [10, 10, 66, 45]],
        177032,
    ),
    "apply": (
        T.RandomApply(T.RandomCrop("relative_range", (0.3, 0.5)), 0.7),
        [[7, 7, 58, 51], [], [4, 8, 43, 39]],
        640432,
    ),
    "brightness": (
        T.RandomBrightness(0.5, 1.5),
        [[0.4237, 0.5763], [-0.2799, 1.2799], [0.0616, 0.9384]],
        328599,
    ),
    "contrast": (
        T.RandomContrast(0.5, 1.5),
        [[0.4237, 0.5763], [-0.2799, 1.2799], [0.0616, 0.9384]],
        328599,
    ),
    "saturation": (
        T.RandomSaturation(0.5, 1.5),
        [[0.4237, 0.5763], [-0.2799, 1.2799], [0.0616, 0.9384]],
        328599,
    ),
    "lighting": (T.RandomLighting(1.0), [[1, 1], [1, 1], [1, 1]], 351148),
    "resize": (
        T.RandomResize(((20, 30), (40, 50), (60, 70))),
        [[20, 30], [40, 50], [60, 70]],
        759363,
    ),
    "scale": (T.ResizeScale(0.1, 2.0, 100, 90), [[17, 22], [107, 142], [63, 84]], 328599),
    "fixed_size_crop": (
        T.FixedSizeCrop((40, 100)),
        [[0, 2, 100, 40, 0, 0, 20, 0], [0, 16, 100, 40, 0, 0, 20, 0], [0, 9, 100, 40, 0, 0, 20, 0]],
        328599,
    ),
    "extent": (
        T.RandomExtent((0.7, 1.4), (0.3, 0.2)),
        [
            [16.5814, 6.6584, 76.8547, 51.8634, 45, 60],
            [3.2147, -5.7308, 99.7288, 66.6547, 72, 96],
            [-12.3021, -4.3023, 71.7606, 58.7448, 63, 84],
        ],
        543911,
    ),
    "category_area": (
        T.RandomCrop_CategoryAreaConstraint("absolute", (9, 9), 0.7),
        [[68, 47, 9, 9], [67, 25, 9, 9], [23, 19, 9, 9]],
        79463,
    ),
    "min_iou": (
        T.MinIoURandomCrop(),
        [[9, 6, 69, 38], [5, 17, 50, 39], [14, 2, 55, 55]],
        118917,
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_draws(name):
    augmentation, expected, next_integer = RECORDED[name]
    np.random.seed(7)
    chosen = [numbers(choose(augmentation)) for _ in range(3)]
    for values, expected_values in zip(chosen, expected, strict=True):
        np.testing.assert_allclose(values, expected_values, atol=1e-4)
    assert np.random.randint(10**6) == next_integer


def test_recorded_lighting_offset():
    np.random.seed(7)
    for _ in range(3):
        transform = T.RandomLighting(1.0).get_transform(IMAGE)
    np.testing.assert_allclose(
        transform.src_image, [-0.02177975, -0.00346675, 0.0249584], atol=1e-8
    )


def test_draws_of_a_chain_depend_on_the_seed_only():
    augmentations = [T.RandomFlip(), T.ResizeShortestEdge((30, 90), 100), T.RandomBrightness(0, 2)]
    results = []
    for _ in range(2):
        np.random.seed(3)
        results.append(T.apply_augmentations(augmentations, IMAGE)[0])
    np.testing.assert_array_equal(*results)
