"""The random policies of `detectron2.data.transforms`.

The order and kind of the draws from numpy's global generator are part of the interface: with
the same seed detectron2 chooses the same transforms.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import (
    BlendTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    VFlipTransform,
)
from PIL import Image

from .augmentation import Augmentation, _to_augmentation
from .crop import (
    FixedSizeCrop,
    MinIoURandomCrop,
    RandomCrop,
    RandomCrop_CategoryAreaConstraint,
    RandomExtent,
)
from .transform import ResizeTransform

__all__ = [
    "FixedSizeCrop",
    "MinIoURandomCrop",
    "RandomApply",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomCrop_CategoryAreaConstraint",
    "RandomExtent",
    "RandomFlip",
    "RandomLighting",
    "RandomResize",
    "RandomSaturation",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
]

_BILINEAR = Image.Resampling.BILINEAR


class RandomApply(Augmentation):
    """Applies an augmentation or a transform with a given probability."""

    def __init__(self, tfm_or_aug: Transform | Augmentation, prob: float = 0.5) -> None:
        """
        Args:
            tfm_or_aug: what to apply.
            prob: probability in [0, 1].
        """
        assert 0.0 <= prob <= 1.0, f"Probability must be between 0.0 and 1.0 (given: {prob})"
        self.aug = _to_augmentation(tfm_or_aug)
        self.prob = prob

    def get_transform(self, *args: Any) -> Transform:
        """The transform of the wrapped augmentation, or none."""
        return self.aug.get_transform(*args) if self._drawn() else NoOpTransform()

    def __call__(self, aug_input: Any) -> Transform:
        """Let the wrapped augmentation act on `aug_input`, or leave it alone."""
        return self.aug(aug_input) if self._drawn() else NoOpTransform()

    def _drawn(self) -> bool:
        return self._rand_range() < self.prob

    def __repr__(self) -> str:
        return f"RandomApply({self.aug}, prob={self.prob})"

    __str__ = __repr__


class RandomFlip(Augmentation):
    """Flips the image, horizontally or vertically, with a given probability."""

    def __init__(
        self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False
    ) -> None:
        """
        Args:
            prob: probability of a flip.
            horizontal: exchange left and right.
            vertical: exchange top and bottom.

        Raises:
            ValueError: both directions, or none.
        """
        if horizontal == vertical:
            raise ValueError(
                f"RandomFlip flips in exactly one direction, got horizontal={horizontal} and "
                f"vertical={vertical}. Use two RandomFlip for both."
            )
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """One uniform draw decides."""
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        height, width = image.shape[:2]
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class Resize(Augmentation):
    """Resizes to a fixed size, whatever the aspect ratio."""

    def __init__(self, shape: int | Sequence[int], interp: int = _BILINEAR) -> None:
        """
        Args:
            shape: (height, width) in pixels, or one number for both.
            interp: a resampling filter of Pillow.
        """
        shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """No draw."""
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class RandomResize(Augmentation):
    """Resizes to one of several fixed sizes."""

    def __init__(self, shape_list: Sequence[Sequence[int]], interp: int = _BILINEAR) -> None:
        """
        Args:
            shape_list: the (height, width) to choose from.
            interp: a resampling filter of Pillow.
        """
        shape_list = tuple(tuple(shape) for shape in shape_list)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """One integer draw chooses the size."""
        new_size = self.shape_list[np.random.randint(len(self.shape_list))]
        return ResizeTransform(*image.shape[:2], *new_size, self.interp)


class ResizeShortestEdge(Augmentation):
    """Scales the shorter side to a random length, unless the longer one would grow too long."""

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = _BILINEAR,
    ) -> None:
        """
        Args:
            short_edge_length: length in pixels; for "range" the smallest and largest length
                (both included), for "choice" the lengths to choose from. 0 means no resize.
            max_size: largest length of the longer side in pixels.
            sample_style: "range" or "choice".
            interp: a resampling filter of Pillow.
        """
        assert sample_style in ("range", "choice"), (
            f"sample_style must be 'range' or 'choice', got {sample_style!r}."
        )
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        short_edge_length = tuple(short_edge_length)
        assert sample_style == "choice" or len(short_edge_length) == 2, (
            "short_edge_length must be two values using 'range' sample style. "
            f"Got {short_edge_length}!"
        )
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """One draw chooses the length of the shorter side."""
        if self.sample_style == "range":
            low, high = self.short_edge_length
            length = np.random.randint(low, high + 1)
        else:
            length = np.random.choice(self.short_edge_length)
        if length == 0:
            return NoOpTransform()
        height, width = image.shape[:2]
        new_size = self.get_output_shape(height, width, int(length), self.max_size)
        return ResizeTransform(height, width, *new_size, self.interp)

    @staticmethod
    def get_output_shape(
        oldh: int, oldw: int, short_edge_length: int, max_size: int
    ) -> tuple[int, int]:
        """Output (height, width): the short side as asked, then the long side limited."""
        scale = float(short_edge_length) / min(oldh, oldw)
        # The short side is the length itself: oldh * scale may miss it by a rounding error.
        newh = float(short_edge_length) if oldh < oldw else scale * oldh
        neww = scale * oldw if oldh < oldw else float(short_edge_length)
        longest = max(newh, neww)
        if longest > max_size:
            shrink = float(max_size) / longest
            newh = newh * shrink
            neww = neww * shrink
        return int(newh + 0.5), int(neww + 0.5)


class ResizeScale(Augmentation):
    """Scales the image so that it fits into a randomly scaled target size (large-scale jitter)."""

    def __init__(
        self,
        min_scale: float,
        max_scale: float,
        target_height: int,
        target_width: int,
        interp: int = _BILINEAR,
    ) -> None:
        """
        Args:
            min_scale: smallest factor on the target size.
            max_scale: largest factor on the target size.
            target_height: in pixels.
            target_width: in pixels.
            interp: a resampling filter of Pillow.
        """
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """One uniform draw chooses the factor; the aspect ratio of the image is kept."""
        factor = np.random.uniform(self.min_scale, self.max_scale)
        size = np.array(image.shape[:2])
        target = np.array([self.target_height, self.target_width]) * factor
        new_height, new_width = np.round(size * (target / size).min()).astype(int).tolist()
        return ResizeTransform(*image.shape[:2], new_height, new_width, self.interp)


class _RandomBlend(Augmentation):
    """Blends the image with a reference: weight w for the image, 1 - w for the reference."""

    def __init__(self, intensity_min: float, intensity_max: float) -> None:
        """
        Args:
            intensity_min: smallest weight of the image; 1 preserves it.
            intensity_max: largest weight of the image; beyond 1 exaggerates.
        """
        self._init(locals())

    def _reference(self, image: np.ndarray) -> float | np.ndarray:
        raise NotImplementedError

    def get_transform(self, image: np.ndarray) -> Transform:
        """One uniform draw chooses the weight."""
        reference = self._reference(image)
        weight = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(src_image=reference, src_weight=1 - weight, dst_weight=weight)


class RandomBrightness(_RandomBlend):
    """Blends with black."""

    def _reference(self, image: np.ndarray) -> float:
        return 0


class RandomContrast(_RandomBlend):
    """Blends with the mean intensity of the image."""

    def _reference(self, image: np.ndarray) -> float:
        return image.mean()


class RandomSaturation(_RandomBlend):
    """Blends with the grey image; the channels are taken as RGB."""

    def _reference(self, image: np.ndarray) -> np.ndarray:
        assert image.shape[-1] == 3, (
            f"RandomSaturation only works on RGB images, got shape {image.shape}"
        )
        return image.dot([0.299, 0.587, 0.114])[:, :, np.newaxis]


class RandomLighting(Augmentation):
    """Adds a random colour along the principal components of ImageNet's colours (RGB)."""

    _COMPONENTS = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    _VARIANCES = np.array([0.2175, 0.0188, 0.0045])

    def __init__(self, scale: float) -> None:
        """
        Args:
            scale: standard deviation of the weight of each component.
        """
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """Three normal draws, one a component."""
        assert image.shape[-1] == 3, (
            f"RandomLighting only works on RGB images, got shape {image.shape}"
        )
        weights = np.random.normal(scale=self.scale, size=3)
        offset = self._COMPONENTS.dot(weights * self._VARIANCES)
        return BlendTransform(src_image=offset, src_weight=1.0, dst_weight=1.0)
