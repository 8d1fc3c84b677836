"""A description of the shape of a feature map."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """What is known about a feature map before it exists; ``None`` is unknown.

    Attributes:
        channels: number of channels.
        height: rows.
        width: columns.
        stride: input pixels per feature cell.
    """

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
