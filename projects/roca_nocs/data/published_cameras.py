"""Intrinsics of the published datasets, for images of any size."""

from __future__ import annotations

import numpy as np

# fx, fy, cx, cy and the size (height, width) they belong to.
_SCANNET = (433.2, 434.1, 239.6, 182.2), (360, 480)
_NOCS = {
    "camera": ((577.5, 577.5, 319.5, 239.5), (480, 640)),
    "real": ((591.0125, 590.16775, 322.525, 244.11084), (480, 640)),
}
KITTI_SIZE = (375, 1242)
"""Height and width of KITTI's images (most of them)."""


def scannet_intrinsics(size: tuple[int, int]) -> np.ndarray:
    """The camera of ScanNet25k's 480x360 images at another resolution.

    Args:
        size: (height, width); other aspect ratios than 3:4 are centre crops.

    Returns:
        (3, 3) float64, pixel centres at integer coordinates.
    """
    return _scaled(*_SCANNET, size)


def nocs_intrinsics(size: tuple[int, int], dataset: str = "camera") -> np.ndarray:
    """The camera of a NOCS dataset's 640x480 images at another resolution.

    Args:
        size: (height, width); other aspect ratios than 3:4 are centre crops.
        dataset: ``"camera"`` or ``"real"``.

    Returns:
        (3, 3) float64, pixel centres at integer coordinates.
    """
    if dataset not in _NOCS:
        raise ValueError(f"dataset is {dataset!r}; expected one of {', '.join(_NOCS)}")
    return _scaled(*_NOCS[dataset], size)


def kitti_intrinsics(
    size: tuple[int, int],
    focal: float = 721.5377,
    centre: tuple[float, float] = (609.5593, 172.854),
) -> np.ndarray:
    """A camera of KITTI's 1242x375 images at another resolution.

    Args:
        size: (height, width); other aspect ratios are centre crops.
        focal: focal length in pixels of the original size; the default is that of most drives.
        centre: principal point in pixels of the original size.

    Returns:
        (3, 3) float64, pixel centres at integer coordinates.
    """
    return _scaled((focal, focal, *centre), KITTI_SIZE, size)


def _scaled(
    values: tuple[float, float, float, float], base: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"image size (height, width) is {size}; expected positive numbers")
    fx, fy, cx, cy = values
    factor = max(height / base[0], width / base[1])
    crop_x, crop_y = (base[1] * factor - width) / 2.0, (base[0] * factor - height) / 2.0
    # Pixel centres at integers: the corner of the image lies at -1/2, which stays in place.
    centre_x = (cx + 0.5) * factor - 0.5 - crop_x
    centre_y = (cy + 0.5) * factor - 0.5 - crop_y
    return np.array([[fx * factor, 0.0, centre_x], [0.0, fy * factor, centre_y], [0.0, 0.0, 1.0]])
