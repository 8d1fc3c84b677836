"""Writes hand-made files of the NOCS layout."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from roca_nocs.data.datasets.nocs_frames import NocsFrame


def write_frame(frame: NocsFrame, mask: np.ndarray, lines: list[str]) -> None:
    """The five files of an image: one with a mask in the red channel and the given lines."""
    frame.path("color.png").parent.mkdir(parents=True, exist_ok=True)
    colors = np.zeros((*mask.shape, 3), np.uint8)
    colors[..., 2] = mask
    for suffix in ("color", "mask", "coord"):
        cv2.imwrite(str(frame.path(f"{suffix}.png")), colors)
    cv2.imwrite(str(frame.path("depth.png")), mask.astype(np.uint16))
    frame.path("meta.txt").write_text("\n".join(lines) + "\n")


def write_bbox(path: Path, upper: Any, lower: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{' '.join(map(str, upper))}\n{' '.join(map(str, lower))}\n")
