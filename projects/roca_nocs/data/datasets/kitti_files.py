"""The text files of the KITTI object benchmark: labels, results and calibrations.

A label file has one object a line, 15 words apart by blanks, and 16 in results: type; truncation;
occlusion; alpha; left, top, right, bottom; height, width, length; x, y, z of the centre of the
bottom face in the rectified reference camera; rotation_y; score. It may be empty.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..coco_json import DatasetError

DONT_CARE = "DontCare"

_COLUMNS = (
    *("truncated", "occluded", "alpha", "left", "top", "right", "bottom"),
    *("height", "width", "length", "x", "y", "z", "rotation_y", "score"),
)
_MATRICES = {
    **{f"P{camera}": (3, 4) for camera in range(4)},
    "R0_rect": (3, 3),
    "Tr_velo_to_cam": (3, 4),
    "Tr_imu_to_velo": (3, 4),
}


@dataclass(frozen=True)
class KittiLabels:
    """The N lines of a label or result file, in their order.

    Attributes:
        types: N names as they are spelt in the file, e.g. ``Car`` or ``DontCare``.
        truncation: (N,) float64 in [0, 1]; -1 for DontCare and in results.
        occlusion: (N,) int64, 0 to 3 (unknown); -1 for DontCare and in results.
        alpha: (N,) float64 radians as stored, which is rounded in the published files; -10 for
            DontCare.
        boxes: (N, 4) float64 XYXY, pixels.
        dimensions: (N, 3) float64 width, height, length, metres; -1 for DontCare.
        centers: (N, 3) float64 geometric centre, rectified reference camera, metres; without a
            meaning for DontCare.
        rotation_y: (N,) float64 radians; -10 for DontCare.
        scores: (N,) float64; NaN where the file has no such column.
    """

    types: tuple[str, ...]
    truncation: np.ndarray
    occlusion: np.ndarray
    alpha: np.ndarray
    boxes: np.ndarray
    dimensions: np.ndarray
    centers: np.ndarray
    rotation_y: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.types)


def read_labels(path: str | os.PathLike[str]) -> KittiLabels:
    """Read a label or result file.

    Raises:
        DatasetError: the file is missing, or a line has too few words or one that is no finite
            number; names the file, the line and the column.
    """
    types, rows = [], []
    for number, line in enumerate(_lines(path), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{path}: line {number}"
        if len(words) not in (len(_COLUMNS), len(_COLUMNS) + 1):
            missing = _COLUMNS[len(words) - 1] if len(words) < len(_COLUMNS) else ""
            problem = f"it ends before '{missing}'" if missing else "there are too many"
            raise DatasetError(
                f"{where} has {len(words)} words; expected the 15 of a label or the 16 of a "
                f"result ({problem}): {line!r}."
            )
        types.append(words[0])
        rows.append(_numbers(words[1:], _COLUMNS, where))
    table = np.full((len(rows), len(_COLUMNS)), math.nan)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    height = table[:, 7]
    centers = table[:, 10:13].copy()
    centers[:, 1] -= height / 2  # the file has the bottom, and y points down
    return KittiLabels(
        types=tuple(types),
        truncation=table[:, 0],
        occlusion=np.round(table[:, 1]).astype(np.int64),
        alpha=table[:, 2],
        boxes=table[:, 3:7],
        dimensions=table[:, [8, 7, 9]],
        centers=centers,
        rotation_y=table[:, 13],
        scores=table[:, 14],
    )


def read_calibration(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a calibration file: name -> (3, 4) or (3, 3) float64, of those that the file has.

    Raises:
        DatasetError: the file is missing, or a known matrix has not as many finite numbers as it
            needs; names the file and the matrix.
    """
    matrices = {}
    for line in _lines(path):
        name, separator, values = line.partition(":")
        name = name.strip()
        if not separator or name not in _MATRICES:
            continue
        shape = _MATRICES[name]
        words = values.split()
        if len(words) != math.prod(shape):
            raise DatasetError(
                f"{path}: {name} has {len(words)} numbers; expected {shape[0]} x {shape[1]}."
            )
        numbers = _numbers(words, [name] * len(words), str(path))
        matrices[name] = np.array(numbers).reshape(shape)
    return matrices


def calibration_text(matrices: dict[str, np.ndarray]) -> str:
    """The content of a calibration file, with the empty last line of the published ones."""
    lines = [
        f"{name}: {' '.join(f'{value:.12e}' for value in matrix.ravel())}\n"
        for name, matrix in matrices.items()
    ]
    return "".join(lines) + "\n"


def label_text(labels: KittiLabels) -> str:
    """The content of a label file, or of a result file if there are scores.

    Pixels have 3 decimals, metres and radians 6.
    """
    lines = []
    scored = not np.isnan(labels.scores).all()
    for index, kind in enumerate(labels.types):
        width, height, length = labels.dimensions[index]
        x, y, z = labels.centers[index]
        words = [kind, f"{labels.truncation[index]:.4f}", f"{labels.occlusion[index]}"]
        words.append(f"{labels.alpha[index]:.6f}")
        words += [f"{value:.3f}" for value in labels.boxes[index]]
        metric = (height, width, length, x, y + height / 2, z, labels.rotation_y[index])
        words += [f"{value:.6f}" for value in metric]
        if scored:
            words.append(f"{labels.scores[index]:.6f}")
        lines.append(" ".join(words) + "\n")
    return "".join(lines)


def result_labels(
    types: Sequence[str],
    boxes: np.ndarray,
    scores: np.ndarray,
    centers: np.ndarray,
    dimensions: np.ndarray,
    rotation_y: np.ndarray,
    alpha: np.ndarray,
) -> KittiLabels:
    """N detections, whose truncation and occlusion are unknown; see :class:`KittiLabels`."""
    unknown = np.full(len(types), -1)
    return KittiLabels(
        types=tuple(types),
        truncation=unknown.astype(np.float64),
        occlusion=unknown,
        alpha=alpha,
        boxes=boxes,
        dimensions=dimensions,
        centers=centers,
        rotation_y=rotation_y,
        scores=scores,
    )


def _lines(path: str | os.PathLike[str]) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as text ({error}).") from error


def _numbers(words: Sequence[str], columns: Sequence[str], where: str) -> list[float]:
    values = []
    for word, column in zip(words, columns, strict=False):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DatasetError(f"{where}: '{column}' is {word!r}; expected a finite number.")
        values.append(value)
    return values
