"""The numbers of one image or clip as JSON; docs/demo.md describes the fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from roca_nocs.visualization.clip_result import ClipResult
from roca_nocs.visualization.image_result import Alignments, CadKey, ImageResult, PosedBoxes
from roca_nocs.visualization.inputs import Frame


def frame_results(frame: Frame, result: ImageResult, names: list[str]) -> dict[str, Any]:
    """Everything found in a frame, in types of JSON.

    Args:
        frame: the image.
        result: its detections.
        names: of the classes.
    """
    height, width = frame.image.shape[:2]
    data: dict[str, Any] = {
        "file": frame.file_name,
        "image_size": {"height": height, "width": width},
        "intrinsics": None if frame.intrinsics is None else frame.intrinsics.tolist(),
        "camera_offset": frame.offset.tolist(),
        "scene": frame.scene_id,
    }
    if frame.index is not None:
        data |= {"frame": frame.index, "seconds": frame.seconds}
    data["objects"] = [_object(result, row, names) for row in range(len(result))]
    return data


def _object(result: ImageResult, row: int, names: list[str]) -> dict[str, Any]:
    label = int(result.classes[row])
    data: dict[str, Any] = {
        "class": names[label],
        "class_id": label,
        "score": None if result.scores is None else float(result.scores[row]),
        "box_xyxy": result.boxes[row].tolist(),
        "mask": None if result.masks is None else _encode(result.masks[row]),
    }
    if result.alignments is not None:
        data |= _pose(result.alignments, row)
    if result.boxes3d is not None:
        data |= _box3d(result.boxes3d, row)
    return data


def _pose(alignments: Alignments, row: int) -> dict[str, Any]:
    valid = bool(alignments.valid[row])
    pose = {
        "translation": alignments.translations[row],
        "rotation_wxyz": alignments.quaternions()[row],
        "scale": alignments.scales[row],
    }
    return {
        "has_alignment": valid,
        **{name: value.tolist() if valid else None for name, value in pose.items()},
        "cad": _cad(alignments.cads[row]),
        "wild_cad": _cad(alignments.wild_cads[row]),
    }


def _box3d(boxes: PosedBoxes, row: int) -> dict[str, Any]:
    failure = {} if boxes.has_front else {"box3d_failure": boxes.failures[row]}
    if not boxes.valid[row]:
        return {"box3d": None, **failure}
    data = {"center": boxes.centers[row].tolist(), "rotation": boxes.rotations[row].tolist()}
    if boxes.has_front:
        rotation_y, alpha = boxes.headings()
        data["dimensions"] = boxes.extents[row, ::-1].tolist()
        data |= {"rotation_y": float(rotation_y[row]), "alpha": float(alpha[row])}
    else:
        data["extents"] = boxes.extents[row].tolist()
    return {"box3d": data, **failure}


def clip_results(sample: Mapping[str, Any], result: ClipResult, names: list[str]) -> dict[str, Any]:
    """Everything predicted for a clip, in types of JSON.

    Args:
        sample: of :class:`~roca_nocs.data.bev_mapper.BevClipMapper`.
        result: what was found.
        names: of the classes.
    """
    steps = range(len(result.instances))
    return {
        "file": sample["file_name"],
        "clip": sample["clip_id"],
        "grid": asdict(sample["grid"]),
        "observed_frames": len(sample["clip"]),
        "seconds": [step * float(sample["frame_dt"]) for step in steps],
        "objects": [_instance(result, row, names) for row in range(len(result))],
    }


def _instance(result: ClipResult, row: int, names: list[str]) -> dict[str, Any]:
    number, label = int(result.ids[row]), int(result.classes[row])
    masks = result.instances == number
    places = [
        place.tolist() if np.isfinite(place).all() else None
        for place in result.trajectories[:, row]
    ]
    return {
        "id": number,
        "class": names[label],
        "class_id": label,
        "score": float(result.scores[row]),
        "score_per_step": result.step_scores[:, row].tolist(),
        "box_xyxy_per_step": result.boxes[:, row].tolist(),
        "trajectory": places,
        "mask_per_step": [_encode(mask) if mask.any() else None for mask in masks],
    }


def _encode(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run-length code, with its bytes as text."""
    code = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}


def _cad(key: CadKey | None) -> dict[str, str] | None:
    return None if key is None else {"synset": key[0], "model_id": key[1]}


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write a JSON file.

    Raises:
        ValueError: a number is not finite.
    """
    path.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
