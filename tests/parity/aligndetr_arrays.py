"""Reading the golden arrays of AlignDETR."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

Arrays = dict[str, torch.Tensor]


def load(path: Path) -> Arrays:
    """The numeric arrays of a file as tensors."""
    with np.load(path) as arrays:
        numeric = (name for name in arrays.files if arrays[name].dtype.kind in "biuf")
        return {name: torch.from_numpy(arrays[name]) for name in numeric}


def cases(arrays: Arrays) -> Iterator[tuple[str, Arrays]]:
    """(prefix, arrays without their prefix) of each numbered case."""
    for number in range(int(arrays["num_cases"])):
        prefix = f"c{number}_"
        yield prefix, {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def targets(case: Arrays) -> list[Arrays]:
    """Labels and boxes of each image from the concatenated arrays."""
    counts = case["num_targets"].tolist()
    labels, boxes = case["tgt_labels"].split(counts), case["tgt_boxes"].split(counts)
    return [{"labels": a, "boxes": b} for a, b in zip(labels, boxes, strict=True)]
