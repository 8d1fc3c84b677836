"""Images to look at: files, folders, dataset records; and their cameras."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roca_nocs.data.datasets.nocs_frames import decode_depth
from roca_nocs.data.images import read_color, read_png
from roca_nocs.data.maps import read_map
from roca_nocs.data.mono3d_mapper import record_projection
from roca_nocs.geometry.camera import shift_intrinsics

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})


class InputError(ValueError):
    """An image, video or camera that cannot be used; the message names the file."""


@dataclass(frozen=True)
class Frame:
    """An image with what is known of it.

    Attributes:
        name: of the output files, unique in a run.
        file_name: where it comes from.
        image: (H, W, 3) uint8 RGB.
        intrinsics: (3, 3) float64, pixels, or ``None``.
        scene_id: limits retrieval to the CAD models of this scene; ``None`` for all models.
        record: of the dataset that it belongs to, or ``None``.
        depth: (H, W) float32 metres, 0 = none, where it is measured; else ``None``.
        offset: (3,) metres, added to points of the frame of 3D boxes gives the camera's; not zero
            where a dataset annotates in the frame of another camera (KITTI).
        index, seconds: number and time of a frame of a video, else ``None``.
    """

    name: str
    file_name: str
    image: np.ndarray
    intrinsics: np.ndarray | None = None
    scene_id: str | None = None
    record: Mapping[str, Any] | None = None
    depth: np.ndarray | None = None
    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))
    index: int | None = None
    seconds: float | None = None

    def projection(self) -> np.ndarray:
        """(3, 4) from the frame of 3D boxes to the pixels of boxes, where the image begins at 0.

        Pixel centres have integer coordinates in ``intrinsics``, and lie at 1/2 among boxes.
        """
        matrix = shift_intrinsics(torch.from_numpy(self.intrinsics), 0.5, 0.5).numpy()
        return matrix @ np.column_stack([np.eye(3), self.offset])


@dataclass(frozen=True)
class CameraChoice:
    """The camera of images that come without one.

    Attributes:
        intrinsics: (3, 3) of every image, or ``None``.
        field_of_view: horizontal, degrees, for a camera in the middle of the image with square
            pixels; used where there are no intrinsics; or ``None``.
        focal_share: focal length over the height of the image, for such a camera; used where
            nothing else is known; or ``None``.
    """

    intrinsics: np.ndarray | None = None
    field_of_view: float | None = None
    focal_share: float | None = None

    def __post_init__(self) -> None:
        if self.field_of_view is not None and not 0 < self.field_of_view < 180:
            raise InputError(
                f"a field of view is between 0 and 180 degrees, got {self.field_of_view:g}"
            )

    def matrix(self, height: int, width: int) -> np.ndarray | None:
        """(3, 3) float64 for an image of this size; ``None`` where nothing is known.

        Raises:
            ValueError: the intrinsics belong to an image of another size.
        """
        if self.intrinsics is not None:
            x, y = self.intrinsics[:2, 2]
            if not (0 <= x < width and 0 <= y < height):
                raise ValueError(
                    f"the principal point ({x:g}, {y:g}) of the intrinsics lies outside the "
                    f"{width}x{height} image: they belong to an image of another size. Multiply "
                    "fx, cx by the ratio of the widths and fy, cy by that of the heights."
                )
            return self.intrinsics
        if self.field_of_view is not None:
            focal = width / 2 / np.tan(np.radians(self.field_of_view) / 2)
        elif self.focal_share is not None:
            focal = self.focal_share * height
        else:
            return None
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def parse_intrinsics(text: str) -> np.ndarray:
    """Intrinsics from the command line.

    Args:
        text: ``fx,fy,cx,cy`` in pixels, or a file: the numbers of a 3x3 or 4x4 matrix (ScanNet's
            ``intrinsic_color.txt``), or JSON with such a matrix, alone or as ``intrinsics`` (the
            demo's own results), or with ``fx``, ``fy``, ``cx``, ``cy``.

    Returns:
        (3, 3) float64.

    Raises:
        InputError: says what was given and what is expected.
    """
    expected = "expected fx,fy,cx,cy in pixels, or a file with a 3x3 or 4x4 matrix (text or JSON)"
    where = f"intrinsics {text!r}"
    try:
        if Path(text).is_file():
            values = _numbers(Path(text).read_text())
        else:
            values = np.array([float(part) for part in text.split(",")])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: {expected}; {error}") from error
    if values.shape == (4,):
        fx, fy, cx, cy = values
        matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    elif values.shape in ((3, 3), (4, 4), (9,), (16,)):
        side = 3 if values.size == 9 else 4
        matrix = values.reshape(side, side)[:3, :3]
    else:
        raise InputError(f"{where}: {expected}; got numbers of the shape {values.shape}")
    if not np.isfinite(matrix).all() or (matrix[2] != (0, 0, 1)).any() or matrix[1, 0] != 0:
        raise InputError(
            f"{where}: not a camera matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]]: {matrix.tolist()}"
        )
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise InputError(f"{where}: the focal lengths must be positive: {matrix.tolist()}")
    return matrix


def _numbers(content: str) -> np.ndarray:
    if content.lstrip()[:1] not in ("{", "["):
        return np.loadtxt(content.replace(",", " ").splitlines(), dtype=np.float64)
    data = json.loads(content)
    if isinstance(data, dict):
        data = data.get("intrinsics") or [data[name] for name in ("fx", "fy", "cx", "cy")]
    return np.array(data, dtype=np.float64)


def find_inputs(paths: Iterable[str]) -> tuple[list[Path], list[Path]]:
    """Files as they are and, in the place of a folder, what it holds, by name.

    Returns:
        The images, and the videos (told by their suffix).

    Raises:
        InputError: a folder has none.
    """
    found = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
        if not inside:
            raise InputError(f"the folder {path} has no images ({', '.join(sorted(suffixes))})")
        found += inside
    videos = [path for path in found if path.suffix.lower() in VIDEO_SUFFIXES]
    return [path for path in found if path not in videos], videos


def unique_names(names: Sequence[str]) -> list[str]:
    """Names for output files: the second ``photo`` becomes ``photo_2``."""
    taken: set[str] = set()
    result = []
    for name in names:
        candidate, number = name, 1
        while candidate in taken:
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate)
        result.append(candidate)
    return result


def read_frame(
    name: str, path: Path, camera: CameraChoice, scene_id: str | None, depth: Path | None
) -> Frame:
    """An image file.

    Raises:
        InputError: it or its depth map is missing or damaged, or intrinsics or depth do not fit.
    """
    try:
        image = read_color({"file_name": str(path)}, "RGB")
        intrinsics = camera.matrix(*image.shape[:2])
        measured = None if depth is None else _read_depth(depth, image.shape[:2])
    except ValueError as error:
        raise InputError(f"{path}: {error.__cause__ or error}") from error
    return Frame(name, str(path), image, intrinsics, scene_id, depth=measured)


def _read_depth(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 metres.

    Raises:
        ValueError: the file is missing or damaged, or has another size.
    """
    depth = decode_depth(read_png(path)).astype(np.float32) / 1000
    if depth.shape != size:
        raise ValueError(
            f"the depth map {path} is {depth.shape[1]}x{depth.shape[0]}, the image "
            f"{size[1]}x{size[0]}"
        )
    return depth


def record_frame(
    name: str,
    record: Mapping[str, Any],
    camera: CameraChoice,
    scenes: Container[str],
    depth: bool,
) -> Frame:
    """The image of a dataset record; its own camera goes first.

    Raises:
        InputError: see :func:`read_frame`.
    """
    offset = np.zeros(3)
    try:
        image = read_color(dict(record), "RGB")
        if record.get("projection") is not None:
            intrinsics, offset = _split_projection(record_projection(dict(record), required=True))
        elif record.get("intrinsics") is not None:
            intrinsics = np.array(record["intrinsics"], np.float64)
        else:
            intrinsics = camera.matrix(*image.shape[:2])
        known = depth and record.get("depth_file_name") is not None
        measured = read_map(record, "depth") if known else None
    except ValueError as error:
        raise InputError(str(error)) from error
    scene = record.get("scene_id")
    scene = scene if scene in scenes else None
    file_name = record["file_name"]
    return Frame(name, file_name, image, intrinsics, scene, record, measured, offset)


def _split_projection(projection: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """``intrinsics`` and ``offset`` of a frame, the inverse of ``Frame.projection``."""
    matrix, column = projection[:, :3], projection[:, 3]
    return shift_intrinsics(matrix, -0.5, -0.5).numpy(), torch.linalg.solve(matrix, column).numpy()


def file_sources(
    paths: Sequence[Path],
    camera: CameraChoice,
    scene_id: str | None = None,
    depth: Path | None = None,
) -> list[Callable[[], Frame]]:
    """Functions that read an image file each.

    Args:
        paths: the images.
        camera: of all of them.
        scene_id: see ``Frame``.
        depth: depth map of the image, or a folder with one for each, named ``<image>.png``.

    Raises:
        InputError: one depth map for several images.
    """
    maps: list[Path | None] = [depth] * len(paths)
    if depth is not None and depth.is_dir():
        maps = [depth / f"{path.stem}.png" for path in paths]
    elif depth is not None and len(paths) > 1:
        raise InputError(
            f"the depth map {depth} cannot belong to {len(paths)} images: give a folder with one "
            "for each"
        )
    names = unique_names([path.stem for path in paths])
    return [
        partial(read_frame, name, path, camera, scene_id, of_image)
        for name, path, of_image in zip(names, paths, maps, strict=True)
    ]


def record_sources(
    records: Sequence[Mapping[str, Any]],
    camera: CameraChoice,
    scenes: Container[str],
    *,
    depth: bool = False,
) -> list[Callable[[], Frame]]:
    """Functions that read an image of a dataset each; they are named after scene and file.

    Args:
        records: of the dataset.
        camera: of records without intrinsics.
        scenes: those whose CAD models are known; images of others may show any model.
        depth: whether their depth maps are read.
    """
    names = []
    for record in records:
        parts = [record.get("scene_id"), Path(record["file_name"]).stem]
        # In KITTI's layout an image is a scene of its own; in others scenes are folders.
        names.append("_".join(dict.fromkeys(filter(None, parts))).replace("/", "_"))
    return [
        partial(record_frame, name, record, camera, scenes, depth)
        for name, record in zip(unique_names(names), records, strict=True)
    ]
