"""Clips of bird's-eye-view rasters and their files.

One folder per dataset, layout version 1::

    meta.json                     grid, classes, input channels, numbers of frames
    splits/{train,val,test}.txt   one clip id a line
    clips/<id>/clip.json          frames (time, ego pose, token) and agents with their states
    clips/<id>/input.npz          raster, uint8 (T+F, C, H, W), each frame in its own ego frame
    clips/<id>/labels.npz         segmentation, instance, visibility, ego_pose, future_egomotion

The simulator and the conversions write it, one loader reads it. Poses are (x, y, yaw) in the world,
metres and radians.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roca_nocs.geometry.bev import BevGrid, ego_motion_vectors

from .coco_json import DatasetError, get_field, get_numbers, read_json

LAYOUT_VERSION = 1
META_FILE = "meta.json"
VISIBILITY_LEVELS = (0.4, 0.6, 0.8)
"""Visible shares at which the classes 2, 3 and 4 of visibility begin; 0 is not in the raster."""


@dataclass(frozen=True)
class AgentClass:
    """A class of agents: id from 0, name, and whether it belongs to the vehicles."""

    id: int
    name: str
    is_vehicle: bool


@dataclass(frozen=True)
class BevMeta:
    """The contents of ``meta.json``.

    Attributes:
        name: of the dataset.
        grid: of all rasters.
        frame_dt: seconds between frames.
        classes: of the agents, by id.
        input_channels: names of the channels of the raster.
        time_receptive_field: observed frames of a clip, the present included.
        n_future_frames: frames after the present.
    """

    name: str
    grid: BevGrid
    frame_dt: float
    classes: tuple[AgentClass, ...]
    input_channels: tuple[str, ...]
    time_receptive_field: int
    n_future_frames: int

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        return self.time_receptive_field + self.n_future_frames

    def as_json(self) -> dict[str, Any]:
        """The contents of the file."""
        grid = self.grid
        return {
            "version": LAYOUT_VERSION,
            "name": self.name,
            "resolution": grid.resolution,
            "x_bounds": [grid.x_min, grid.x_min + grid.height * grid.resolution],
            "y_bounds": [grid.y_min, grid.y_min + grid.width * grid.resolution],
            "frame_dt": self.frame_dt,
            "classes": [asdict(each) for each in self.classes],
            "input_channels": list(self.input_channels),
            "time_receptive_field": self.time_receptive_field,
            "n_future_frames": self.n_future_frames,
        }


def read_meta(root: str | os.PathLike[str]) -> BevMeta:
    """Read ``meta.json`` of a dataset.

    Raises:
        DatasetError: names the file and the field that is missing or makes no sense.
    """
    path = Path(root) / META_FILE
    data = read_json(path)
    where = str(path)
    version = get_field(data, "version", where)
    if version != LAYOUT_VERSION:
        raise DatasetError(f"{where}: version {version!r}; this code reads {LAYOUT_VERSION}.")
    resolution = get_numbers(data, "resolution", (), where)
    bounds = [get_numbers(data, f"{axis}_bounds", (2,), where) for axis in ("x", "y")]
    cells = [(high - low) / resolution if resolution > 0 else 0.0 for low, high in bounds]
    if any(count < 0.5 or abs(count - round(count)) > 1e-6 for count in cells):
        raise DatasetError(
            f"{where}: x_bounds and y_bounds {bounds} are no whole, positive numbers of cells of "
            f"resolution {resolution} m."
        )
    counts = {
        name: get_numbers(data, name, (), where)
        for name in ("time_receptive_field", "n_future_frames")
    }
    if counts["time_receptive_field"] < 1 or counts["n_future_frames"] < 0:
        raise DatasetError(
            f"{where}: {counts}; a clip has at least one observed frame and no negative number of "
            "future ones."
        )
    try:
        classes = tuple(
            AgentClass(int(each["id"]), str(each["name"]), bool(each["is_vehicle"]))
            for each in get_field(data, "classes", where)
        )
    except (TypeError, KeyError, ValueError) as error:
        raise DatasetError(
            f"{where}: 'classes' is not a list of {{id, name, is_vehicle}} ({error!r})."
        ) from error
    return BevMeta(
        name=str(get_field(data, "name", where)),
        grid=BevGrid(bounds[0][0], bounds[1][0], resolution, round(cells[0]), round(cells[1])),
        frame_dt=get_numbers(data, "frame_dt", (), where),
        classes=classes,
        input_channels=tuple(get_field(data, "input_channels", where)),
        time_receptive_field=int(counts["time_receptive_field"]),
        n_future_frames=int(counts["n_future_frames"]),
    )


@dataclass(frozen=True)
class BevAgents:
    """The N agents of a clip.

    Attributes:
        ids: (N,) int64, positive, those of the instance maps.
        labels: (N,) int64 class ids.
        sizes: (N, 2) float64 length and width, metres.
        poses: (T+F, N, 3) float64 in the world, NaN where an agent is not known.
        velocities: (T+F, N, 2) float64 in the world, metres per second.
        visibility: (T+F, N) uint8 class 1..4 of the visible share, 0 outside the raster.
    """

    ids: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    poses: np.ndarray
    velocities: np.ndarray
    visibility: np.ndarray


@dataclass(frozen=True)
class BevClip:
    """A clip of T observed and F future frames, each in its own ego frame.

    Attributes:
        clip_id: its name, without slashes.
        raster: (T+F, C, H, W) uint8, 255 = 1.0; only the first T frames are given to a model.
        segmentation: (T+F, H, W) uint8, 1 = a labelled agent.
        instance: (T+F, H, W) int32, 0 = background.
        visibility: (T+F, H, W) uint8, the class of the agent at each cell, 0 = background.
        ego_pose: (T+F, 3) float64 in the world.
        timestamps: (T+F,) int64, microseconds.
        tokens: T+F names of the frames.
        agents: all that the clip knows, labelled or not.
    """

    clip_id: str
    raster: np.ndarray
    segmentation: np.ndarray
    instance: np.ndarray
    visibility: np.ndarray
    ego_pose: np.ndarray
    timestamps: np.ndarray
    tokens: tuple[str, ...]
    agents: BevAgents


def clip_folder(clip_id: str) -> str:
    """Folder of a clip below the dataset's."""
    return f"clips/{clip_id}"


def clip_files(clip: BevClip, classes: tuple[AgentClass, ...]) -> dict[str, bytes]:
    """The three files of a clip, by path below the dataset's folder."""
    folder = clip_folder(clip.clip_id)
    ids = clip.instance.astype(np.uint16 if clip.instance.max(initial=0) < 2**16 else np.int32)
    labels = {
        "segmentation": clip.segmentation,
        "instance": ids,
        "visibility": clip.visibility,
        "ego_pose": clip.ego_pose,
        "future_egomotion": ego_motion_vectors(clip.ego_pose),
    }
    described = json.dumps(_describe(clip, classes), separators=(",", ":"), allow_nan=False)
    return {
        f"{folder}/clip.json": (described + "\n").encode(),
        f"{folder}/input.npz": _packed({"raster": clip.raster}),
        f"{folder}/labels.npz": _packed(labels),
    }


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An .npz file; sparse rasters shrink fifty times at zlib's fastest level already."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            # ZipInfo has a fixed date: the bytes depend on the arrays alone.
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue(), compresslevel=1)
    return buffer.getvalue()


def _describe(clip: BevClip, classes: tuple[AgentClass, ...]) -> dict[str, Any]:
    poses = clip.ego_pose.tolist()
    frames = [
        {
            "index": index,
            "timestamp_us": int(clip.timestamps[index]),
            "ego_pose": dict(zip(("x", "y", "yaw"), poses[index], strict=True)),
            "token": clip.tokens[index],
        }
        for index in range(len(poses))
    ]
    agents = clip.agents
    names = {each.id: each.name for each in classes}
    states = np.concatenate([agents.poses, agents.velocities], axis=-1)
    rounded = np.round(states, 6).tolist()
    visibility = agents.visibility.tolist()
    described = {
        str(number): {
            "class": names[int(agents.labels[row])],
            "length": float(agents.sizes[row, 0]),
            "width": float(agents.sizes[row, 1]),
            "states": [
                dict(zip(("x", "y", "yaw", "vx", "vy"), rounded[frame][row], strict=True))
                | {"frame": frame, "visibility": visibility[frame][row]}
                for frame in np.flatnonzero(np.isfinite(states[:, row]).all(axis=-1)).tolist()
            ],
        }
        for row, number in enumerate(agents.ids.tolist())
    }
    return {"frames": frames, "agents": described}


def read_clip(root: str | os.PathLike[str], clip_id: str, meta: BevMeta) -> BevClip:
    """Read the files of a clip.

    Args:
        root: folder of the dataset.
        clip_id: name of the clip.
        meta: of the dataset.

    Raises:
        DatasetError: a file is missing or damaged, or an array has another shape than ``meta``
            says; names the file and the field.
    """
    folder = Path(root) / clip_folder(clip_id)
    frames, size = meta.num_frames, (meta.grid.height, meta.grid.width)
    raster = _arrays(folder / "input.npz", {"raster": (frames, len(meta.input_channels), *size)})
    maps = dict.fromkeys(("segmentation", "instance", "visibility"), (frames, *size))
    labels = _arrays(folder / "labels.npz", {**maps, "ego_pose": (frames, 3)})
    path = folder / "clip.json"
    described = read_json(path)
    listed = get_field(described, "frames", str(path))
    if len(listed) != frames:
        raise DatasetError(f"{path}: {len(listed)} frames; meta.json says {frames}.")
    where = [f"{path}: frames[{index}]" for index in range(frames)]
    times = [get_field(each, "timestamp_us", at) for each, at in zip(listed, where, strict=True)]
    tokens = [get_field(each, "token", at) for each, at in zip(listed, where, strict=True)]
    return BevClip(
        clip_id=clip_id,
        raster=raster["raster"],
        segmentation=labels["segmentation"],
        instance=labels["instance"].astype(np.int32),
        visibility=labels["visibility"],
        ego_pose=labels["ego_pose"].astype(np.float64),
        timestamps=np.array(times, np.int64),
        tokens=tuple(map(str, tokens)),
        agents=_read_agents(get_field(described, "agents", str(path)), meta, path),
    )


def _arrays(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    try:
        # NumPy leaves a damaged file open that it has opened itself.
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in shapes}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise DatasetError(
                f"{path}: '{name}' has the shape {arrays[name].shape}; meta.json says {shape}."
            )
    return arrays


def _numbers(records: Sequence[tuple[Mapping[str, Any], str]], fields: Sequence[str]) -> np.ndarray:
    """(records, fields) float64 of records and their places; all at once unless one is wrong."""
    try:
        values = np.array([[record[field] for field in fields] for record, _ in records])
    except (KeyError, ValueError):  # ragged, or a field is missing
        values = np.zeros(0, object)
    if values.ndim == 2 and values.dtype.kind in "iuf" and np.isfinite(values).all():
        return values.astype(np.float64)
    return np.array(
        [[get_numbers(record, field, (), where) for field in fields] for record, where in records],
        np.float64,
    )


def _read_agents(described: Mapping[str, Any], meta: BevMeta, path: Path) -> BevAgents:
    frames, count = meta.num_frames, len(described)
    label_of = {each.name: each.id for each in meta.classes}
    labels, sizes = np.zeros(count, np.int64), np.zeros((count, 2))
    states = np.full((frames, count, 5), np.nan)
    visibility = np.zeros((frames, count), np.uint8)
    places: list[tuple[int, int]] = []
    listed: list[tuple[Mapping[str, Any], str]] = []
    for row, (number, agent) in enumerate(described.items()):
        where = f"{path}: agent {number}"
        name = get_field(agent, "class", where)
        if not number.isdigit() or int(number) < 1 or name not in label_of:
            raise DatasetError(
                f"{where}, class {name!r}: agents have whole, positive ids and one of the classes "
                f"{list(label_of)}."
            )
        labels[row] = label_of[name]
        sizes[row] = [get_numbers(agent, side, (), where) for side in ("length", "width")]
        for state in get_field(agent, "states", where):
            frame = get_field(state, "frame", where)
            if frame not in range(frames):
                raise DatasetError(f"{where}: frame {frame!r} is not one of {frames} frames.")
            places.append((frame, row))
            listed.append((state, where))
            visibility[frame, row] = get_field(state, "visibility", where)
    if places:
        states[tuple(np.transpose(places))] = _numbers(listed, ("x", "y", "yaw", "vx", "vy"))
    ids = np.array([int(number) for number in described], np.int64)
    return BevAgents(ids, labels, sizes, states[..., :3], states[..., 3:], visibility)
