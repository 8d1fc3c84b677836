"""Anchor boxes on a regular grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes
from detectron2.utils.registry import Registry
from torch import nn

ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")
ANCHOR_GENERATOR_REGISTRY.__doc__ = """
Anchor generators by name, called with the config and the list of the ``ShapeSpec`` of the features.
"""


class BufferList(nn.Module):
    """A list of tensors that follow their module but are not saved with it."""

    def __init__(self, buffers: Iterable[torch.Tensor]) -> None:
        super().__init__()
        for index, buffer in enumerate(buffers):
            self.register_buffer(str(index), buffer, persistent=False)

    def __len__(self) -> int:
        return len(self._buffers)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self._buffers.values())


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """The same set of boxes around every cell of each feature map."""

    box_dim = 4
    """Numbers per box."""

    @configurable
    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]] | Sequence[float],
        aspect_ratios: Sequence[Sequence[float]] | Sequence[float],
        strides: Sequence[int],
        offset: float = 0.5,
    ) -> None:
        """Compute the boxes of one cell.

        Args:
            sizes: square roots of the anchor areas in pixels, one list per feature map, or one
                list for all of them.
            aspect_ratios: heights divided by widths, organised like ``sizes``.
            strides: pixels per cell of each feature map.
            offset: position of the centre in its cell, in ``[0, 1)``; 0 is the top left corner
                (used by the common configs), 0.5 the middle.
        """
        super().__init__()
        assert 0.0 <= offset < 1.0, f"The anchor offset must be in [0, 1), got {offset}."
        self.strides = tuple(strides)
        self.num_features = len(self.strides)
        self.offset = offset
        self.cell_anchors = BufferList(
            self.generate_cell_anchors(level_sizes, level_ratios)
            for level_sizes, level_ratios in zip(
                _per_level(sizes, self.num_features, "sizes"),
                _per_level(aspect_ratios, self.num_features, "aspect_ratios"),
                strict=True,
            )
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Sequence[ShapeSpec]) -> dict[str, Any]:
        """Arguments from ``cfg.MODEL.ANCHOR_GENERATOR``."""
        options = cfg.MODEL.ANCHOR_GENERATOR
        return {
            "sizes": options.SIZES,
            "aspect_ratios": options.ASPECT_RATIOS,
            "strides": [shape.stride for shape in input_shape],
            "offset": options.OFFSET,
        }

    @property
    def num_anchors(self) -> list[int]:
        """Number of anchors per cell of each feature map."""
        return [len(anchors) for anchors in self.cell_anchors]

    num_cell_anchors = num_anchors

    @staticmethod
    def generate_cell_anchors(
        sizes: Sequence[float] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1, 2),
    ) -> torch.Tensor:
        """Anchors around the origin.

        Args:
            sizes: square roots of the areas in pixels.
            aspect_ratios: heights divided by widths.

        Returns:
            float32 ``(len(sizes) * len(aspect_ratios), 4)`` as (x0, y0, x1, y1); the ratio
            changes fastest.
        """
        anchors = []
        for size in sizes:
            for ratio in aspect_ratios:
                width = math.sqrt(size**2 / ratio)
                height = ratio * width
                anchors.append([-width / 2, -height / 2, width / 2, height / 2])
        return torch.tensor(anchors, dtype=torch.float32)

    def forward(self, features: Sequence[torch.Tensor]) -> list[Boxes]:
        """Anchors in pixels of the input image.

        Args:
            features: one map ``(..., H_i, W_i)`` per stride; only the sizes matter.

        Returns:
            Per map ``H_i * W_i * A_i`` boxes, cell by cell in row-major order.
        """
        assert len(features) == self.num_features, (
            f"The anchor generator was made for {self.num_features} feature maps, got "
            f"{len(features)}."
        )
        return [
            Boxes(self._grid_anchors(tuple(feature.shape[-2:]), stride, cell))
            for feature, stride, cell in zip(features, self.strides, self.cell_anchors, strict=True)
        ]

    def _grid_anchors(
        self, grid_size: tuple[int, int], stride: int, cell: torch.Tensor
    ) -> torch.Tensor:
        height, width = grid_size
        y, x = (
            (torch.arange(count, dtype=torch.float32, device=cell.device) + self.offset) * stride
            for count in (height, width)
        )
        y, x = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack([x, y, x, y], dim=-1)
        return (shifts[:, :, None] + cell).reshape(-1, 4)


def _per_level(
    values: Sequence[Sequence[float]] | Sequence[float], num_levels: int, name: str
) -> list[tuple[float, ...]]:
    """One tuple per feature map out of a list of lists, or out of one list for all maps."""
    assert isinstance(values, Sequence), (
        f"{name} of the anchor generator must be a list, got {type(values).__name__}."
    )
    assert len(values) > 0, f"{name} of the anchor generator must not be empty."
    nested = isinstance(values[0], Sequence)
    levels = [tuple(level) for level in values] if nested else [tuple(values)]
    if len(levels) == 1:
        levels = levels * num_levels
    assert len(levels) == num_levels, (
        f"{name} of the anchor generator has {len(levels)} lists for {num_levels} feature maps."
    )
    assert all(levels), f"{name} of the anchor generator must not contain an empty list."
    return levels


def build_anchor_generator(cfg: CfgNode, input_shape: Sequence[ShapeSpec]) -> nn.Module:
    """Build ``cfg.MODEL.ANCHOR_GENERATOR.NAME``."""
    return ANCHOR_GENERATOR_REGISTRY.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, input_shape)
