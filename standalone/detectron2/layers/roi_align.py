"""Pooling of regions of interest by bilinear sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.ops import roi_align

__all__ = ["ROIAlign", "roi_align"]


class ROIAlign(nn.Module):
    """Average bilinear samples inside each cell of a regular grid over each box."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
    ) -> None:
        """Configure the operation.

        Args:
            output_size: side, or (height, width), of the output in cells.
            spatial_scale: feature cells per box unit, i.e. 1 / stride.
            sampling_ratio: samples per cell and axis; 0 chooses ``ceil(cell size)``.
            aligned: whether the value of feature ``(i, j)`` belongs to the point
                ``(i + 0.5, j + 0.5)``, so that a box of whole cells is not shifted. ``False`` is
                the first published version, half a cell off.
        """
        super().__init__()
        if isinstance(output_size, int):
            output_size = (output_size, output_size)
        self.output_size = tuple(output_size)
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Pool.

        Args:
            input: ``(N, C, H, W)`` features.
            rois: ``(M, 5)``, each (index into the batch, x0, y0, x1, y1); converted to the dtype
                of the features.

        Returns:
            ``(M, C, height, width)``.
        """
        assert rois.dim() == 2 and rois.size(1) == 5, (
            f"ROIAlign needs boxes of shape (M, 5), got {tuple(rois.shape)}."
        )
        return roi_align(
            input,
            rois.to(dtype=input.dtype),
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
