"""What gives the masks of queries of a batch of images, with all that they share computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from roca_nocs.modeling.transformer.encoded import Encoded
from roca_nocs.modeling.transformer.mask_heads import (
    AttentionMaps,
    ConvMaskHead,
    DotMaskHead,
    SharedParts,
    masks_in_chunks,
)

MaskReader = Callable[..., torch.Tensor]
"""Mask logits (n, h, w) of (n, C) states, (n,) int64 images and, for windows, (n, 4) boxes."""


def dot_reader(
    head: DotMaskHead, shared: SharedParts, encoded: Encoded, seg_level: int
) -> MaskReader:
    """Of inner products.

    Args:
        head: the mask head.
        shared: what it has prepared.
        encoded: of the batch.
        seg_level: that the masks start from.
    """
    if head.window is None:
        return lambda rows, images, _boxes=None: head(shared, rows, images)
    # Boxes are shares of what is not padding, the window those of the whole map.
    ratios = encoded.flatten().valid_ratios[:, seg_level].repeat(1, 2)
    return lambda rows, images, boxes: head(shared, rows, images, boxes * ratios[images])


def conv_reader(
    head: ConvMaskHead,
    shared: SharedParts,
    encoded: Encoded,
    seg_level: int,
    attention: AttentionMaps,
    chunk: int,
) -> MaskReader:
    """Of attention maps and convolutions, ``chunk`` rows at a time.

    Args:
        head: the mask head.
        shared: what it has prepared.
        encoded: of the batch.
        seg_level: that the masks start from.
        attention: where queries look.
        chunk: rows at a time.
    """
    keys = attention.prepare(encoded.levels[seg_level])
    attend = partial(attention, keys, padding=encoded.padding[seg_level])
    read = partial(masks_in_chunks, head, shared, attend=attend, chunk=chunk)
    return lambda rows, images, _boxes=None: read(rows, images)
