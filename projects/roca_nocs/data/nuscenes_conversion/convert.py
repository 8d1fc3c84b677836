"""Writes a converted dataset; what is finished is kept when it is run again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from roca_nocs.geometry.bev import BevGrid

from ..bev_clip import META_FILE, AgentClass, BevClip, BevMeta, clip_files, clip_folder
from ..bev_raster import RASTERS
from ..bev_visibility import OBSERVED_CHANNELS
from ..coco_json import DatasetError, read_json
from ..process_pool import locked
from .clips import scene_clips
from .sources import LYFT, Source
from .tables import read_scenes

logger = logging.getLogger(__name__)

GRID = BevGrid.centred(200, 200, 0.5)
MINI_VAL = ("scene-0103", "scene-0916")
"""Scenes of the mini version of nuScenes that its authors keep for validation."""
LYFT_VAL_SHARE = 49 / 180
SPLITS = ("train", "val")


def convert(
    tables: str | os.PathLike[str],
    output: str | os.PathLike[str],
    source: Source,
    *,
    raster: str = "centre",
    splits: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Convert a version of a dataset to clips on 200 x 200 cells of half a metre.

    Args:
        tables: folder of the JSON tables.
        output: folder to write.
        source: nuScenes or Lyft.
        raster: ``"centre"``: labels by the centres of cells; ``"fiery"``: as the published ones.
        splits: JSON file with lists of scene names, ``{"train": [...], "val": [...]}``. Without
            it, the mini version of nuScenes has its authors' split, and the last 49 of 180 scenes
            of Lyft by name are for validation; the split of the full nuScenes is in no table.
        progress: show a progress bar.

    Returns:
        Numbers of clips of the splits.

    Raises:
        DatasetError: a damaged table, an unknown scene, or an output made from other arguments.
    """
    if raster not in RASTERS:
        raise ValueError(f"raster is {raster!r}; expected one of {RASTERS}")
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with locked(output, "converting"):
        scenes = dict(read_scenes(tables, source.hidden_tokens))
        split_of = scene_splits(list(scenes), source, splits)
        names = {
            name
            for frames in scenes.values()
            for frame in frames
            for name in frame.objects.categories
        }
        meta = source_meta(source, sorted(names), raster)
        _check_output(output, meta)
        listed: dict[str, list[str]] = {split: [] for split in SPLITS}
        for scene in tqdm(scenes, desc=source.name, unit="scene", disable=not progress):
            if scene not in split_of:
                continue
            clips = scene_clips(scene, scenes[scene], source, meta, raster)
            listed[split_of[scene]] += _write_scene(output, clips, meta)
        for split, clip_ids in listed.items():
            content = "".join(f"{clip_id}\n" for clip_id in clip_ids)
            _replace(output / "splits" / f"{split}.txt", content.encode())
    return {split: len(clip_ids) for split, clip_ids in listed.items()}


def source_meta(source: Source, categories: Sequence[str], raster: str) -> BevMeta:
    """Description of the converted dataset; its name tells the raster."""
    return BevMeta(
        name=source.name if raster == "centre" else f"{source.name}_{raster}",
        grid=GRID,
        frame_dt=source.frame_dt,
        classes=tuple(
            AgentClass(index, name, source.is_vehicle(name))
            for index, name in enumerate(categories)
        ),
        input_channels=OBSERVED_CHANNELS,
        time_receptive_field=source.kept_observed,
        n_future_frames=len(source.kept) - source.kept_observed,
    )


def scene_splits(
    scenes: Sequence[str], source: Source, file: str | os.PathLike[str] | None
) -> dict[str, str]:
    """Scene name -> split, for the scenes that belong to one; see :func:`convert`.

    Raises:
        DatasetError: there is no file and no split that is known, or the file names a scene twice
            or none of the scenes.
    """
    if file is not None:
        data = read_json(file)
        if not isinstance(data, Mapping) or not set(SPLITS) <= set(data):
            raise DatasetError(f"{file}: expected {{'train': [scene names], 'val': [...]}}.")
        both = set(data["train"]) & set(data["val"])
        if both:
            raise DatasetError(f"{file}: {sorted(both)[0]} is in both splits.")
        chosen = {name: split for split in SPLITS for name in data[split]}
        found = {name: split for name, split in chosen.items() if name in scenes}
        if not found:
            raise DatasetError(f"{file}: none of its scenes is in the tables, e.g. {scenes[:3]}.")
        return found
    ordered = sorted(scenes)
    if source is LYFT:
        first_val = len(ordered) - round(LYFT_VAL_SHARE * len(ordered))
        return {name: SPLITS[index >= first_val] for index, name in enumerate(ordered)}
    if set(MINI_VAL) <= set(ordered) and len(ordered) <= 10:
        return {name: SPLITS[name in MINI_VAL] for name in ordered}
    raise DatasetError(
        f"The split of these {len(ordered)} scenes is in no table. Give a JSON file "
        "{'train': [scene names], 'val': [...]} as splits; the authors' dev-kit lists the names."
    )


def _check_output(output: Path, meta: BevMeta) -> None:
    """Refuse to mix two conversions in one folder, and describe a new one."""
    path, wanted = output / META_FILE, meta.as_json()
    if path.exists() and read_json(path) != wanted:
        raise DatasetError(
            f"{output} holds another conversion (see its {META_FILE}); choose another output or "
            "delete the folder."
        )
    if not path.exists():
        _replace(path, (json.dumps(wanted) + "\n").encode())


def _write_scene(output: Path, clips: Iterable[BevClip], meta: BevMeta) -> list[str]:
    """Write the clips that are not there yet; returns all ids."""
    clip_ids = []
    for clip in clips:
        clip_ids.append(clip.clip_id)
        if (output / clip_folder(clip.clip_id) / "clip.json").exists():
            continue
        files = clip_files(clip, meta.classes)
        # clip.json, which says that the clip is complete, comes last.
        for name in sorted(files, reverse=True):
            _replace(output / name, files[name])
    return clip_ids


def _replace(path: Path, content: bytes) -> None:
    """Write a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_bytes(content)
    os.replace(temporary, path)
