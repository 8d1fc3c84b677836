"""Reader of clips of bird's-eye-view rasters; :mod:`roca_nocs.data.bev_clip` has the layout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..bev_clip import clip_folder, read_meta
from ..coco_json import DatasetError, check_files

CLASSES = ("vehicle",)
"""All labelled agents are one class, as in the published evaluation."""


def load_bev_clips(root: str | os.PathLike[str], split: str) -> list[dict[str, Any]]:
    """Read the list of a split.

    Args:
        root: folder of the dataset.
        split: name of a list in ``splits``.

    Returns:
        One dictionary per clip: ``layout`` "bev", ``root``, ``clip_id``, ``image_id`` (number in
        the split, from 0), ``file_name`` (of the raster), ``height``, ``width`` (cells) and
        ``meta``, a :class:`~roca_nocs.data.bev_clip.BevMeta`. The arrays are read by the mapper.

    Raises:
        DatasetError: a missing or damaged file, or a clip that is listed twice.
    """
    root = Path(root)
    meta = read_meta(root)
    listing = root / "splits" / f"{split}.txt"
    try:
        names = listing.read_text(encoding="utf-8").split()
    except OSError as error:
        raise DatasetError(f"{listing}: cannot be read: {error}") from error
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"{listing}: the clip {twice} is listed twice.")
    for file in ("clip.json", "input.npz", "labels.npz"):
        check_files((root / clip_folder(name) / file for name in names), file, str(listing))
    return [
        {
            "layout": "bev",
            "root": str(root),
            "clip_id": name,
            "image_id": number,
            "file_name": str(root / clip_folder(name) / "input.npz"),
            "height": meta.grid.height,
            "width": meta.grid.width,
            "meta": meta,
        }
        for number, name in enumerate(names)
    ]
