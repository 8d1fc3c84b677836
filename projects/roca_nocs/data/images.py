"""Reading of image files.

Every failure names the file and the record: a truncated image in a set of a hundred thousand is
otherwise hard to find.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data.detection_utils import check_image_size, read_image

PNG_END = b"IEND\xaeB`\x82"


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
