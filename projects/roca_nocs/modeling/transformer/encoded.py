"""What passes between the parts of a detector: the memory of images, and what queries say of it.

B images, L levels, Q queries, C channels, K classes, N decoder layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from roca_nocs.modeling.transformer.feature_levels import FeatureLevels, flatten_levels

__all__ = ["Decoded", "Encoded"]


@dataclass(frozen=True)
class Encoded:
    """What the encoder knows of B images; ``dataclasses.replace`` makes other times of it.

    Attributes:
        images: (B, channels, H, W), what was encoded.
        levels: (B, C, h, w) of each of the L levels, from fine to coarse: the encoder's memory.
        padding: (B, h, w) bool of each level, True at padding.
        whole: boxes are relative to the whole map, padding only hides cells (of a raster, where it
            may be anywhere); otherwise boxes are relative to the part without padding.
        positions: (B, C, h, w) of each level: position code plus level embedding.
        strides: of each level, in pixels of the images.
        projected: (B, C, h, w), what the encoder was given at the level that masks start from.
        skips: maps for the mask head, (B, channels, h, w) from coarse to fine; None for one that
            is not known (at another time), whose part is then zero. Empty without a mask head.
        skip_sizes: (height, width) of each skip; masks have the last.
        finest: (B, channels, h, w), the finest map of the backbone, for the semantic head; None
            where it is not known or not used.
    """

    images: torch.Tensor
    levels: tuple[torch.Tensor, ...]
    padding: tuple[torch.Tensor, ...]
    whole: bool
    positions: tuple[torch.Tensor, ...]
    strides: tuple[int, ...]
    projected: torch.Tensor
    skips: tuple[torch.Tensor | None, ...]
    skip_sizes: tuple[tuple[int, int], ...]
    finest: torch.Tensor | None

    def flatten(self) -> FeatureLevels:
        """The memory as one sequence of tokens."""
        return flatten_levels(self.levels, self.padding, self.positions, whole=self.whole)


@dataclass(frozen=True)
class Decoded:
    """What N decoder layers say of Q queries.

    Attributes:
        hs: (N, B, Q, C) states.
        logits: (N, B, Q, K) float32, of the sigmoid of each class.
        boxes: (N, B, Q, 4) float32, cxcywh in [0, 1] of the part of the image without padding, or
            of the whole (:attr:`Encoded.whole`).
    """

    hs: torch.Tensor
    logits: torch.Tensor
    boxes: torch.Tensor
