"""The files of one NOCS image: names, encodings, objects, poses. See ``nocs.py`` for the layout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from scipy.spatial.transform import Rotation

from ..coco_json import DatasetError
from ..images import read_png
from ..restricted_pickle import load_restricted_pickle

BACKGROUND = 255
MAX_INSTANCES = 19
"""Ids run from 1; a mask has fewer than 20 values besides the background."""

_FILES = ("color.png", "mask.png", "coord.png", "depth.png", "meta.txt")


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


def decode_coordinates(coord: np.ndarray) -> np.ndarray:
    """NOCS map of a ``_coord.png`` as OpenCV reads it: (H, W, 3) float32 in [0, 1].

    Red, green, blue hold x, y and the mirrored z.
    """
    if coord.ndim != 3 or coord.dtype != np.uint8:
        raise ValueError(
            f"The map is {coord.shape} of {coord.dtype}; expected (H, W, 3) of 8 bits."
        )
    nocs = coord[..., 2::-1].astype(np.float32) / 255
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
        DatasetError: names the file and the line.
    """
    lines = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{path}: line {number}"
        if len(words) not in (3, 4) or not (words[0].isdigit() and words[1].isdigit()):
            raise DatasetError(
                f"{where} is {line!r}; expected 'instance class [synset] model', with whole "
                "numbers for instance and class."
            )
        instance_id, class_id = int(words[0]), int(words[1])
        if class_id > num_classes:
            raise DatasetError(f"{where}: unknown class id {class_id}; expected 0-{num_classes}.")
        if instance_id in lines:
            raise DatasetError(f"{where}: instance {instance_id} occurs twice.")
        lines[instance_id] = MetaLine(class_id, words[2] if len(words) == 4 else "", words[-1])
    return lines


@dataclass
class ModelExtents:
    """Extents of the models with unit diagonal, (3,) each, read once per model."""

    known: dict[Path, list[float]] = field(default_factory=dict)

    def of(self, frame: NocsFrame, line: MetaLine) -> list[float]:
        """Extents of the model that a line names.

        Raises:
            DatasetError: its file is missing or does not hold the expected numbers.
        """
        models = frame.root / "obj_models"
        if line.catalog_id:
            path = models / frame.split / line.catalog_id / line.model_id / "bbox.txt"
        else:
            path = models / f"real_{frame.split}" / f"{line.model_id}.txt"
        if path not in self.known:
            self.known[path] = _read_extents(path, rows=2 if line.catalog_id else 1)
        return self.known[path]


def _read_extents(path: Path, rows: int) -> list[float]:
    try:
        numbers = np.array(path.read_text(encoding="utf-8").split(), dtype=np.float64)
        numbers = numbers.reshape(rows, 3)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: expected {3 * rows} numbers ({error}).") from error
    if rows == 2:
        extents = numbers[0] - numbers[1]
    else:
        extents = numbers[0] / np.linalg.norm(numbers[0])
    if not (np.isfinite(extents).all() and (extents > 0).all()):
        raise DatasetError(f"{path}: the extents {extents} are not all positive.")
    return extents.tolist()


def frame_annotations(frame: NocsFrame, extents: ModelExtents, num_classes: int) -> dict[str, Any]:
    """Read the objects of an image.

    Args:
        frame: the image.
        extents: of the models.
        num_classes: number of classes besides the distractors.

    Returns:
        ``height``, ``width`` and ``annotations``: objects of the mask that belong to a class, by
        ascending instance id.

    Raises:
        DatasetError: names the file and what is wrong.
    """
    mask_file = frame.path("mask.png")
    instances = decode_instances(read_png(mask_file))
    lines = read_meta(frame.path("meta.txt"), num_classes)
    counts = np.bincount(instances.ravel(), minlength=BACKGROUND + 1)
    if counts[BACKGROUND] == 0:
        raise DatasetError(f"{mask_file}: no pixel has the value 255 (background).")
    present = np.flatnonzero(counts[:BACKGROUND]).tolist()
    if len(present) > MAX_INSTANCES:
        raise DatasetError(f"{mask_file}: {len(present)} instances; at most {MAX_INSTANCES} exist.")
    unknown = [instance_id for instance_id in present if instance_id not in lines]
    if unknown:
        raise DatasetError(
            f"{mask_file}: the instances {unknown} have no line in {frame.path('meta.txt').name}."
        )
    kept = [instance_id for instance_id in present if lines[instance_id].class_id > 0]
    poses = read_poses(frame, kept)
    annotations = []
    for instance_id in kept:
        line = lines[instance_id]
        rle = mask_util.encode(np.asfortranarray(instances == instance_id, dtype=np.uint8))
        annotations.append(
            {
                "category_id": line.class_id,
                "bbox": mask_util.toBbox(rle).tolist(),
                "area": int(mask_util.area(rle)),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                "iscrowd": 0,
                "alignment_id": instance_id,
                "model": {"catid_cad": line.catalog_id, "id_cad": line.model_id},
                "extents": extents.of(frame, line),
                **poses.get(instance_id, {}),
            }
        )
    height, width = instances.shape
    return {"height": height, "width": width, "annotations": annotations}


def read_poses(frame: NocsFrame, kept: list[int]) -> Mapping[int, dict[str, Any]]:
    """Poses of the kept instances: ``q``, ``t``, ``s`` and ``handle_visible``.

    The exact ``_pose.npz`` of the embedded data is preferred to the published pickle; images
    without either have no poses.

    Args:
        frame: the image.
        kept: instance ids in ascending order, the order of the published file.
    """
    exact = frame.path("pose.npz")
    if exact.is_file():
        with np.load(exact, allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in arrays.files}
        rows = {instance_id: row for row, instance_id in enumerate(stored["instance_ids"].tolist())}
        chosen = [rows[instance_id] for instance_id in kept]
        matrices = np.zeros((len(kept), 4, 4))
        scales = stored["scales"][chosen]
        matrices[:, :3, :3] = stored["rotations"][chosen] * scales[:, None, None]
        matrices[:, :3, 3] = stored["translations"][chosen]
        visible = stored["handle_visibility"][chosen]
    elif frame.gts_file.is_file():
        data = load_restricted_pickle(frame.gts_file)
        matrices = np.asarray(data["gt_RTs"], dtype=np.float64).reshape(-1, 4, 4)
        # The files of real/test lack it; the official evaluation then takes every handle as seen.
        visible = np.asarray(data.get("handle_visibility", np.ones(len(matrices)))).reshape(-1)
        if not len(matrices) == len(visible) == len(kept):
            raise DatasetError(
                f"{frame.gts_file}: {len(matrices)} poses and {len(visible)} handle flags for "
                f"{len(kept)} objects of the mask."
            )
    else:
        return {}
    return {
        instance_id: {**_pose_fields(matrix, frame), "handle_visible": bool(flag)}
        for instance_id, matrix, flag in zip(kept, matrices, visible, strict=True)
    }


def _pose_fields(matrix: np.ndarray, frame: NocsFrame) -> dict[str, list[float]]:
    determinant = float(np.linalg.det(matrix[:3, :3]))
    if not np.isfinite(matrix).all() or determinant <= 0:
        raise DatasetError(
            f"{frame.root / frame.stem}: a pose is not a rotation with a positive scale "
            f"(determinant {determinant:.3g})."
        )
    scale = determinant ** (1 / 3)
    x, y, z, w = Rotation.from_matrix(matrix[:3, :3] / scale).as_quat(canonical=True).tolist()
    return {"q": [w, x, y, z], "t": matrix[:3, 3].tolist(), "s": [scale] * 3}
