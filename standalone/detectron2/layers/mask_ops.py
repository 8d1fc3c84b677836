"""Pasting of the masks predicted inside boxes into full images."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

BYTES_PER_PIXEL = 12
"""A sampling grid of two floats and one sampled float."""

MEMORY_BUDGET = 1 << 30
"""Bytes that one call of the sampler may take on an accelerator."""


def paste_masks_in_image(
    masks: torch.Tensor,
    boxes: torch.Tensor,
    image_shape: tuple[int, int],
    threshold: float = 0.5,
) -> torch.Tensor:
    """Resample each mask from its box onto the pixel grid of the image.

    The cells of a mask tile its box; the value at the centre of a pixel is interpolated
    bilinearly between the centres of the cells, with zeros around the mask.

    Args:
        masks: ``(N, M, M)`` probabilities.
        boxes: ``(N, 4)`` tensor, or ``Boxes``, in pixels of the image.
        image_shape: ``(height, width)``.
        threshold: values at or above it are inside; a negative one asks for soft masks.

    Returns:
        ``(N, height, width)``: bool, or uint8 holding ``255 * value`` for a negative threshold.
        A box without area gives an empty mask.
    """
    assert masks.dim() == 3 and masks.shape[-1] == masks.shape[-2], (
        f"Only square masks (N, M, M) can be pasted, got shape {tuple(masks.shape)}."
    )
    boxes = boxes if isinstance(boxes, torch.Tensor) else boxes.tensor
    assert len(boxes) == len(masks), f"Got {len(masks)} masks but {len(boxes)} boxes."
    height, width = image_shape
    result = torch.zeros(
        (len(masks), height, width),
        dtype=torch.bool if threshold >= 0 else torch.uint8,
        device=masks.device,
    )
    if len(masks) == 0:
        return result
    masks, boxes = masks.float(), boxes.to(device=masks.device, dtype=torch.float32)
    if masks.device.type == "cpu":
        # Sampling little is what counts here: each mask alone, only where it can be non-zero.
        windows = _support(boxes, masks.shape[-1], image_shape).tolist()
        chunks = [(slice(i, i + 1), window) for i, window in enumerate(windows)]
    else:
        # Few launches and no synchronisation count here: many masks at once on the whole image.
        size = max(1, MEMORY_BUDGET // (BYTES_PER_PIXEL * max(1, height * width)))
        count = math.ceil(len(masks) / size)
        chunks = [(slice(k * size, (k + 1) * size), [0, 0, width, height]) for k in range(count)]
    for chunk, (x0, y0, x1, y1) in chunks:
        if x1 <= x0 or y1 <= y0:
            continue
        values = _sample(masks[chunk], boxes[chunk], (x0, y0, x1, y1))
        result[chunk, y0:y1, x0:x1] = values >= threshold if threshold >= 0 else values * 255
    return result


def _support(boxes: torch.Tensor, mask_size: int, image_shape: tuple[int, int]) -> torch.Tensor:
    """Pixel windows ``(N, 4)`` (x0, y0, x1, y1), ends exclusive, outside of which a mask is 0.

    Interpolation with the surrounding zeros reaches half a mask cell beyond the box.
    """
    height, width = image_shape
    margin = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0) / (2 * mask_size)
    limit = boxes.new_tensor([width, height])
    low = torch.minimum((boxes[:, :2] - margin).floor().clamp(min=0), limit)
    high = torch.minimum((boxes[:, 2:] + margin).ceil().clamp(min=0), limit)
    return torch.cat([low, high], dim=1).long()


def _sample(
    masks: torch.Tensor, boxes: torch.Tensor, window: tuple[int, int, int, int]
) -> torch.Tensor:
    """Mask values ``(n, y1 - y0, x1 - x0)`` at the pixel centres of a window."""
    x0, y0, x1, y1 = window
    columns = _normalised_centres(x0, x1, boxes[:, 0], boxes[:, 2])
    rows = _normalised_centres(y0, y1, boxes[:, 1], boxes[:, 3])
    shape = (len(masks), rows.shape[1], columns.shape[1])
    grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=-1)
    return F.grid_sample(masks[:, None], grid, mode="bilinear", align_corners=False)[:, 0]


def _normalised_centres(
    start: int, end: int, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """Pixel centres ``(n, end - start)``, with -1 and 1 at the two sides of each box."""
    centres = torch.arange(start, end, device=low.device, dtype=torch.float32) + 0.5
    size = (high - low)[:, None]
    # 2 is outside of every mask: where a box has no extent there is nothing to sample.
    return torch.where(size > 0, 2 * (centres - low[:, None]) / size - 1, 2.0)
