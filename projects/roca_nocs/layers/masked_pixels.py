"""Pixels of masks in one list, so that what follows costs nothing at the other pixels.

N instances, M pixels of all their masks together, K channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MaskedPixels:
    """Where the pixels of N masks are, instance by instance.

    Attributes:
        rows: (M,) int64, instance of each pixel, ascending.
        indices: (M,) int64, positions of the pixels among those of all instances.
        size: N, H, W.
    """

    rows: torch.Tensor
    indices: torch.Tensor
    size: tuple[int, int, int]

    @classmethod
    def of(cls, masks: torch.Tensor) -> MaskedPixels:
        """The pixels that are not zero.

        Args:
            masks: (N, 1, H, W).
        """
        count, _, height, width = masks.shape
        indices = masks.flatten().nonzero()[:, 0]
        return cls(indices // (height * width), indices, (count, height, width))

    def gather(self, maps: torch.Tensor) -> torch.Tensor:
        """Values (M, K) of maps (N, K, H, W)."""
        return maps.movedim(1, -1).flatten(0, 2).index_select(0, self.indices)

    def scatter(self, values: torch.Tensor) -> torch.Tensor:
        """Maps (N, K, H, W) with values (M, K), zero elsewhere."""
        count, height, width = self.size
        maps = values.new_zeros(count * height * width, values.shape[1])
        maps = maps.index_copy(0, self.indices, values)
        return maps.unflatten(0, (count, height, width)).movedim(-1, 1)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """(M, K): at each pixel that of its instance; values (N, K)."""
        return values.index_select(0, self.rows)

    def maximum(self, values: torch.Tensor) -> torch.Tensor:
        """(N, K), the maximum of each instance, at least 0; values (M, K)."""
        rows = self.rows[:, None].expand_as(values)
        return values.new_zeros(self.size[0], values.shape[1]).scatter_reduce(
            0, rows, values, "amax"
        )
