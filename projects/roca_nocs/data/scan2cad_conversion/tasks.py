"""Units of work that are done once: CAD models and scenes, each with a record of its files."""

from __future__ import annotations

import json
import os
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..cad_catalog import CadKey
from ..coco_json import DatasetError
from ..synthetic.manifest import FileWriter, content_hash, damaged_files
from .annotations import parse_scene
from .cads import convert_cad
from .frames import list_frames
from .scenes import SceneSettings, convert_scene

VERSION = 1
"""Changes when the same raw data are meant to give other files."""


@dataclass(frozen=True)
class CadTask:
    """Convert a CAD model."""

    shapenet: Path
    key: CadKey
    category_id: int
    symmetry: str

    @property
    def name(self) -> str:
        """Unique among all tasks; a relative path."""
        return f"cads/{'/'.join(self.key)}"

    def inputs(self) -> dict[str, Any]:
        """What the result depends on."""
        path = self.shapenet / "/".join(self.key) / "models" / "model_normalized.obj"
        size = path.stat().st_size if path.is_file() else None
        return {"class": self.category_id, "symmetry": self.symmetry, "bytes": size}

    def convert(self, writer: FileWriter) -> dict[str, Any]:
        """Write the files."""
        convert_cad(writer, self.shapenet, self.key, self.category_id, self.symmetry)
        return {}


@dataclass(frozen=True)
class SceneTask:
    """Convert a scene; ``cads`` are the inputs of its models, by name of their tasks."""

    folder: Path
    annotation: dict[str, Any]
    settings: SceneSettings
    frames: tuple[str, ...] | None
    cads: dict[str, Any]

    @property
    def name(self) -> str:
        """Unique among all tasks; a relative path."""
        return f"scenes/{self.annotation['id_scan']}"

    def inputs(self) -> dict[str, Any]:
        """What the result depends on."""
        frames = list_frames(self.folder, self.frames)
        sizes = {frame.name: frame.color_file.stat().st_size for frame in frames}
        poses = {f.name: f.pose_file.read_text() for f in frames if f.pose_file.is_file()}
        camera = self.folder / "intrinsics_color.txt"
        return {
            "annotation": self.annotation,
            "settings": asdict(self.settings),
            "cads": self.cads,
            "sizes": sizes,
            "poses": poses,
            "camera": camera.read_text() if camera.is_file() else None,
        }

    def convert(self, writer: FileWriter) -> dict[str, Any]:
        """Write the files."""
        annotation = parse_scene(self.annotation)
        return convert_scene(writer, self.folder, annotation, self.settings, self.frames)


@dataclass(frozen=True)
class Outcome:
    """What became of a task: ``content`` or ``error``; ``kept`` tells that it was done before."""

    name: str
    content: dict[str, Any] | None = None
    error: str | None = None
    kept: bool = False


def run_task(root: Path, task: CadTask | SceneTask) -> Outcome:
    """Do a task unless its files are there and intact; errors become part of the outcome.

    The record of a task is written last and in one step, so an interrupted task is done again.

    Args:
        root: folder of the converted dataset.
        task: what to do.
    """
    path = root / "Conversion" / "records" / f"{task.name}.json"
    try:
        inputs = {"version": VERSION, **task.inputs()}
        fingerprint = content_hash(json.dumps(inputs, sort_keys=True).encode())
        earlier = _read_record(path)
        if earlier.get("fingerprint") == fingerprint:
            younger_than = path.stat().st_mtime_ns
            if next(damaged_files(root, earlier["files"], younger_than), None) is None:
                return Outcome(task.name, earlier["content"], kept=True)
        path.unlink(missing_ok=True)
        writer = FileWriter(root)
        content = task.convert(writer)
        for name in earlier.get("files", {}).keys() - writer.files.keys():
            (root / name).unlink(missing_ok=True)
        record = {"fingerprint": fingerprint, "files": writer.files, "content": content}
        replace_text(path, json.dumps(record, allow_nan=False))
    except (DatasetError, OSError, ValueError) as error:
        return Outcome(task.name, error=f"{type(error).__name__}: {error}")
    except Exception:
        return Outcome(task.name, error=traceback.format_exc())
    return Outcome(task.name, content)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def replace_text(path: Path, text: str) -> None:
    """Write a file in one step, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
