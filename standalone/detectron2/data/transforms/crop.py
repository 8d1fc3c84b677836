"""Random policies that cut a part out of the image.

The draws from numpy's global generator follow detectron2 in order and kind.
"""

from collections.abc import Sequence

import numpy as np
from fvcore.transforms.transform import (
    CropTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
)

from ...structures import Boxes, pairwise_iou
from .augmentation import Augmentation
from .transform import ExtentTransform

__all__ = [
    "FixedSizeCrop",
    "MinIoURandomCrop",
    "RandomCrop",
    "RandomCrop_CategoryAreaConstraint",
    "RandomExtent",
]


class RandomCrop(Augmentation):
    """Cuts a rectangle at a random position.

    The size of the rectangle in an image of (H, W) is, for each `crop_type` with
    `crop_size=(a, b)`:

    * "relative": (a H, b W);
    * "relative_range": as "relative" with factors drawn from [a, 1] and [b, 1];
    * "absolute": (a, b) pixels, no more than the image has;
    * "absolute_range": each side drawn from [min(side, a), min(side, b)] pixels.
    """

    def __init__(self, crop_type: str, crop_size: Sequence[float]) -> None:
        """
        Args:
            crop_type: one of the four above.
            crop_size: two numbers, see above.
        """
        crop_types = ("relative_range", "relative", "absolute", "absolute_range")
        assert crop_type in crop_types, f"crop_type must be one of {crop_types}, got {crop_type!r}"
        crop_size = tuple(crop_size)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draws the size, then y, then x."""
        return self._place(image.shape[:2])

    def _place(self, image_size: tuple[int, int]) -> CropTransform:
        height, width = image_size
        crop_height, crop_width = self.get_crop_size(image_size)
        assert crop_height <= height and crop_width <= width, (
            f"{self} asks for a crop of {(crop_height, crop_width)} from an image of {image_size}."
        )
        y0 = np.random.randint(height - crop_height + 1)
        x0 = np.random.randint(width - crop_width + 1)
        return CropTransform(x0, y0, crop_width, crop_height)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Draw the (height, width) in pixels for an image of (height, width)."""
        height, width = image_size
        first, second = self.crop_size
        if self.crop_type == "absolute":
            return min(first, height), min(second, width)
        if self.crop_type == "absolute_range":
            assert first <= second, f"absolute_range needs (smaller, larger), got {self.crop_size}"
            crop_height = np.random.randint(min(height, first), min(height, second) + 1)
            crop_width = np.random.randint(min(width, first), min(width, second) + 1)
            return crop_height, crop_width
        factors = (first, second)
        if self.crop_type == "relative_range":
            # float32 limits are what makes the sizes equal detectron2's to the last pixel.
            smallest = np.asarray(self.crop_size, dtype=np.float32)
            factors = smallest + np.random.rand(2) * (1 - smallest)
        return int(height * factors[0] + 0.5), int(width * factors[1] + 0.5)


class RandomCrop_CategoryAreaConstraint(Augmentation):
    """A `RandomCrop` in which no category covers too much of the semantic segmentation.

    Ten crops are tried; the last one is used if none fulfils the condition.
    """

    def __init__(
        self,
        crop_type: str,
        crop_size: Sequence[float],
        single_category_max_area: float = 1.0,
        ignored_category: int | None = None,
    ) -> None:
        """
        Args:
            crop_type: see `RandomCrop`.
            crop_size: see `RandomCrop`.
            single_category_max_area: largest part of the labelled pixels of the crop that one
                category may have; 1 switches the condition off.
            ignored_category: label whose pixels do not count.
        """
        self.crop_aug = RandomCrop(crop_type, crop_size)
        crop_size = self.crop_aug.crop_size
        self._init(locals())

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> Transform:
        """Per trial the draws of `RandomCrop`."""
        trials = 10 if self.single_category_max_area < 1.0 else 1
        for _ in range(trials):
            crop = self.crop_aug.get_transform(image)
            if trials > 1 and self._is_mixed(crop.apply_segmentation(sem_seg)):
                break
        return crop

    def _is_mixed(self, sem_seg: np.ndarray) -> bool:
        labels, counts = np.unique(sem_seg, return_counts=True)
        if self.ignored_category is not None:
            counts = counts[labels != self.ignored_category]
        return len(counts) > 1 and counts.max() < counts.sum() * self.single_category_max_area


class RandomExtent(Augmentation):
    """Cuts a scaled and shifted copy of the image rectangle; what lies outside is black."""

    def __init__(self, scale_range: Sequence[float], shift_range: Sequence[float]) -> None:
        """
        Args:
            scale_range: smallest and largest size of the rectangle relative to the image.
            shift_range: (x, y); the rectangle is shifted by up to half of this part of the
                width and height, either way.
        """
        scale_range, shift_range = tuple(scale_range), tuple(shift_range)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        """One uniform draw for the scale, then one for the shift in x and one in y."""
        size = np.array(image.shape[1::-1], dtype=np.float64)  # width, height
        half = 0.5 * size * np.random.uniform(*self.scale_range)
        shift = np.array(self.shift_range) * size * (np.random.rand(2) - 0.5)
        x0, y0 = ((shift - half) + 0.5 * size).tolist()
        x1, y1 = ((shift + half) + 0.5 * size).tolist()
        return ExtentTransform((x0, y0, x1, y1), output_size=(int(y1 - y0), int(x1 - x0)))


class FixedSizeCrop(Augmentation):
    """Cuts larger images to a size at a random position and pads smaller ones to it."""

    def __init__(
        self,
        crop_size: Sequence[int],
        pad: bool = True,
        pad_value: float = 128.0,
        seg_pad_value: int = 255,
    ) -> None:
        """
        Args:
            crop_size: (height, width) in pixels.
            pad: pad at the right and the bottom; otherwise smaller images stay smaller.
            pad_value: value of padded pixels.
            seg_pad_value: label of padded pixels.
        """
        crop_size = tuple(crop_size)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> TransformList:
        """One uniform draw places the crop on the diagonal of the possible positions."""
        height, width = image.shape[:2]
        crop_height, crop_width = self.crop_size
        slack = np.maximum([height - crop_height, width - crop_width], 0)
        y0, x0 = np.round(slack * np.random.uniform(0.0, 1.0)).astype(int).tolist()
        transforms = [CropTransform(x0, y0, crop_width, crop_height, width, height)]
        if self.pad:
            kept_height, kept_width = min(height, crop_height), min(width, crop_width)
            transforms.append(
                PadTransform(
                    0,
                    0,
                    crop_width - kept_width,
                    crop_height - kept_height,
                    kept_width,
                    kept_height,
                    self.pad_value,
                    self.seg_pad_value,
                )
            )
        return TransformList(transforms)


class MinIoURandomCrop(Augmentation):
    """Cuts a patch whose IoU with every box is at least a randomly chosen minimum (SSD)."""

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        mode_trials: int = 1000,
        crop_trials: int = 50,
    ) -> None:
        """
        Args:
            min_ious: minimum IoUs to choose from, besides "the whole image" and "no minimum".
            min_crop_size: smallest side of a patch relative to the image.
            mode_trials: how often a minimum is drawn before the image is left as it is.
            crop_trials: how many patches are drawn for one minimum.
        """
        self._init(locals())
        self.sample_mode = (1, *min_ious, 0)

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> Transform:
        """Draws a minimum, then patches (width, height, x, y), until one fits.

        Args:
            image: `(H, W[, C])`.
            boxes: `(N, 4)` corners in pixels; without boxes nothing is cut.
        """
        if boxes is None:
            return NoOpTransform()
        for _ in range(self.mode_trials):
            min_iou = np.random.choice(self.sample_mode)
            if min_iou == 1:
                break
            for _ in range(self.crop_trials):
                crop = self._draw_patch(image.shape[:2], boxes.reshape(-1, 4), min_iou)
                if crop is not None:
                    return crop
        return NoOpTransform()

    def _draw_patch(
        self, image_size: tuple[int, int], boxes: np.ndarray, min_iou: float
    ) -> CropTransform | None:
        height, width = image_size
        new_width = np.random.uniform(self.min_crop_size * width, width)
        new_height = np.random.uniform(self.min_crop_size * height, height)
        if not 0.5 <= new_height / new_width <= 2:
            return None
        # From 1 down to the largest position, as in the published augmentation: the draws of
        # detectron2 are reproduced, and position 0 is reached through truncation only.
        left = np.random.uniform(width - new_width, 1.0)
        top = np.random.uniform(height - new_height, 1.0)
        patch = np.array([left, top, left + new_width, top + new_height]).astype(int)
        if patch[0] == patch[2] or patch[1] == patch[3]:
            return None
        if len(boxes) > 0:
            if pairwise_iou(Boxes(patch[np.newaxis]), Boxes(boxes)).min() < min_iou:
                return None
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            if not ((centres > patch[:2]) & (centres < patch[2:])).all(axis=1).any():
                return None
        return CropTransform(int(left), int(top), int(new_width), int(new_height))
