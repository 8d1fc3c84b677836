"""NOCS targets of hand-made regions."""

from __future__ import annotations

import torch

from roca_nocs.modeling.roi_heads.nocs_targets import NocsTargets


def disc_targets(count: int, *, size: int = 28, num_classes: int = 3, seed: int = 0) -> NocsTargets:
    """Ramps of random slope within discs of random radius; every third region has no labels."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    radius = 0.4 + 0.5 * torch.rand(count, 1, 1, generator=generator)
    mask = x.square() + y.square() < radius.square()
    slopes = 0.4 * torch.rand(count, 3, 1, 1, generator=generator)
    labelled = torch.arange(count) % 3 != 2
    ramps = (0.5 + slopes * torch.stack([x, y, x * y])) * mask[:, None]
    return NocsTargets(
        coordinates=ramps * labelled[:, None, None, None],
        mask=mask,
        classes=torch.arange(count) % num_classes,
        labelled=labelled,
    )
