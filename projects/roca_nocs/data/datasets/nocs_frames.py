"""The files of one NOCS image: names, encodings, object lists. See ``nocs.py`` for the layout."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..coco_json import DatasetError

BACKGROUND = 255
MAX_INSTANCES = 19
"""Ids run from 1; a mask has fewer than 20 values besides the background."""

_FILES = ("color.png", "mask.png", "coord.png", "depth.png", "meta.txt")


class BadSample(DatasetError):
    """An image with a file that cannot be used; readers leave it out, count it and name it."""


@dataclass(frozen=True)
class NocsFrame:
    """One image; ``folder`` and ``name`` are those of its files, e.g. ``00003`` and ``0007``."""

    root: Path
    dataset: str
    split: str
    folder: str
    name: str

    @property
    def stem(self) -> str:
        """Path of its files relative to the root, up to ``_color.png`` and so on."""
        return f"{self.dataset}/{self.split}/{self.folder}/{self.name}"

    def path(self, suffix: str) -> Path:
        """A file of the frame, e.g. of suffix ``"mask.png"``."""
        return self.root / f"{self.stem}_{suffix}"

    @property
    def gts_file(self) -> Path:
        """The published file of ground-truth poses, where there is one."""
        subset = self.split if self.dataset == "camera" else f"real_{self.split}"
        name = f"results_{subset}_{self.folder}_{self.name}.pkl"
        return self.root / "gts" / subset / name


def find_frames(root: Path, dataset: str, split: str) -> tuple[list[NocsFrame], list[str]]:
    """List the images of a split.

    Returns:
        The frames that have all five files, by folder and name, and the stems of the others.
    """
    base = root / dataset / split
    complete, incomplete = [], []
    folders = sorted(entry.name for entry in os.scandir(base) if entry.is_dir())
    for folder in folders:
        names = {entry.name for entry in os.scandir(base / folder)}
        for name in sorted(n.split("_", 1)[0] for n in names if n.endswith("_color.png")):
            frame = NocsFrame(root, dataset, split, folder, name)
            if all(f"{name}_{suffix}" in names for suffix in _FILES):
                complete.append(frame)
            else:
                incomplete.append(frame.stem)
    return complete, incomplete


def decode_instances(mask: np.ndarray) -> np.ndarray:
    """Instance ids of a ``_mask.png`` as OpenCV reads it: (H, W) uint8, 255 background."""
    if mask.dtype != np.uint8:
        raise ValueError(f"The mask has the type {mask.dtype}; expected 8 bits.")
    return mask if mask.ndim == 2 else np.ascontiguousarray(mask[..., 2])


def decode_coordinates(coord: np.ndarray, z_mirrored: bool = True) -> np.ndarray:
    """NOCS map of a ``_coord.png`` as OpenCV reads it: (H, W, 3) float32 in [0, 1].

    Red, green, blue hold x, y and z, in the official data 1 - z (``z_mirrored``).
    """
    if coord.ndim != 3 or coord.dtype != np.uint8:
        raise ValueError(
            f"The map is {coord.shape} of {coord.dtype}; expected (H, W, 3) of 8 bits."
        )
    nocs = coord[..., 2::-1].astype(np.float32) / 255
    if z_mirrored:
        nocs[..., 2] = 1 - nocs[..., 2]
    return nocs


def decode_depth(depth: np.ndarray) -> np.ndarray:
    """Depth of a ``_depth.png`` as OpenCV reads it: (H, W) uint16 millimetres, 0 = none.

    Args:
        depth: (H, W) uint16 millimetres, or 8-bit colours with the value 256 G + R.
    """
    if depth.ndim == 2 and depth.dtype == np.uint16:
        return depth
    if depth.ndim == 3 and depth.dtype == np.uint8:
        # Widened first: numpy 2 keeps uint8 * 256 in 8 bits.
        return depth[..., 1].astype(np.uint16) * 256 + depth[..., 2]
    raise ValueError(
        f"The depth image has shape {depth.shape} and type {depth.dtype}; expected (H, W) uint16 "
        "or (H, W, 3) uint8."
    )


@dataclass(frozen=True)
class MetaLine:
    """A line of ``_meta.txt``: class 0 is a distractor; ``catalog_id`` is empty in REAL."""

    class_id: int
    catalog_id: str
    model_id: str


def read_meta(path: Path, num_classes: int) -> dict[int, MetaLine]:
    """Read a ``_meta.txt``: instance id -> line.

    Raises:
        BadSample: names the file and the line.
    """
    lines = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{path}: line {number}"
        if len(words) not in (3, 4) or not (words[0].isdigit() and words[1].isdigit()):
            raise BadSample(
                f"{where} is {line!r}; expected 'instance class [synset] model', with whole "
                "numbers for instance and class."
            )
        instance_id, class_id = int(words[0]), int(words[1])
        if class_id > num_classes:
            raise BadSample(f"{where}: unknown class id {class_id}; expected 0-{num_classes}.")
        if instance_id in lines:
            raise BadSample(f"{where}: instance {instance_id} occurs twice.")
        lines[instance_id] = MetaLine(class_id, words[2] if len(words) == 4 else "", words[-1])
    return lines
