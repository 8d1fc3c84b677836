"""How a camera and its dense maps follow detectron2's image transforms.

detectron2's transforms move images, boxes, polygons and label maps. A 3D record also has
intrinsics, depth, an instance-id map, NOCS maps and poses. :class:`SceneInput` takes the place of
``AugInput`` and carries all of them through every augmentation; the rules for one kind of transform
are the registered cases of :func:`warp_nearest` and :func:`transform_intrinsics`.

Maps are never interpolated: a depth or a NOCS value between two surfaces lies on neither. All maps
are sampled at the same source pixels, so they stay aligned with each other.
"""

from __future__ import annotations

import math
from functools import partial, singledispatch

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T

from roca_nocs.geometry.camera import (
    flip_intrinsics,
    resize_intrinsics,
    roll_homography,
    roll_rotation,
    shift_intrinsics,
)

# Luma weights of ITU-R BT.601, in RGB order, as detectron2's RandomSaturation uses them.
LUMA = np.array([0.299, 0.587, 0.114])


class CameraRollTransform(T.Transform):
    """Turns the camera about its optical axis: the image turns about the principal point.

    With different focal lengths along x and y the image motion has a shear; it is exact for the
    camera. Depth stays, poses turn by ``roll_rotation(angle)``.
    """

    def __init__(self, angle: float, intrinsics: torch.Tensor, border: int = 0) -> None:
        """
        Args:
            angle: radians, positive from +x to +y.
            intrinsics: (3, 3), pixels, of the image that is transformed.
            border: grey level of image pixels that come from outside.
        """
        super().__init__()
        self.angle = angle
        self.border = border
        self.matrix = roll_homography(intrinsics.double(), angle).numpy()[:2]

    def _warp(self, array: np.ndarray, interpolation: int, border: float) -> np.ndarray:
        height, width = array.shape[:2]
        return cv2.warpAffine(
            array,
            self.matrix,
            (width, height),
            flags=interpolation,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(border,) * 4,
        )

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self._warp(img, cv2.INTER_LINEAR, self.border)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self._warp(segmentation, cv2.INTER_NEAREST, 0)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        # detectron2's coordinates are half a pixel off ours: its pixel centres lie at 1/2.
        centred = np.asarray(coords, dtype=np.float64) - 0.5
        return centred @ self.matrix[:, :2].T + self.matrix[:, 2] + 0.5

    def inverse(self) -> T.Transform:
        inverse = CameraRollTransform.__new__(CameraRollTransform)
        T.Transform.__init__(inverse)
        inverse.angle, inverse.border = -self.angle, self.border
        inverse.matrix = cv2.invertAffineTransform(self.matrix)
        return inverse


class AffineColorTransform(T.Transform):
    """One affine map of the colour vector of every pixel; geometry stays."""

    def __init__(self, matrix: np.ndarray) -> None:
        """
        Args:
            matrix: (3, 4) float; a pixel c becomes ``matrix @ (c, 1)``, rounded and clipped.
        """
        super().__init__()
        self.matrix = np.asarray(matrix, dtype=np.float32)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return cv2.transform(img, self.matrix)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def inverse(self) -> T.Transform:
        return T.NoOpTransform()


class RandomCameraRoll(T.Augmentation):
    """Turns the camera about its optical axis by a uniform random angle."""

    def __init__(self, max_degrees: float, border: int = 0) -> None:
        """
        Args:
            max_degrees: the angle is drawn from [-max_degrees, max_degrees].
            border: grey level of pixels that come from outside the image.
        """
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray, intrinsics: torch.Tensor) -> T.Transform:
        # detectron2 hands the image to a method with a single argument, whatever its name.
        angle = math.radians(self._rand_range(-self.max_degrees, self.max_degrees))
        return CameraRollTransform(angle, intrinsics, self.border)


class RandomRollCrop(RandomCameraRoll):
    """:class:`RandomCameraRoll`, cut to the largest upright rectangle that shows the image alone,
    which is resized to the old size: the augmentation of NOCS (Wang et al., CVPR 2019)."""

    def get_transform(self, image: np.ndarray, intrinsics: torch.Tensor) -> T.Transform:
        roll = super().get_transform(image, intrinsics)
        height, width = image.shape[:2]
        inner_width, inner_height = _inscribed_rectangle(width, height, roll.angle)
        x, y = (width - inner_width) // 2, (height - inner_height) // 2
        crop = T.CropTransform(x, y, inner_width, inner_height, width, height)
        resize = T.ResizeTransform(inner_height, inner_width, height, width)
        return T.TransformList([roll, crop, resize])


def _inscribed_rectangle(width: int, height: int, angle: float) -> tuple[int, int]:
    """Width and height of the largest upright rectangle in a rectangle that was turned."""
    sin, cos = abs(math.sin(angle)), abs(math.cos(angle))
    if min(width, height) <= 2 * sin * cos * max(width, height):
        # Two corners touch the long sides, the others lie inside.
        half = min(width, height) / 2
        inner = (half / sin, half / cos) if width >= height else (half / cos, half / sin)
    else:
        divisor = cos * cos - sin * sin
        inner = (width * cos - height * sin) / divisor, (height * cos - width * sin) / divisor
    return max(int(inner[0]), 1), max(int(inner[1]), 1)


class RandomGamma(T.Augmentation):
    """Grey levels v in [0, 1] become gain v^gamma, with both numbers uniform at random."""

    def __init__(
        self,
        gamma: tuple[float, float] = (0.8, 1.0),
        gain: tuple[float, float] = (0.8, 1.0),
    ) -> None:
        """
        Args:
            gamma, gain: ranges.
        """
        super().__init__()
        gamma, gain = tuple(gamma), tuple(gain)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        gamma, gain = self._rand_range(*self.gamma), self._rand_range(*self.gain)
        levels = 255 * gain * (np.arange(256) / 255) ** gamma
        table = np.clip(levels.round(), 0, 255).astype(np.uint8)
        return T.ColorTransform(partial(np.take, table))


class ColorJitter(T.Augmentation):
    """Random contrast, brightness and saturation in one pass over the image.

    detectron2's RandomContrast, RandomBrightness and RandomSaturation, applied in this order, are
    affine maps of the colour vector, and so is their product. The result differs from theirs by at
    most three grey levels where no channel leaves [0, 255] in between: they truncate to uint8 after
    each step, this rounds once. Where a channel does, they clip early and this keeps the colour.
    """

    def __init__(
        self,
        contrast: tuple[float, float] = (0.8, 1.2),
        brightness: tuple[float, float] = (0.8, 1.2),
        saturation: tuple[float, float] = (1.0, 1.0),
        image_format: str = "RGB",
    ) -> None:
        """
        Args:
            contrast: range of the factor on the distance from the image's mean grey level.
            brightness: range of the factor on all channels.
            saturation: range of the factor on the distance from the pixel's luma.
            image_format: ``"RGB"`` or ``"BGR"``, the channel order of the image.

        Raises:
            ValueError: another image format.
        """
        super().__init__()
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f'image_format must be "RGB" or "BGR", got {image_format!r}')
        contrast, brightness, saturation = map(tuple, (contrast, brightness, saturation))
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> T.Transform:
        contrast = self._rand_range(*self.contrast)
        brightness = self._rand_range(*self.brightness)
        saturation = self._rand_range(*self.saturation)
        luma = LUMA if self.image_format == "RGB" else LUMA[::-1]
        mixing = saturation * np.eye(3) + (1 - saturation) * np.broadcast_to(luma, (3, 3))
        matrix = np.empty((3, 4))
        matrix[:, :3] = mixing * (brightness * contrast)
        mean = float(np.mean(cv2.mean(image)[:3]))
        matrix[:, 3] = mixing.sum(axis=1) * (brightness * (1 - contrast) * mean)
        return AffineColorTransform(matrix)


def _no_rule(transform: T.Transform, what: str) -> TypeError:
    return TypeError(
        f"no rule says how {what} follow {type(transform).__name__}; register one with "
        "roca_nocs.data.transforms, or leave this augmentation out"
    )


@singledispatch
def warp_nearest(transform: T.Transform, array: np.ndarray) -> np.ndarray:
    """Move a map (H, W) or (H, W, C) with its image, by the nearest source pixel.

    Raises:
        TypeError: there is no rule for this kind of transform.
    """
    raise _no_rule(transform, "maps")


@singledispatch
def transform_intrinsics(transform: T.Transform, intrinsics: torch.Tensor) -> torch.Tensor:
    """Intrinsics (3, 3) of the transformed image.

    Raises:
        TypeError: there is no rule for this kind of transform.
    """
    raise _no_rule(transform, "intrinsics")


def _same(transform: T.Transform, value: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    return value


for _kind in (T.NoOpTransform, T.BlendTransform, T.ColorTransform, AffineColorTransform):
    warp_nearest.register(_kind, _same)
    transform_intrinsics.register(_kind, _same)


@warp_nearest.register
def _(transform: T.ResizeTransform, array: np.ndarray) -> np.ndarray:
    size = (transform.new_w, transform.new_h)
    return cv2.resize(array, size, interpolation=cv2.INTER_NEAREST_EXACT)


@transform_intrinsics.register
def _(transform: T.ResizeTransform, intrinsics: torch.Tensor) -> torch.Tensor:
    return resize_intrinsics(
        intrinsics, transform.new_w / transform.w, transform.new_h / transform.h
    )


@warp_nearest.register
def _(transform: T.CropTransform, array: np.ndarray) -> np.ndarray:
    x, y = transform.x0, transform.y0
    return array[y : y + transform.h, x : x + transform.w]


@transform_intrinsics.register
def _(transform: T.CropTransform, intrinsics: torch.Tensor) -> torch.Tensor:
    return shift_intrinsics(intrinsics, -transform.x0, -transform.y0)


@warp_nearest.register
def _(transform: T.PadTransform, array: np.ndarray) -> np.ndarray:
    sides = [(transform.y0, transform.y1), (transform.x0, transform.x1), (0, 0)]
    return np.pad(array, sides[: array.ndim])


@transform_intrinsics.register
def _(transform: T.PadTransform, intrinsics: torch.Tensor) -> torch.Tensor:
    return shift_intrinsics(intrinsics, transform.x0, transform.y0)


@warp_nearest.register
def _(transform: T.HFlipTransform, array: np.ndarray) -> np.ndarray:
    return array[:, ::-1]


@transform_intrinsics.register
def _(transform: T.HFlipTransform, intrinsics: torch.Tensor) -> torch.Tensor:
    return flip_intrinsics(intrinsics, transform.width)


@warp_nearest.register
def _(transform: CameraRollTransform, array: np.ndarray) -> np.ndarray:
    return transform.apply_segmentation(array)


@transform_intrinsics.register
def _(transform: CameraRollTransform, intrinsics: torch.Tensor) -> torch.Tensor:
    return intrinsics


class SceneInput(T.AugInput):
    """An image with its camera and maps; every transform moves all of them.

    Attributes:
        image: (H, W, 3) uint8.
        intrinsics: (3, 3) float64, pixels.
        maps: name -> (H, W) or (H, W, C) array: instance ids, depth, NOCS.
        camera_rotation: (3, 3) float64, old to new camera frame: what poses turn by.
        chiral: the record has poses or NOCS maps, which no mirrored image can have.
    """

    def __init__(
        self,
        image: np.ndarray,
        intrinsics: torch.Tensor,
        maps: dict[str, np.ndarray],
        *,
        chiral: bool,
    ) -> None:
        super().__init__(image)
        self.intrinsics = intrinsics
        self.maps = maps
        self.camera_rotation = torch.eye(3, dtype=torch.float64)
        self.chiral = chiral

    def transform(self, tfm: T.Transform) -> None:
        """Apply a transform, or a list of them, to everything.

        Raises:
            ValueError: a flip of a record with poses or NOCS maps.
            TypeError: a transform without rules for maps and intrinsics.
        """
        if isinstance(tfm, T.TransformList):
            for transform in tfm.transforms:
                self.transform(transform)
            return
        if self.chiral and isinstance(tfm, T.HFlipTransform | T.VFlipTransform):
            raise ValueError(chirality_message(type(tfm).__name__))
        self.intrinsics = transform_intrinsics(tfm, self.intrinsics)
        self.maps = {name: warp_nearest(tfm, array) for name, array in self.maps.items()}
        self.image = tfm.apply_image(self.image)
        if isinstance(tfm, CameraRollTransform):
            self.camera_rotation = roll_rotation(tfm.angle) @ self.camera_rotation


def chirality_message(name: str) -> str:
    """Why a mirroring augmentation is refused."""
    return (
        f"{name} mirrors the image, but the record has poses or NOCS maps: a mirrored object is "
        "another object (its left and right change), and no rotation describes it. Remove the "
        "flip, or load neither poses nor NOCS maps (2D detection alone)."
    )
