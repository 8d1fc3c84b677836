"""The weights that the golden numbers of ROCA were computed with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch


def fill(
    parameters: Mapping[str, torch.Tensor], names: Sequence[str], seed: float, gain: float
) -> None:
    """Set parameters by the rule of the golden files: a hash of position and element.

    Args:
        parameters: by name.
        names: all names of the reference module, sorted; those without parameter are skipped.
        seed: the file's ``fill_seed``.
        gain: the file's ``fill_gain``, factor of everything but vectors.
    """
    assert set(parameters) <= set(names)
    for position, name in enumerate(names):
        if name not in parameters:
            continue
        parameter = parameters[name]
        element = np.arange(1, parameter.numel() + 1)
        noise = np.sin(element * 12.9898 + (position + 1) * 78.233 + seed) * 43758.5453
        value = 2 * (noise - np.floor(noise)) - 1
        if parameter.dim() >= 2:
            value *= gain * math.sqrt(6 / math.prod(parameter.shape[1:]))
        else:
            value *= 0.1
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(value).view_as(parameter))
