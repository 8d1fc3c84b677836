"""A small dataset with the tables of nuScenes."""

from __future__ import annotations

import json
import math
from pathlib import Path

SAMPLES = 9
START = 1_500_000_000_000_000


def quaternion(yaw: float) -> list[float]:
    return [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]


def write_tables(
    folder: Path,
    scenes: tuple[str, ...] = ("scene-0103", "scene-0061"),
    categories: tuple[str, ...] = ("vehicle.car", "human.pedestrian.adult", "vehicle.truck"),
    period: int = 500_000,
) -> Path:
    """Scenes of nine key frames: the ego vehicle drives along world y, one metre a frame.

    Objects: a car ahead of the ego vehicle in the same motion; a pedestrian; and a truck that
    stands to the left, of the lowest visibility in the frames with an even number.
    """
    tables: dict[str, list[dict]] = {
        name: []
        for name in (
            *("scene", "sample", "sample_data", "ego_pose", "sample_annotation"),
            *("instance", "visibility"),
        )
    }
    tables["category"] = [{"token": f"c-{name}", "name": name} for name in categories]
    tables["sensor"] = [
        {"token": "s-lidar", "channel": "LIDAR_TOP", "modality": "lidar"},
        {"token": "s-camera", "channel": "CAM_FRONT", "modality": "camera"},
    ]
    tables["calibrated_sensor"] = [
        {"token": f"k-{name}", "sensor_token": f"s-{name}"} for name in ("lidar", "camera")
    ]
    for scene in scenes:
        tokens = [f"{scene}/{index}" for index in range(SAMPLES)]
        tables["scene"].append(
            {"token": f"t-{scene}", "name": scene, "first_sample_token": tokens[0]}
        )
        for name in categories:
            tables["instance"].append({"token": f"{scene}:{name}", "category_token": f"c-{name}"})
        for index, token in enumerate(tokens):
            following = tokens[index + 1] if index + 1 < SAMPLES else ""
            time = START + period * index
            tables["sample"].append({"token": token, "timestamp": time, "next": following})
            for name, key_frame, offset in (
                ("lidar", True, 0.0),
                ("lidar", False, 7.0),
                ("camera", True, 9.0),
            ):
                pose = f"{token}:{name}:{key_frame}"
                tables["ego_pose"].append(
                    {
                        "token": pose,
                        "translation": [100.0 + offset, 50.0 + index, 0.0],
                        "rotation": quaternion(math.pi / 2),
                    }
                )
                tables["sample_data"].append(
                    {
                        "token": f"d-{pose}",
                        "sample_token": token,
                        "ego_pose_token": pose,
                        "calibrated_sensor_token": f"k-{name}",
                        "is_key_frame": key_frame,
                    }
                )
            places = [(100.0, 60.0 + index), (103.0, 52.0), (90.0, 58.0)]
            for number, (name, place) in enumerate(zip(categories, places, strict=True)):
                hidden = number == 2 and index % 2 == 0
                tables["sample_annotation"].append(
                    {
                        "token": f"a-{token}-{number}",
                        "sample_token": token,
                        "instance_token": f"{scene}:{name}",
                        "visibility_token": "1" if hidden else "4",
                        "translation": [*place, 1.0],
                        "size": [2.0, 4.0, 1.5],
                        "rotation": quaternion(math.pi / 2),
                    }
                )
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
    return folder
