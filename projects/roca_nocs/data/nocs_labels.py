"""Poses for NOCS images that are published without: label files, image lists, handle visibility.

The files and what is left out follow Shape Prior Deformation (Tian et al., ECCV 2020), so that they
can be exchanged with it and the methods after it.
"""

from __future__ import annotations

import logging
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from roca_nocs.geometry.rotation import quaternion_to_matrix
from roca_nocs.geometry.similarity import umeyama_ransac

from .datasets.nocs import CLASSES, nocs_index_file
from .datasets.nocs_frames import (
    BadSample,
    NocsFrame,
    decode_coordinates,
    decode_depth,
    find_frames,
)
from .datasets.nocs_models import HANDLE_SHARE, ModelTable, Recentring, real_model_size
from .datasets.nocs_objects import frame_objects, read_frame_image
from .datasets.nocs_poses import MUG_CLASS_ID, Poses, exact_poses, pose_fields, published_poses
from .process_pool import worker_pool
from .published_cameras import nocs_intrinsics

logger = logging.getLogger(__name__)

SKIPPED_MODEL = "b9be7cfe653740eb7633a2dd89cec754"
"""An improper mug of CAMERA."""

MIN_DEPTH_PIXELS = 64
MAX_BOX_SHARE = np.array([600 / 640, 440 / 480])
"""Images with a wider or higher box are rendering errors."""

_HANDLE_DISTANCE = 1.05
_MAX_POINTS = 2048
_NAMED = 3


@dataclass
class LabelReport:
    """What became of the images of a split.

    Attributes:
        written: stems of the images with a label file.
        sources: number of images by the source of their poses.
        left_out: number of images by the reason.
        bad: what is wrong with the files of those that cannot be used.
        handles: folder -> number of the frame -> whether the handle of its mug is visible.
    """

    written: list[str] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    handles: dict[str, dict[int, bool]] = field(default_factory=dict)

    def add(self, other: LabelReport) -> None:
        """Take in the images of another folder."""
        self.written += other.written
        self.sources += other.sources
        self.left_out += other.left_out
        self.bad += other.bad
        self.handles |= other.handles


class _LeftOut(Exception):
    """The image gets no label file; the message says why."""


@dataclass(frozen=True)
class _Folder:
    frames: list[NocsFrame]
    results: Path | None
    coord_z_mirrored: bool


def write_labels(
    root: Path,
    dataset: str,
    split: str,
    *,
    results: Path | None = None,
    coord_z_mirrored: bool = True,
    workers: int = 1,
) -> LabelReport:
    """Write a label file for each image of a split, lists of the images, and ``mug_handle.pkl``.

    Poses come from ``_pose.npz``, from the published pickles where they can be assigned to the
    objects of the mask, otherwise from aligning the map with depth (CAMERA) or with the pixels,
    given the size of the model (REAL, whose depth is noisy). The index of the split is removed, so
    that the reader takes the labels in.

    Args:
        root: folder of the dataset, with ``obj_models/mug_meta.pkl``.
        dataset: ``"camera"`` or ``"real"``.
        split: of it.
        results: folder of published result pickles, which unlike ``gts`` hold the visibility of
            handles for the test images of REAL; ``None``: ``gts`` is used.
        coord_z_mirrored: whether the maps hold 1 - z, as those of the official data.
        workers: number of processes.

    Raises:
        DatasetError: a file that does not belong to one image alone is damaged or missing.
    """
    frames, _ = find_frames(root, dataset, split)
    folders = [
        _Folder(list(group), results, coord_z_mirrored)
        for _, group in groupby(frames, lambda frame: frame.folder)
    ]
    report = LabelReport()
    with worker_pool(workers, root) as pool_map:
        for part in pool_map(_label_folder, folders):
            report.add(part)
    if report.bad:
        logger.warning(
            "%s/%s: %d of %d images cannot be used, first: %s",
            dataset,
            split,
            len(report.bad),
            len(frames),
            " ".join(report.bad[:_NAMED]),
        )
    base = root / dataset
    stems = [frame.stem.removeprefix(f"{dataset}/") for frame in frames]
    for name, lines in ((f"{split}_list_all", stems), (f"{split}_list", report.written)):
        (base / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    handles = {}
    for folder, flags in report.handles.items():
        handles[f"{folder}_res"] = np.ones(max(flags) + 1, np.int64)
        handles[f"{folder}_res"][list(flags)] = list(flags.values())
    (base / split / "mug_handle.pkl").write_bytes(pickle.dumps(handles, protocol=4))
    nocs_index_file(root, dataset, split).unlink(missing_ok=True)
    return report


def _label_folder(folder: _Folder) -> LabelReport:
    models = ModelTable()
    report = LabelReport()
    for frame in folder.frames:
        try:
            content, source = frame_label(
                frame, models, folder.results, coord_z_mirrored=folder.coord_z_mirrored
            )
        except (_LeftOut, BadSample) as error:
            reason = str(error)
            if isinstance(error, BadSample):
                report.bad.append(reason)
                reason = "a file cannot be used"
            report.left_out[reason] += 1
            frame.path("label.pkl").unlink(missing_ok=True)
            continue
        frame.path("label.pkl").write_bytes(pickle.dumps(content, protocol=4))
        report.written.append(frame.stem.removeprefix(f"{frame.dataset}/"))
        report.sources[source] += 1
        mugs = np.array(content["class_ids"]) == MUG_CLASS_ID
        if mugs.any():
            flags = report.handles.setdefault(frame.folder, {})
            flags[int(frame.name)] = bool(content["handle_visibility"][mugs].any())
    return report


def frame_label(
    frame: NocsFrame,
    models: ModelTable,
    results: Path | None = None,
    *,
    coord_z_mirrored: bool = True,
) -> tuple[dict[str, Any], str]:
    """The content of a label file, and the source of its poses.

    Args:
        frame: the image.
        models: extents and re-centrings of the models.
        results, coord_z_mirrored: see :func:`write_labels`.

    Returns:
        ``class_ids`` (from 1), ``instance_ids``, ``model_list`` (lists), ``bboxes`` (N, 4) int32
        (y1, x1, y2, x2), ``scales`` (N,), ``rotations`` (N, 3, 3), ``translations`` (N, 3) float32,
        mugs re-centred, ``handle_visibility`` (N,) int64.
    """
    instances, annotations = frame_objects(frame, models, len(CLASSES))
    depth = read_frame_image(frame, "depth.png", decode_depth).astype(np.float32) / 1000
    kept = [each for each in annotations if each["model"]["id_cad"] != SKIPPED_MODEL]
    limit = MAX_BOX_SHARE * instances.shape[::-1]
    if any((np.array(each["bbox"][2:]) > limit).any() for each in kept):
        raise _LeftOut("an object fills the image")
    measured = np.bincount(instances[depth > 0], minlength=256)
    kept = [each for each in kept if measured[each["alignment_id"]] >= MIN_DEPTH_PIXELS]
    if not kept:
        raise _LeftOut("no object with enough depth")
    # The published pickles list all objects, so that is what they are compared with.
    poses, source = _known_poses(frame, annotations, results)
    if poses is None:
        decode = partial(decode_coordinates, z_mirrored=coord_z_mirrored)
        nocs = read_frame_image(frame, "coord.png", decode) - np.float32(0.5)
        if frame.dataset == "camera":
            poses = _align_to_depth(frame, kept, instances, nocs, depth)
        else:
            poses = _align_to_pixels(frame, kept, instances, nocs)
        source = f"{source}, aligned" if source else "aligned"
        for each in kept:
            if each["category_id"] == MUG_CLASS_ID:
                recentring = models.recentring_of(frame.root, each["model"]["id_cad"])
                points = nocs[instances == each["alignment_id"]]
                poses[each["alignment_id"]]["handle_visible"] = handle_visible(
                    points, np.array(each["extents"]), recentring
                )
    return _label(frame, kept, poses, models), source


def handle_visible(points: np.ndarray, extents: np.ndarray, recentring: Recentring) -> bool:
    """Whether enough of a mug's visible surface lies outside its body.

    Args:
        points: (K, 3) visible surface points, model frame, the handle towards +x.
        extents: (3,) of the model.
        recentring: of the model; puts the axis of the body at the origin.
    """
    radius = extents[0] / 2 - recentring.shift[0]
    outside = points[:, 0] + recentring.shift[0] > _HANDLE_DISTANCE * radius
    return bool(len(points) and outside.mean() >= HANDLE_SHARE)


def _known_poses(
    frame: NocsFrame, annotations: Sequence[Mapping[str, Any]], results: Path | None
) -> tuple[Poses | None, str]:
    exact = frame.path("pose.npz")
    if exact.is_file():
        return exact_poses(exact, annotations), "exact"
    published = frame.gts_file
    if results is not None:
        published = results / f"results_{frame.split}_{frame.folder}_{frame.name}.pkl"
    if not published.is_file():
        return None, ""
    poses = published_poses(published, annotations)
    return poses, "published" if poses is not None else "published poses not assignable"


def _align_to_depth(
    frame: NocsFrame,
    annotations: Sequence[Mapping[str, Any]],
    instances: np.ndarray,
    nocs: np.ndarray,
    depth: np.ndarray,
) -> Poses:
    inverse = np.linalg.inv(nocs_intrinsics(instances.shape, frame.dataset))
    source = torch.zeros(len(annotations), _MAX_POINTS, 3, dtype=torch.float64)
    target, valid = torch.zeros_like(source), torch.zeros(source.shape[:2], dtype=torch.bool)
    for row, each in enumerate(annotations):
        rows, columns = _pixels((instances == each["alignment_id"]) & (depth > 0))
        pixels = np.stack([columns, rows, np.ones_like(rows)]) * depth[rows, columns]
        count = len(rows)
        source[row, :count] = torch.from_numpy(nocs[rows, columns].astype(np.float64))
        target[row, :count] = torch.from_numpy((inverse @ pixels).T)
        valid[row, :count] = True
    # Seeded for each image, so that the result does not depend on the workers.
    generator = torch.Generator().manual_seed(0)
    fit = umeyama_ransac(source, target, valid, generator=generator)
    if (fit.reasons != 0).any():
        raise _LeftOut("alignment failed")
    return {
        each["alignment_id"]: pose_fields(
            fit.rotation[row].numpy(),
            fit.translation[row].numpy(),
            float(fit.scale[row]),
            True,
            frame.path("coord.png"),
        )
        for row, each in enumerate(annotations)
    }


def _align_to_pixels(
    frame: NocsFrame,
    annotations: Sequence[Mapping[str, Any]],
    instances: np.ndarray,
    nocs: np.ndarray,
) -> Poses:
    intrinsics = nocs_intrinsics(instances.shape, frame.dataset)
    poses = {}
    for each in annotations:
        size = real_model_size(frame.root / "obj_models", frame.split, each["model"]["id_cad"])
        scale = float(np.linalg.norm(size))
        rows, columns = _pixels(instances == each["alignment_id"])
        pixels = np.stack([columns, rows], axis=1).astype(np.float64)
        points = scale * nocs[rows, columns].astype(np.float64)
        try:
            found, rotation, translation = cv2.solvePnP(points, pixels, intrinsics, None)
        except cv2.error:
            # Points on a line.
            found = False
        if not found:
            raise _LeftOut("alignment failed")
        matrix, _ = cv2.Rodrigues(rotation)
        poses[each["alignment_id"]] = pose_fields(
            matrix, translation[:, 0], scale, True, frame.path("coord.png")
        )
    return poses


def _pixels(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a mask's pixels, evenly thinned out to the largest number."""
    rows, columns = np.nonzero(mask)
    if len(rows) > _MAX_POINTS:
        chosen = np.linspace(0, len(rows) - 1, _MAX_POINTS).astype(np.int64)
        rows, columns = rows[chosen], columns[chosen]
    return rows, columns


def _label(
    frame: NocsFrame,
    annotations: Sequence[Mapping[str, Any]],
    poses: Poses,
    models: ModelTable,
) -> dict[str, Any]:
    count = len(annotations)
    boxes = np.array([each["bbox"] for each in annotations], np.float64).reshape(count, 4)
    boxes[:, 2:] += boxes[:, :2]
    fields = [poses[each["alignment_id"]] for each in annotations]
    rotations = quaternion_to_matrix(
        torch.tensor([each["q"] for each in fields], dtype=torch.float64)
    ).numpy()
    translations = np.array([each["t"] for each in fields])
    scales = np.array([each["s"][0] for each in fields])
    for row, each in enumerate(annotations):
        if each["category_id"] == MUG_CLASS_ID:
            recentring = models.recentring_of(frame.root, each["model"]["id_cad"])
            translations[row], scales[row] = recentring.pose(
                rotations[row], translations[row], float(scales[row])
            )
    return {
        "class_ids": [each["category_id"] for each in annotations],
        "bboxes": boxes[:, [1, 0, 3, 2]].astype(np.int32),
        "scales": scales.astype(np.float32),
        "rotations": rotations.astype(np.float32),
        "translations": translations.astype(np.float32),
        "instance_ids": [each["alignment_id"] for each in annotations],
        "model_list": [each["model"]["id_cad"] for each in annotations],
        "handle_visibility": np.array([each["handle_visible"] for each in fields], np.int64),
    }
