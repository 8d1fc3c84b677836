"""ScanNet25k images at the size that ROCA trains on (480x360 of 1296x968)."""

from __future__ import annotations

import cv2
import numpy as np

SIZE = (360, 480)


def resize_image(image: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Blur, sample, smooth and crop an image as the published data was made.

    A Gaussian of 2 round(ratio) + 1 pixels, nearest sampling to the new height, a median of 3x3
    pixels and a crop of the middle columns.

    Args:
        image: (H, W, 3) uint8, at least as wide for its height as the new size.
        size: new (height, width).

    Returns:
        (height, width, 3) uint8; an image of the new size is returned as it is.

    Raises:
        ValueError: the image is narrower.
    """
    if image.shape[:2] == size:
        return image
    height, (width, crop) = size[0], _width_and_crop(image.shape[:2], size)
    kernel = [
        2 * round(old / new) + 1 for old, new in zip(image.shape, (height, width), strict=False)
    ]
    sigmas = [(each - 1) / 6 for each in kernel]
    image = cv2.GaussianBlur(image, kernel[::-1], sigmaX=sigmas[1], sigmaY=sigmas[0])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
    image = cv2.medianBlur(image, 3)
    return image[:, crop : crop + size[1]]


def resize_intrinsics(
    intrinsics: np.ndarray, old_size: tuple[int, int], size: tuple[int, int] = SIZE
) -> np.ndarray:
    """The camera of :func:`resize_image`'s result, rounded to two decimals.

    The principal point is scaled as a plain number (not about the corner of the image, as
    everywhere else in this project): so the published files have it.

    Args:
        intrinsics: (3, 3) or (4, 4), pixels.
        old_size: (height, width) of the image before.
        size: as for the image.

    Returns:
        float64 of the same shape.

    Raises:
        ValueError: the image is narrower than the new size.
    """
    if tuple(old_size) == size:
        return np.array(intrinsics, dtype=np.float64)
    resized = np.array(intrinsics, dtype=np.float64)
    resized[:2, :3] *= size[0] / old_size[0]
    resized[0, 2] -= _width_and_crop(old_size, size)[1]
    return np.round(resized, 2)


def _width_and_crop(old_size: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """Width after scaling to the new height, and columns to cut off on the left."""
    width = round(size[0] * old_size[1] / old_size[0])
    if width < size[1]:
        raise ValueError(
            f"an image of {old_size[1]}x{old_size[0]} pixels is too narrow for "
            f"{size[1]}x{size[0]}: only wider ones can be cropped"
        )
    return width, (width - size[1]) // 2
