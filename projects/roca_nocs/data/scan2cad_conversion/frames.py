"""The raw frames of a ScanNet25k scene."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import read_image

from ..coco_json import DatasetError
from ..datasets.scan2cad import read_matrix


@dataclass(frozen=True)
class RawFrame:
    """One image of a scene, with its files."""

    name: str
    color_file: Path
    pose_file: Path

    def image(self) -> np.ndarray:
        """(H, W, 3) uint8, blue first.

        Raises:
            DatasetError: the file is missing or damaged.
        """
        try:
            return read_image(str(self.color_file), format="BGR")
        except (OSError, SyntaxError, ValueError) as error:
            raise DatasetError(f"{self.color_file}: cannot read the image: {error}") from error

    def camera_to_scan(self) -> np.ndarray | None:
        """(4, 4) float64; ``None`` where ScanNet lost track of the camera (infinite numbers).

        Raises:
            DatasetError: the file is missing, damaged or holds no rigid motion.
        """
        try:
            numbers = np.array(self.pose_file.read_text(encoding="utf-8").split(), np.float64)
        except (OSError, ValueError) as error:
            raise DatasetError(f"{self.pose_file}: expected a 4x4 matrix ({error}).") from error
        if numbers.size == 16 and not np.isfinite(numbers).all():
            return None
        matrix = read_matrix(self.pose_file)
        rotation = matrix[:3, :3]
        rigid = np.abs(rotation.T @ rotation - np.eye(3)).max() < 1e-3
        if not rigid or np.linalg.det(rotation) < 0 or matrix[3].tolist() != [0, 0, 0, 1]:
            raise DatasetError(f"{self.pose_file}: no rigid motion: {matrix.tolist()}.")
        return matrix


def list_frames(scene_folder: Path, wanted: Collection[str] | None = None) -> list[RawFrame]:
    """The frames of a scene, in the order of their names.

    Args:
        scene_folder: with ``color/*.jpg`` and ``pose/*.txt``.
        wanted: names of the frames to take, all where it is ``None``.

    Raises:
        DatasetError: there is none, or a wanted one is missing.
    """
    found = {path.stem: path for path in sorted((scene_folder / "color").glob("*.jpg"))}
    missing = sorted(set(wanted or ()) - found.keys())
    if missing or not found:
        what = f"{missing[0]}.jpg ({len(missing)} are missing)" if missing else "*.jpg"
        raise DatasetError(f"{scene_folder}: there is no color/{what}.")
    names = [name for name in found if wanted is None or name in wanted]
    return [RawFrame(n, found[n], scene_folder / "pose" / f"{n}.txt") for n in names]


def read_intrinsics(scene_folder: str | os.PathLike[str]) -> np.ndarray:
    """(4, 4) float64 of ``intrinsics_color.txt``, pixels of the raw images.

    Raises:
        DatasetError: the file is missing, damaged or has a focal length that is not positive.
    """
    path = Path(scene_folder, "intrinsics_color.txt")
    matrix = read_matrix(path)
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise DatasetError(f"{path}: a focal length is not positive: {matrix.tolist()}.")
    return matrix
