"""Maps of images of different sizes as one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def pad_maps(
    maps: Sequence[torch.Tensor | None],
    channels: int,
    size: tuple[int, int],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Put maps in the upper left corners of zero maps of one size.

    Args:
        maps: (K, H_i, W_i) of the B images, on any device; None for zeros.
        channels: K.
        size: (H, W), at least as large as every map.
        device, dtype: of the result.

    Returns:
        (B, K, H, W).
    """
    canvas = torch.zeros((len(maps), channels, *size), dtype=dtype, device=device)
    for row, each in enumerate(maps):
        if each is not None:
            canvas[row, :, : each.shape[1], : each.shape[2]] = each.to(device, dtype)
    return canvas
