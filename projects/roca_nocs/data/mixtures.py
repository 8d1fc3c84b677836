"""Training on several datasets in given shares, or on a few records of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.data import get_detection_dataset_dicts


def mixed_records(names: Sequence[str], shares: Sequence[float]) -> list[dict[str, Any]]:
    """Records of several registered datasets, for loaders with :func:`repeat_factors`.

    Args:
        names: of the datasets.
        shares: parts of the training that their images take, in any unit.

    Returns:
        The records with ``repeat_factor``, how often each occurs in one pass over the data; a pass
        has as many images as all datasets together.

    Raises:
        ValueError: not one positive share for each name.
    """
    if len(names) != len(shares) or not all(share > 0 for share in shares):
        raise ValueError(f"{len(names)} datasets need as many positive shares, got {list(shares)}")
    parts = [get_detection_dataset_dicts(name) for name in names]
    scale = sum(map(len, parts)) / sum(shares)
    return [
        {**record, "repeat_factor": scale * share / len(part)}
        for part, share in zip(parts, shares, strict=True)
        for record in part
    ]


def repeat_factors(records: Sequence[dict[str, Any]]) -> list[float]:
    """Of each record of :func:`mixed_records`; a config's ``repeat_factors``."""
    return [record["repeat_factor"] for record in records]


def first_records(records: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first records of a data set, to learn them by heart.

    Raises:
        ValueError: there are fewer than ``count``.
    """
    if len(records) < count:
        raise ValueError(f"{count} records are asked for, the data set has {len(records)}")
    return list(records[:count])
