"""Makes an embedded dataset: plans, runs in parallel, resumes, repairs.

The work is a list of tasks, each of which writes its own files: a CAD model, a room, a folder of
ten tabletop images, ten street images, or ten clips of traffic. A journal gets one line per
finished task, with the sizes and hashes of its files. A later run keeps every task whose files are
still as the journal says, so an interrupted run is resumed and a damaged one repaired by the same
command. What a task writes depends on the arguments only, never on other tasks or on the number of
workers.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..coco_json import DatasetError
from ..process_pool import locked, worker_pool
from . import write_rooms, write_street, write_tabletop, write_traffic
from .manifest import (
    GENERATOR_VERSION,
    MANIFEST_NAME,
    FileTable,
    FileWriter,
    Manifest,
    damaged_files,
    source_hash,
)
from .models import CATEGORIES, TRAIN_VARIANTS, UNSEEN_VARIANTS, build_model
from .presets import IMAGES_PER_TASK, DatasetArguments

logger = logging.getLogger(__name__)

JOURNAL_NAME = "generation.jsonl"

_BYTES_PER_PIXEL = {"rooms": 3.5, "tabletop": 4.5, "street": 2.3, "traffic": 4.5}
_BYTES_OF_MODELS = 30e6


@dataclass(frozen=True)
class Task:
    """A piece of work: a CAD model (``group`` "models") or the images of one scene or folder."""

    group: str
    category: str
    index: int
    num_images: int

    @property
    def key(self) -> str:
        """Name in the journal."""
        parts = (self.group, self.category) if self.category else (self.group,)
        return "/".join((*parts, str(self.index)))


def plan_tasks(arguments: DatasetArguments) -> list[Task]:
    """All tasks of a dataset, in the order of its files."""
    variants = (*TRAIN_VARIANTS, *UNSEEN_VARIANTS)
    # KITTI's layout and clips have no models.
    has_models = arguments.kind in ("rooms", "tabletop")
    categories = CATEGORIES[arguments.kind] if has_models else ()
    tasks = [Task("models", category, v, 0) for category in categories for v in variants]
    per_task = IMAGES_PER_TASK[arguments.kind]
    for split, images in arguments.images_of_split().items():
        for index in range(math.ceil(images / per_task)):
            tasks.append(Task(split, "", index, min(per_task, images - index * per_task)))
    return tasks


def run_task(root: str, arguments: DatasetArguments, task: Task) -> dict[str, Any]:
    """Do one task; returns its line of the journal."""
    writer = FileWriter(root)
    content: dict[str, Any] = {}
    try:
        if task.group == "models":
            model = build_model(task.category, task.index)
            if arguments.kind == "rooms":
                write_rooms.write_room_model(writer, model)
            else:
                train = task.index in TRAIN_VARIANTS
                write_tabletop.write_camera_model(writer, model, train)
        else:
            write = {
                "rooms": write_rooms.write_room,
                "tabletop": write_tabletop.write_folder,
                "street": write_street.write_images,
                "traffic": write_traffic.write_clips,
            }[arguments.kind]
            content = write(writer, arguments, task.group, task.index, task.num_images)
    except Exception as error:
        error.add_note(f"while making {task.key} of {arguments}")
        raise
    return {
        "key": task.key,
        "num_images": task.num_images,
        "files": writer.files,
        "content": content,
    }


def generate(
    root: str | os.PathLike[str],
    arguments: DatasetArguments,
    *,
    workers: int = 1,
    progress: bool = True,
) -> Manifest:
    """Make a dataset, resume it, or repair what is damaged.

    Args:
        root: its folder.
        arguments: what to make. Numbers of images may differ from those of an earlier run in the
            same folder: scenes that both have are kept.
        workers: processes; 1 works in this one.
        progress: show a progress bar.

    Returns:
        The manifest that was written.

    Raises:
        DatasetError: the folder holds something else, or another process works on it.
        OSError: the disk has too little space.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one is needed.")
    root = Path(root)
    tasks = plan_tasks(arguments)
    _check_folder(root)
    root.mkdir(parents=True, exist_ok=True)
    with locked(root, "generating"):
        earlier = _read_journal(root, arguments)
        known_files = {name for record in earlier.values() for name in record["files"]}
        known_files |= _files_of_manifest(root)
        done = _intact(root, tasks, earlier)
        todo = [task for task in tasks if task.key not in done]
        _check_disk_space(root, arguments, todo)
        (root / MANIFEST_NAME).unlink(missing_ok=True)
        if done and todo:
            logger.info("%s: %d of %d tasks are done.", root, len(done), len(tasks))
        _start_journal(root, arguments, list(done.values()))
        with (root / JOURNAL_NAME).open("a", encoding="utf-8") as journal:
            for record in _run_all(root, arguments, todo, workers, progress):
                done[record["key"]] = record
                journal.write(_line(record))
                journal.flush()
        ordered = [done[task.key] for task in tasks]
        files = _finish(root, arguments, tasks, ordered)
        for name in known_files - files.keys():
            (root / name).unlink(missing_ok=True)
        _start_journal(root, arguments, ordered)
        manifest = Manifest(arguments, files, GENERATOR_VERSION, source_hash(arguments.kind))
        manifest.save(root)
    return manifest


def _check_folder(root: Path) -> None:
    """Refuse to write into a folder that something else has filled."""
    ours = (root / JOURNAL_NAME).exists() or (root / MANIFEST_NAME).exists()
    if root.exists() and not ours and any(root.iterdir()):
        raise DatasetError(
            f"{root} is not empty and was not made by this generator; choose another --output."
        )


def _header(arguments: DatasetArguments) -> dict[str, Any]:
    """What finished tasks depend on."""
    return {
        "kind": arguments.kind,
        "width": arguments.width,
        "height": arguments.height,
        "seed": arguments.seed,
        "source": source_hash(arguments.kind),
    }


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"


def _start_journal(
    root: Path, arguments: DatasetArguments, records: Sequence[dict[str, Any]]
) -> None:
    """Write the journal afresh, in one step."""
    lines = [_line(_header(arguments)), *map(_line, records)]
    temporary = root / f"{JOURNAL_NAME}.part"
    temporary.write_text("".join(lines), encoding="utf-8")
    os.replace(temporary, root / JOURNAL_NAME)


def _read_journal(root: Path, arguments: DatasetArguments) -> dict[str, dict[str, Any]]:
    """Finished tasks by key; none where the generator's source has changed since.

    Raises:
        DatasetError: the folder holds a dataset made from other arguments.
    """
    path = root / JOURNAL_NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    records: list[dict[str, Any]] = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break  # the line that an interruption cut off
    if not records:
        return {}
    header, expected = records[0], _header(arguments)
    different = [
        f"{name} {header.get(name)!r} instead of {value!r}"
        for name, value in expected.items()
        if name != "source" and header.get(name) != value
    ]
    if different:
        raise DatasetError(
            f"{root} holds a dataset made with {', '.join(different)}. Choose another --output or "
            "delete the folder."
        )
    if header["source"] != expected["source"]:
        logger.warning("%s: the generator has changed since; everything is made again.", root)
        for record in records[1:]:
            record["num_images"] = None
    return {record["key"]: record for record in records[1:]}


def _files_of_manifest(root: Path) -> set[str]:
    """Files of an earlier, finished run, as far as its manifest can be read."""
    try:
        names = json.loads((root / MANIFEST_NAME).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return set()
    return set(names)


def _intact(
    root: Path, tasks: Sequence[Task], earlier: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Records of the planned tasks that are finished and whose files are as they were written."""
    intact = {}
    for task in tasks:
        record = earlier.get(task.key)
        if record is None or record["num_images"] != task.num_images:
            continue
        damaged = next(iter(damaged_files(root, record["files"])), None)
        if damaged is None:
            intact[task.key] = record
        else:
            logger.warning("%s %s: %s is made again.", root / damaged[0], damaged[1], task.key)
    return intact


def estimate_bytes(arguments: DatasetArguments, num_images: int) -> int:
    """Disk space of so many images and the CAD models, with a margin of about a quarter."""
    pixels = num_images * arguments.width * arguments.height
    return int(pixels * _BYTES_PER_PIXEL[arguments.kind] + _BYTES_OF_MODELS)


def _check_disk_space(root: Path, arguments: DatasetArguments, todo: Sequence[Task]) -> None:
    needed = estimate_bytes(arguments, sum(task.num_images for task in todo)) if todo else 0
    free = shutil.disk_usage(root).free
    if needed > free:
        raise OSError(
            f"{root} needs about {needed / 1e6:.0f} MB, its disk has {free / 1e6:.0f} MB left. "
            "Choose another --output, fewer images or a smaller --size."
        )


def _run_all(
    root: Path,
    arguments: DatasetArguments,
    todo: Sequence[Task],
    workers: int,
    progress: bool,
) -> Iterator[dict[str, Any]]:
    """Records of the tasks, in their order."""
    work = partial(run_task, os.fspath(root), arguments)
    images = sum(task.num_images for task in todo)
    bar = tqdm(total=images, desc=arguments.kind, unit="image", disable=not progress or not todo)
    with bar, worker_pool(max(1, min(workers, len(todo))), root) as run:
        for task, record in zip(todo, run(work, todo), strict=True):
            bar.set_description(f"{arguments.kind} {task.group}", refresh=False)
            yield record
            bar.update(task.num_images)


def _finish(
    root: Path,
    arguments: DatasetArguments,
    tasks: Sequence[Task],
    records: Sequence[dict[str, Any]],
) -> FileTable:
    """Write the files that belong to the whole dataset; returns all files."""
    writer = FileWriter(root)
    contents: dict[str, list[dict[str, Any]]] = {split: [] for split in arguments.images_of_split()}
    for task, record in zip(tasks, records, strict=True):
        for name, (size, digest) in record["files"].items():
            writer.files[name] = (size, digest)
        if task.group != "models":
            contents[task.group].append(record["content"])
    if arguments.kind == "rooms":
        write_rooms.write_room_annotations(writer, contents)
        models = {
            split: [build_model(c, v) for c in CATEGORIES["rooms"] for v in variants]
            for split, variants in write_rooms.CATALOG_SPLITS.items()
        }
        write_rooms.write_room_catalogs(writer, models)
    elif arguments.kind == "street":
        write_street.write_street_annotations(writer, contents)
    elif arguments.kind == "traffic":
        write_traffic.write_traffic_lists(writer, arguments, contents)
    else:
        variants = (*TRAIN_VARIANTS, *UNSEEN_VARIANTS)
        mugs = [build_model(write_tabletop.HANDLE_CLASS, variant) for variant in variants]
        folders = [folder for group in contents.values() for folder in group]
        write_tabletop.write_tabletop_annotations(writer, mugs, folders)
    return writer.files
