"""Reading of the JSON tables of nuScenes, which Lyft Level 5 shares."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..coco_json import DatasetError, get_field, get_numbers, read_json

LIDAR = "LIDAR_TOP"

Table = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RawObjects:
    """N annotated objects of a key frame, in the world.

    Attributes:
        instances: (N,) tokens, the same for an object in all frames.
        categories: (N,) names.
        hidden: (N,) bool, of the lowest class of visibility.
        poses: (N, 3) float64 x, y, yaw.
        sizes: (N, 2) float64 length and width, metres.
    """

    instances: tuple[str, ...]
    categories: tuple[str, ...]
    hidden: np.ndarray
    poses: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class RawFrame:
    """A key frame: its sample token, time in microseconds, ego pose and objects."""

    token: str
    timestamp: int
    ego_pose: np.ndarray
    objects: RawObjects


def yaw_of(quaternion: np.ndarray) -> np.ndarray:
    """Heading (...) of quaternions (..., 4) wxyz, radians."""
    w, x, y, z = np.moveaxis(np.asarray(quaternion, np.float64), -1, 0)
    return np.arctan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z)


def read_scenes(
    folder: str | os.PathLike[str], hidden_tokens: tuple[str, ...]
) -> Iterator[tuple[str, list[RawFrame]]]:
    """All scenes of a version.

    Args:
        folder: of the tables, e.g. ``nuscenes/v1.0-trainval``.
        hidden_tokens: visibility tokens of hidden objects.

    Yields:
        (name, key frames in time) of each scene, by name. The ego pose is that of the key frame of
        the lidar on the roof.

    Raises:
        DatasetError: a table is missing or damaged, or a record refers to one that does not exist;
            names the table, the record and the field.
    """
    folder = Path(folder)
    names = ("scene", "sample", "ego_pose", "instance", "category")
    tables = {name: _table(folder, name) for name in names}
    lidar = _lidar_poses(folder, tables["ego_pose"])
    annotations: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in _table(folder, "sample_annotation").values():
        annotations[get_field(record, "sample_token", "sample_annotation")].append(record)
    for scene in sorted(tables["scene"].values(), key=lambda each: str(each["name"])):
        frames = []
        token = get_field(scene, "first_sample_token", f"scene {scene['token']}")
        while token:
            sample = _linked(tables["sample"], token, f"scene {scene['name']}: sample")
            if token not in lidar:
                raise DatasetError(
                    f"{folder}/sample_data.json: sample {token} has no key frame of {LIDAR}."
                )
            objects = _objects(annotations[token], tables, hidden_tokens)
            frames.append(RawFrame(token, int(sample["timestamp"]), lidar[token], objects))
            token = sample["next"]
            if len(frames) > len(tables["sample"]):
                raise DatasetError(f"{folder}/sample.json: 'next' goes round in {scene['name']}.")
        yield str(scene["name"]), frames


def _table(folder: Path, name: str) -> Table:
    """Records of a table by token."""
    path = folder / f"{name}.json"
    records = read_json(path)
    if not isinstance(records, list):
        raise DatasetError(f"{path}: holds a {type(records).__name__}; expected a list of records.")
    return {
        get_field(record, "token", f"{path}: record {index}"): record
        for index, record in enumerate(records)
    }


def _linked(table: Mapping[str, dict[str, Any]], token: str, where: str) -> dict[str, Any]:
    try:
        return table[token]
    except KeyError:
        raise DatasetError(f"{where} {token!r} is not in its table.") from None


def _lidar_poses(folder: Path, ego_poses: Table) -> dict[str, np.ndarray]:
    """Sample token -> ego pose (3,) of the lidar's key frame."""
    sensors = {
        token: get_field(record, "channel", f"{folder}/sensor.json: {token}")
        for token, record in _table(folder, "sensor").items()
    }
    calibrated = {
        token
        for token, record in _table(folder, "calibrated_sensor").items()
        if sensors.get(record.get("sensor_token")) == LIDAR
    }
    poses = {}
    for token, record in _table(folder, "sample_data").items():
        if record.get("calibrated_sensor_token") not in calibrated or not record["is_key_frame"]:
            continue
        where = f"{folder}/sample_data.json: {token}"
        pose = _linked(ego_poses, get_field(record, "ego_pose_token", where), f"{where}: ego_pose")
        poses[get_field(record, "sample_token", where)] = _planar(pose, where)
    return poses


def _planar(record: Mapping[str, Any], where: str) -> np.ndarray:
    """Pose (3,) x, y, yaw of a record with ``translation`` and ``rotation``."""
    translation = get_numbers(record, "translation", (3,), where)
    rotation = get_numbers(record, "rotation", (4,), where)
    return np.array([translation[0], translation[1], float(yaw_of(np.array(rotation)))])


def _objects(
    records: list[dict[str, Any]], tables: Mapping[str, Table], hidden_tokens: tuple[str, ...]
) -> RawObjects:
    instances, categories, hidden, poses, sizes = [], [], [], [], []
    for record in records:
        where = f"sample_annotation {record['token']}"
        token = get_field(record, "instance_token", where)
        instance = _linked(tables["instance"], token, f"{where}: instance")
        category = _linked(
            tables["category"], instance["category_token"], f"instance {token}: category"
        )
        instances.append(token)
        categories.append(str(category["name"]))
        hidden.append(str(record.get("visibility_token", "")) in hidden_tokens)
        poses.append(_planar(record, where))
        width, length, _ = get_numbers(record, "size", (3,), where)
        sizes.append((length, width))
    return RawObjects(
        tuple(instances),
        tuple(categories),
        np.array(hidden, bool),
        np.array(poses, np.float64).reshape(-1, 3),
        np.array(sizes, np.float64).reshape(-1, 2),
    )
