"""Camera, maps and poses follow every augmentation (round trips on an analytic scene)."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.data.transforms import (
    CameraRollTransform,
    ColorJitter,
    RandomCameraRoll,
    SceneInput,
    transform_intrinsics,
    warp_nearest,
)
from roca_nocs.geometry.camera import back_project

HEIGHT, WIDTH = 48, 64
# A plane n.p = d in the camera frame; its depth map is analytic for any camera.
NORMAL = torch.tensor([0.2, -0.3, 0.9], dtype=torch.float64)
DISTANCE = 2.0


def intrinsics() -> torch.Tensor:
    return torch.tensor([[70.0, 0, 33.2], [0, 64.0, 22.7], [0, 0, 1]], dtype=torch.float64)


def plane_depth() -> np.ndarray:
    rays = back_project(torch.ones(HEIGHT, WIDTH, dtype=torch.float64), intrinsics())
    return (DISTANCE / (rays @ NORMAL)).numpy().astype(np.float32)


def scene(*, chiral: bool = True) -> SceneInput:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    depth = plane_depth()
    ids = np.ones((HEIGHT, WIDTH), dtype=np.uint8)
    return SceneInput(image, intrinsics(), {"depth": depth, "instance": ids}, chiral=chiral)


def plane_error(moved: SceneInput, pixels: float) -> float:
    """Largest distance (metres) of back-projected points from the plane, in the moved camera,
    over what a sampling error of that many pixels explains."""
    depth = torch.from_numpy(np.ascontiguousarray(moved.maps["depth"])).double()
    points = back_project(depth, moved.intrinsics)
    normal = moved.camera_rotation @ NORMAL
    inside = depth > 0
    error = ((points @ normal) - DISTANCE).abs()[inside].max()
    tolerance = pixels * float(depth.max()) / 60
    return float(error) / tolerance


geometric = st.one_of(
    st.builds(
        lambda h, w: T.ResizeTransform(HEIGHT, WIDTH, h, w),
        st.integers(20, 90),
        st.integers(20, 90),
    ),
    st.builds(
        lambda x, y, w, h: T.CropTransform(x, y, w, h, WIDTH, HEIGHT),
        st.integers(0, 20),
        st.integers(0, 20),
        st.integers(20, 40),
        st.integers(20, 28),
    ),
    st.builds(T.PadTransform, *[st.integers(0, 9)] * 4),
    st.builds(lambda a: CameraRollTransform(a, intrinsics()), st.floats(-0.3, 0.3)),
)


@settings(max_examples=60)
@given(geometric)
def test_depth_lies_on_the_same_plane_after_any_transform(transform: T.Transform) -> None:
    moved = scene()
    moved.transform(transform)
    assert moved.image.shape[:2] == moved.maps["depth"].shape == moved.maps["instance"].shape
    # A nearest sample lies up to half a source pixel away in x and in y.
    assert plane_error(moved, pixels=1.0) < 1


def test_the_plane_test_notices_intrinsics_that_stay_behind() -> None:
    moved = scene()
    moved.transform(T.ResizeTransform(HEIGHT, WIDTH, 96, 96))
    moved.intrinsics = intrinsics()
    assert plane_error(moved, pixels=1.0) > 1


@settings(max_examples=30)
@given(st.lists(st.floats(-0.2, 0.2), min_size=1, max_size=3))
def test_rolls_accumulate(angles: list[float]) -> None:
    moved = scene()
    for angle in angles:
        moved.transform(CameraRollTransform(angle, moved.intrinsics))
    total = CameraRollTransform(sum(angles), intrinsics())
    expected = SceneInput(moved.image, intrinsics(), {}, chiral=True)
    expected.transform(total)
    assert torch.allclose(moved.camera_rotation, expected.camera_rotation)


def test_roll_moves_boxes_with_the_image() -> None:
    transform = CameraRollTransform(0.2, intrinsics())
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[18:26, 28:40] = 1
    box = transform.apply_box(np.array([[28.0, 18.0, 40.0, 26.0]]))[0]
    rows, columns = np.nonzero(transform.apply_segmentation(ids))
    tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(np.subtract(tight, box)).max() <= 1
    there_and_back = transform.inverse().apply_coords(transform.apply_coords(np.ones((1, 2))))
    assert there_and_back == pytest.approx(np.ones((1, 2)))


def test_maps_are_never_interpolated() -> None:
    moved = scene()
    before = np.unique(moved.maps["depth"])
    moved.transform(T.ResizeTransform(HEIGHT, WIDTH, 31, 77))
    moved.transform(CameraRollTransform(0.1, moved.intrinsics))
    values = np.unique(moved.maps["depth"])
    assert np.isin(values[values > 0], before).all()


def test_nested_lists_and_augmentation_lists() -> None:
    np.random.seed(3)
    chain = T.AugmentationList(
        [T.RandomCrop("relative", (0.8, 0.8)), RandomCameraRoll(5), ColorJitter()]
    )
    moved = scene()
    transforms = chain(moved)
    assert len(transforms.transforms) == 3
    again = scene()
    again.transform(T.TransformList([transforms]))
    assert np.array_equal(again.image, moved.image)
    assert torch.equal(again.intrinsics, moved.intrinsics)


@pytest.mark.parametrize("flip", [T.HFlipTransform(WIDTH), T.VFlipTransform(HEIGHT)])
def test_flips_of_poses_are_refused(flip: T.Transform) -> None:
    with pytest.raises(ValueError, match=r"mirrors the image.*another object"):
        scene().transform(flip)


def test_flips_of_plain_detection_records_are_legal() -> None:
    moved = scene(chiral=False)
    before = moved.maps["depth"].copy()
    moved.transform(T.HFlipTransform(WIDTH))
    assert moved.intrinsics[0, 2] == pytest.approx(WIDTH - 1 - 33.2)
    assert np.array_equal(moved.maps["depth"], before[:, ::-1])


def test_unknown_transform_is_named() -> None:
    class Swirl(T.Transform):
        def apply_image(self, img: np.ndarray) -> np.ndarray:
            return img

        def apply_coords(self, coords: np.ndarray) -> np.ndarray:
            return coords

    with pytest.raises(TypeError, match="no rule says how maps follow Swirl"):
        warp_nearest(Swirl(), np.zeros((2, 2)))
    with pytest.raises(TypeError, match="no rule says how intrinsics follow Swirl"):
        transform_intrinsics(Swirl(), intrinsics())


def chain_of_detectron2(seed: int, ranges: dict[str, tuple[float, float]], image: np.ndarray):
    np.random.seed(seed)
    steps = [
        T.RandomContrast(*ranges["contrast"]),
        T.RandomBrightness(*ranges["brightness"]),
        T.RandomSaturation(*ranges["saturation"]),
    ]
    aug_input = T.AugInput(image)
    T.AugmentationList(steps)(aug_input)
    return aug_input.image


@pytest.mark.parametrize("seed", range(8))
def test_jitter_equals_detectron2_up_to_rounding(seed: int) -> None:
    ranges = {"contrast": (0.7, 1.2), "brightness": (0.7, 1.2), "saturation": (0.6, 1.4)}
    # Smooth colours away from the ends: no step clips.
    image = cv2.resize(
        np.random.default_rng(seed).integers(70, 150, (6, 8, 3)).astype(np.uint8), (64, 48)
    )
    np.random.seed(seed)
    aug_input = T.AugInput(image)
    ColorJitter(**ranges)(aug_input)
    theirs = chain_of_detectron2(seed, ranges, image)
    difference = np.abs(aug_input.image.astype(int) - theirs.astype(int))
    assert difference.max() <= 3


def test_jitter_knows_the_channel_order() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    results = []
    for image_format, picture in (("RGB", image), ("BGR", image[..., ::-1].copy())):
        np.random.seed(0)
        aug_input = T.AugInput(picture)
        ColorJitter((0.5, 0.5), (1.1, 1.1), (0.3, 0.3), image_format)(aug_input)
        results.append(aug_input.image)
    assert np.array_equal(results[0], results[1][..., ::-1])
    with pytest.raises(ValueError, match='must be "RGB" or "BGR"'):
        ColorJitter(image_format="L")
