"""Writes clips of traffic in the layout of `roca_nocs.data.bev_clip`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..bev_clip import META_FILE, BevMeta, clip_files
from .manifest import FileWriter
from .presets import IMAGES_PER_TASK, DatasetArguments
from .traffic import traffic_clip, traffic_meta


def _meta(arguments: DatasetArguments) -> BevMeta:
    return traffic_meta(arguments.height, arguments.width)


def write_clips(
    writer: FileWriter, arguments: DatasetArguments, split: str, index: int, num_clips: int
) -> dict[str, Any]:
    """Simulate one group of clips and write their files.

    Args:
        writer: where the files go.
        arguments: of the dataset; height and width are cells.
        split: ``"train"``, ``"val"`` or ``"test"``.
        index: of the group within its split.
        num_clips: number of clips of the group.

    Returns:
        ``clips``: the ids.
    """
    meta, first = _meta(arguments), index * IMAGES_PER_TASK["traffic"]
    names = []
    for number in range(first, first + num_clips):
        clip = traffic_clip(meta, arguments.seed, split, number)
        for name, content in clip_files(clip, meta.classes).items():
            writer.write(name, content)
        names.append(clip.clip_id)
    return {"clips": names}


def write_traffic_lists(
    writer: FileWriter,
    arguments: DatasetArguments,
    contents: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Write what belongs to the whole dataset: its description and the lists of the splits.

    Args:
        writer: where the files go.
        arguments: of the dataset.
        contents: split -> what :func:`write_clips` returned for each group.
    """
    writer.write_json(META_FILE, _meta(arguments).as_json())
    for split, groups in contents.items():
        names = [f"{name}\n" for group in groups for name in group["clips"]]
        writer.write_text(f"splits/{split}.txt", "".join(names))
