"""Reading the golden arrays of FutureDETR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

Arrays = dict[str, torch.Tensor]


def load(path: Path) -> Arrays:
    """The numeric arrays of a file as tensors, half precision (which is exact) as single."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if file[name].dtype.kind in "biuf"}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: x.float() if x.dtype == torch.float16 else x for name, x in tensors.items()}


def parameters(arrays: Arrays, prefix: str = "param.") -> Arrays:
    """The reference's state dict in a file."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def numbered(arrays: Arrays, name: str) -> list[torch.Tensor]:
    """``name0``, ``name1``, ... as long as there are any."""
    found: list[torch.Tensor] = []
    while f"{name}{len(found)}" in arrays:
        found.append(arrays[f"{name}{len(found)}"])
    return found
