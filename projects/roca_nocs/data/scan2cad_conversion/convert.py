"""Converts a whole dataset: plans, runs in parallel, resumes, reports.

The CAD models come first, then the scenes that show them, then the files that belong to the whole
dataset. These are written only if everything before succeeded, so that a dataset that loads is
complete.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..cad_catalog import CadCatalog, CadKey
from ..coco_json import DatasetError
from ..datasets.scan2cad import CLASSES
from ..process_pool import Map, locked, worker_pool
from .annotations import SceneAnnotation, parse_scene, read_full_annotations
from .cads import NO_CATEGORY, load_cad
from .scenes import SceneSettings
from .tasks import CadTask, Outcome, SceneTask, replace_text, run_task

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """The raw data.

    Attributes:
        scannet: folder of the scenes of ``scannet_frames_25k``.
        annotations: Scan2CAD's ``full_annotations.json``.
        shapenet: root of ShapeNetCore v2.
        scenes: split (``"train"``, ``"val"``) -> its scene ids.
        frames: split -> scene id -> the frames to take; all frames of a split that is missing.
    """

    scannet: Path
    annotations: Path
    shapenet: Path
    scenes: Mapping[str, Sequence[str]]
    frames: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)


@dataclass
class Report:
    """What was done and what was not.

    Attributes:
        errors: task (``scenes/<scene>`` or ``cads/<synset>/<model>``) -> what went wrong.
        unannotated: scenes of the lists that Scan2CAD has no annotation for; they have no images.
        lost_frames: ``<scene>/<frame>`` of the frames without a camera pose, left out.
        num_images: split -> number of its images.
        num_objects: split -> number of its annotations.
        num_models: split -> number of its CAD models.
        kept: number of tasks that were done before.
        done: number of tasks that this run did.
    """

    errors: dict[str, str] = field(default_factory=dict)
    unannotated: list[str] = field(default_factory=list)
    lost_frames: list[str] = field(default_factory=list)
    num_images: dict[str, int] = field(default_factory=dict)
    num_objects: dict[str, int] = field(default_factory=dict)
    num_models: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    done: int = 0


def convert(
    root: Path,
    sources: Sources,
    settings: SceneSettings,
    *,
    workers: int = 1,
    progress: bool = True,
) -> Report:
    """Convert a dataset, or go on with it: tasks whose files are there and intact are kept.

    Args:
        root: folder of the result.
        sources: the raw data.
        settings: of the images.
        workers: processes; the result does not depend on their number.
        progress: show progress bars.

    Returns:
        The report. If it has errors, the files in ``Dataset`` are as they were before.

    Raises:
        DatasetError: the annotations cannot be read, or the lists of scenes make no sense.
        RuntimeError: a worker process died.
    """
    raw = read_full_annotations(sources.annotations)
    report = Report()
    scenes = _annotated_scenes(sources, raw, report)
    parsed = _parse(scenes, raw, report)
    root.mkdir(parents=True, exist_ok=True)
    with locked(root), worker_pool(workers, root) as pool_map:
        cad_tasks = _cad_tasks(sources.shapenet, parsed.values())
        run = partial(_run, root, report, pool_map, progress)
        run("CAD models", list(cad_tasks.values()))
        tasks = []
        for scene_id, annotation in parsed.items():
            used = {cad_tasks[model.key].name: model.key for model in annotation.models}
            failed = sorted(used.keys() & report.errors.keys())
            if failed:
                report.errors[f"scenes/{scene_id}"] = f"not converted: it needs {failed[0]}" + (
                    f" and {len(failed) - 1} more that failed" if len(failed) > 1 else ""
                )
                continue
            frames = sources.frames.get(scenes[scene_id])
            tasks.append(
                SceneTask(
                    folder=sources.scannet / scene_id,
                    annotation=raw[scene_id],
                    settings=settings,
                    frames=None if frames is None else frames.get(scene_id, ()),
                    cads={name: cad_tasks[key].inputs() for name, key in sorted(used.items())},
                )
            )
        contents = run("scenes", tasks)
        if not report.errors:
            _write_dataset(root, scenes, parsed, contents, report)
    return report


def _annotated_scenes(sources: Sources, raw: Mapping[str, Any], report: Report) -> dict[str, str]:
    """Scene id -> split, of the scenes with an annotation."""
    scenes: dict[str, str] = {}
    for split, names in sources.scenes.items():
        for name in names:
            if name in scenes:
                raise DatasetError(
                    f"The scene {name} is listed twice: for {scenes[name]} and for {split}."
                )
            scenes[name] = split
    report.unannotated = [name for name in scenes if name not in raw]
    return {name: split for name, split in scenes.items() if name in raw}


def _parse(
    scenes: Iterable[str], raw: Mapping[str, dict[str, Any]], report: Report
) -> dict[str, SceneAnnotation]:
    parsed = {}
    for name in scenes:
        try:
            parsed[name] = parse_scene(raw[name])
        except DatasetError as error:
            report.errors[f"scenes/{name}"] = f"DatasetError: {error}"
    return parsed


def _cad_tasks(shapenet: Path, scenes: Iterable[SceneAnnotation]) -> dict[CadKey, CadTask]:
    """One task per model; where annotations differ in its symmetry, the first one counts."""
    tasks: dict[CadKey, CadTask] = {}
    different = set()
    for model in (model for scene in scenes for model in scene.models):
        category_id = NO_CATEGORY if model.category_id is None else model.category_id
        task = CadTask(shapenet, model.key, category_id, model.symmetry)
        if tasks.setdefault(model.key, task) != task:
            different.add(model.key)
    if different:
        logger.warning(
            "%d CAD models are annotated with several symmetries; the first one enters the "
            "catalogue, annotations keep theirs.",
            len(different),
        )
    return tasks


def _run(
    root: Path,
    report: Report,
    pool_map: Map,
    progress: bool,
    what: str,
    tasks: Sequence[CadTask | SceneTask],
) -> dict[str, dict[str, Any]]:
    """Run tasks; returns the contents of those that succeeded, by name."""
    contents: dict[str, dict[str, Any]] = {}
    outcomes: Iterable[Outcome] = pool_map(partial(run_task, root), tasks)
    for outcome in tqdm(outcomes, what, len(tasks), disable=not progress):
        if outcome.error is not None:
            report.errors[outcome.name] = outcome.error
            continue
        contents[outcome.name] = outcome.content or {}
        report.kept += outcome.kept
        report.done += not outcome.kept
    return contents


def _write_dataset(
    root: Path,
    scenes: Mapping[str, str],
    parsed: Mapping[str, SceneAnnotation],
    contents: Mapping[str, dict[str, Any]],
    report: Report,
) -> None:
    """The files of the whole dataset: annotations, scenes, CAD catalogues, classes."""
    folder = root / "Dataset"
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    for split in dict.fromkeys(scenes.values()):
        names = [name for name in parsed if scenes[name] == split]
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for name in names:
            content = contents[f"scenes/{name}"]
            report.lost_frames += [f"{name}/{frame}" for frame in content["lost_frames"]]
            for image in content["images"]:
                # Ids count from 1: COCO's evaluation takes a match with annotation 0 for none.
                image_id = len(images) + 1
                fields = {key: value for key, value in image.items() if key != "annotations"}
                images.append({"id": image_id, **fields})
                for annotation in image["annotations"]:
                    number = len(annotations) + 1
                    annotations.append({"id": number, "image_id": image_id, **annotation})
        _write_json(
            folder / f"scan2cad_instances_{split}.json",
            {"categories": categories, "images": images, "annotations": annotations},
        )
        if split != "train":
            models = {name: contents[f"scenes/{name}"]["models"] for name in names}
            _write_json(folder / f"scan2cad_{split}_scenes.json", models)
        keys = {m.key for name in names for m in parsed[name].models if m.category_id is not None}
        entries = [load_cad(root, key) for key in keys]
        catalog = CadCatalog(sorted(entries, key=lambda entry: (entry.category_id, entry.key)))
        _save_catalog(folder / f"scan2cad_{split}_cads", catalog)
        report.num_images[split], report.num_objects[split] = len(images), len(annotations)
        report.num_models[split] = len(catalog)
    _write_json(folder / "scan2cad_alignment_classes.json", list(CLASSES))


def _write_json(path: Path, data: Any) -> None:
    replace_text(path, json.dumps(data, separators=(",", ":"), allow_nan=False) + "\n")


def _save_catalog(stem: Path, catalog: CadCatalog) -> None:
    for suffix, content in catalog.to_bytes().items():
        temporary = Path(f"{stem}{suffix}.part")
        temporary.write_bytes(content)
        os.replace(temporary, f"{stem}{suffix}")


def read_scene_list(path: str | os.PathLike[str]) -> list[str]:
    """Scene ids of a text file, one per line (ScanNet's ``scannetv2_<split>.txt``).

    Raises:
        DatasetError: the file is missing or empty.
    """
    try:
        names = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot read the list of scenes ({error}).") from error
    if not names:
        raise DatasetError(f"{path}: the list of scenes is empty.")
    return names


def read_frame_list(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Scene id -> names of its frames, from lines ``<scene> <number>``.

    Raises:
        DatasetError: the file is missing, or a line has another form; names it.
    """
    frames: dict[str, list[str]] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot read the list of images ({error}).") from error
    for number, line in enumerate(lines, start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or not parts[1].isdigit():
            raise DatasetError(f"{path}: line {number} is {line!r}; expected <scene> <number>.")
        frames.setdefault(parts[0], []).append(f"{int(parts[1]):06d}")
    return {scene: tuple(sorted(set(names))) for scene, names in frames.items()}


def summary(report: Report) -> str:
    """A report in one line per fact."""
    lines = [f"{report.done} CAD models and scenes converted, {report.kept} kept."]
    for split, images in report.num_images.items():
        objects, models = report.num_objects[split], report.num_models[split]
        lines.append(f"{split}: {images} images, {objects} objects, {models} CAD models.")
    for what, names in (
        ("scenes have no Scan2CAD annotation", report.unannotated),
        ("frames have no camera pose and are left out", report.lost_frames),
    ):
        if names:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            lines.append(f"{len(names)} {what}: {shown}.")
    counts = Counter(name.split("/")[0] for name in report.errors)
    lines += [f"{count} {kind} failed." for kind, count in sorted(counts.items())]
    return "\n".join(lines)
