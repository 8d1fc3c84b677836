"""Pooling of boxes from the right level of a feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import Boxes
from torch import nn
from torchvision.ops import RoIPool


def assign_boxes_to_levels(
    box_lists: Sequence[Boxes],
    min_level: int,
    max_level: int,
    canonical_box_size: float,
    canonical_level: int,
) -> torch.Tensor:
    """Choose a pyramid level by box size (arXiv 1612.03144, equation 1).

    Args:
        box_lists: boxes per image, M in total.
        min_level: finest level, stride ``2^min_level``.
        max_level: coarsest level.
        canonical_box_size: side in pixels of a square that belongs to ``canonical_level``.
        canonical_level: level of that square; each doubling of the side is one level more.

    Returns:
        int64 ``(M,)`` with 0 for ``min_level``.
    """
    sides = torch.cat([boxes.area() for boxes in box_lists]).sqrt()
    levels = torch.floor(canonical_level + torch.log2(sides / canonical_box_size + 1e-8))
    return levels.clamp(min=min_level, max=max_level).to(torch.int64) - min_level


def convert_boxes_to_pooler_format(box_lists: Sequence[Boxes]) -> torch.Tensor:
    """Stack the boxes of all images as ``(M, 5)``: index of the image, x0, y0, x1, y1."""
    boxes = torch.cat([boxes.tensor for boxes in box_lists], dim=0)
    counts = torch.tensor([len(boxes) for boxes in box_lists], device=boxes.device)
    image = torch.arange(len(box_lists), dtype=boxes.dtype, device=boxes.device)
    index = image.repeat_interleave(counts, output_size=len(boxes))
    return torch.cat([index[:, None], boxes], dim=1)


class ROIPooler(nn.Module):
    """Pool every box from one level of a feature pyramid to a fixed size."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str,
        canonical_box_size: float = 224,
        canonical_level: int = 4,
    ) -> None:
        """Configure the pooling.

        Args:
            output_size: side, or (height, width), of the pooled map.
            scales: 1 / stride of each level from fine to coarse: consecutive powers of 1/2.
            sampling_ratio: see ``detectron2.layers.ROIAlign``.
            pooler_type: ``ROIAlignV2`` (aligned), ``ROIAlign`` (first version, half a cell off)
                or ``ROIPool``.
            canonical_box_size: see :func:`assign_boxes_to_levels`.
            canonical_level: see :func:`assign_boxes_to_levels`.

        Raises:
            ValueError: unknown ``pooler_type``.
        """
        super().__init__()
        if isinstance(output_size, int):
            output_size = (output_size, output_size)
        self.output_size = tuple(output_size)
        assert len(self.output_size) == 2 and all(
            isinstance(side, int) for side in self.output_size
        ), f"output_size must be one or two integers, got {self.output_size}."
        assert canonical_box_size > 0, f"canonical_box_size must be > 0, got {canonical_box_size}."

        self.min_level, self.max_level = _level_range(tuple(scales))
        self.canonical_box_size = canonical_box_size
        self.canonical_level = canonical_level
        self.level_poolers = nn.ModuleList(
            _level_pooler(pooler_type, self.output_size, scale, sampling_ratio) for scale in scales
        )

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """Pool.

        Args:
            x: one feature map ``(N, C, H_i, W_i)`` per scale.
            box_lists: boxes of each of the N images in pixels of the input, M in total.

        Returns:
            ``(M, C, height, width)`` in the order of the boxes.
        """
        assert isinstance(x, list) and isinstance(box_lists, list), (
            f"Arguments to pooler must be lists, got {type(x).__name__} and "
            f"{type(box_lists).__name__}."
        )
        assert len(x) == len(self.level_poolers), (
            f"The pooler was made for {len(self.level_poolers)} feature maps, got {len(x)}."
        )
        num_images, num_channels = x[0].shape[:2]
        assert len(box_lists) == num_images, (
            f"Got features of {num_images} images but {len(box_lists)} lists of boxes."
        )
        if num_images == 0:
            return x[0].new_zeros((0, num_channels, *self.output_size))
        rois = convert_boxes_to_pooler_format(box_lists)
        if len(self.level_poolers) == 1:
            return self.level_poolers[0](x[0], rois)

        levels = assign_boxes_to_levels(
            box_lists,
            self.min_level,
            self.max_level,
            self.canonical_box_size,
            self.canonical_level,
        )
        # Sorting by level needs one synchronisation for the counts instead of one per level.
        order = levels.argsort(stable=True)
        counts = torch.bincount(levels, minlength=len(x)).tolist()
        pooled = torch.cat(
            [
                pooler(features, level_rois)
                for pooler, features, level_rois in zip(
                    self.level_poolers, x, rois[order].split(counts), strict=True
                )
            ]
        )
        # The gradient of a copy to distinct rows is a plain gather.
        return torch.empty_like(pooled).index_copy_(0, order, pooled)


def _level_range(scales: tuple[float, ...]) -> tuple[int, int]:
    """Finest and coarsest level of scales ``2^-level``."""
    assert len(scales) > 0, "The pooler needs at least one scale."
    exponents = [-math.log2(scale) for scale in scales]
    levels = [round(exponent) for exponent in exponents]
    assert all(
        math.isclose(exponent, level, abs_tol=1e-9)
        for exponent, level in zip(exponents, levels, strict=True)
    ), f"The strides of the feature maps must be powers of 2, got scales {scales}."
    assert levels == list(range(levels[0], levels[0] + len(levels))), (
        f"The feature maps must form a pyramid, each scale half of the previous, got {scales}."
    )
    assert levels[0] >= 0, f"Feature maps cannot be finer than the image, got scales {scales}."
    return levels[0], levels[-1]


def _level_pooler(
    pooler_type: str, output_size: tuple[int, int], scale: float, sampling_ratio: int
) -> nn.Module:
    if pooler_type == "ROIPool":
        return RoIPool(output_size, spatial_scale=scale)
    aligned = {"ROIAlign": False, "ROIAlignV2": True}
    if pooler_type not in aligned:
        raise ValueError(
            f"Unknown pooler type: {pooler_type}, choose 'ROIAlignV2', 'ROIAlign' or 'ROIPool'."
        )
    return ROIAlign(output_size, scale, sampling_ratio, aligned=aligned[pooler_type])
