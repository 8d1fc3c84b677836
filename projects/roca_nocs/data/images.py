"""Decoding of the images and maps that a record names.

Every failure names the file and the record: a truncated image in a set of a hundred thousand is
otherwise hard to find.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data.detection_utils import check_image_size, read_image

PNG_END = b"IEND\xaeB`\x82"
NOCS_UNITS = 10000.0


def describe(record: Mapping[str, Any]) -> str:
    """A record in an error message: its image file and id."""
    return f"record image_id={record.get('image_id')!r}, file {record.get('file_name')}"


def read_color(record: dict[str, Any], image_format: str) -> np.ndarray:
    """The image of a record, (H, W, 3) uint8.

    Raises:
        ValueError: the file is missing, damaged or of another size than the record says.
    """
    try:
        image = read_image(record["file_name"], format=image_format)
        check_image_size(record, image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{describe(record)}: cannot read the image: {error}") from error
    return image


def read_map(record: Mapping[str, Any], name: str) -> np.ndarray:
    """A map of a record at the size of its image.

    Args:
        record: of ``load_scan2cad`` or ``load_nocs``.
        name: ``"instance"`` (H, W) uint8, ``"depth"`` or ``"depth_full"`` (H, W) float32 metres,
            ``"nocs"`` (H, W, 3) float32 in [-0.5, 0.5].

    Raises:
        ValueError: the record has no such map, or its file is missing or damaged.
    """
    file_name = record.get(f"{name}_file_name")
    if file_name is None:
        raise ValueError(f"{describe(record)}: the dataset has no {name} maps")
    decode = _DECODERS[record["layout"]][name]
    try:
        return decode(read_png(file_name))
    except ValueError as error:
        raise ValueError(f"{describe(record)}: {error}") from error


def read_png(file_name: str | os.PathLike[str]) -> np.ndarray:
    """A PNG file as stored: 8 or 16 bits, channels in OpenCV's order (blue first).

    Raises:
        ValueError: the file is missing, truncated or not a PNG.
    """
    try:
        content = Path(file_name).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {file_name}: {error}") from error
    # OpenCV returns what it could decode of a truncated file, without an error.
    if not content.endswith(PNG_END):
        raise ValueError(f"{file_name} is truncated or not a PNG file ({len(content)} bytes)")
    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ValueError(f"{file_name} cannot be decoded")
    return array


def _plain(array: np.ndarray) -> np.ndarray:
    if array.ndim != 2 or array.dtype != np.uint8:
        raise ValueError(f"an id map has one channel of 8 bits, got {_kind(array)}")
    return array


def _millimetres(array: np.ndarray) -> np.ndarray:
    if array.ndim != 2 or array.dtype != np.uint16:
        raise ValueError(f"a depth map has one channel of 16 bits, got {_kind(array)}")
    return array.astype(np.float32) / 1000


def _shifted_nocs(array: np.ndarray) -> np.ndarray:
    """uint16 round(10000 (x + 1)), x in the first channel; the raw value 0 means none."""
    if array.ndim != 3 or array.dtype != np.uint16:
        raise ValueError(f"a NOCS map has three channels of 16 bits, got {_kind(array)}")
    return np.where(array > 0, array.astype(np.float32) / NOCS_UNITS - 1, np.float32(0))


def _kind(array: np.ndarray) -> str:
    channels = 1 if array.ndim == 2 else array.shape[2]
    return f"{channels} x {8 * array.dtype.itemsize} bits"


_DECODERS: dict[str, dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "scan2cad": {
        "instance": _plain,
        "depth": _millimetres,
        "depth_full": _millimetres,
        "nocs": _shifted_nocs,
    },
}
