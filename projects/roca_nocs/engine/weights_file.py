"""Weights to share: a safetensors file in half precision, without any state of the training.

Any safetensors file with the names of the model can be read. Files written here also hold a hash of
their tensors, so that damage inside a tensor is found, and a description of where they come from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from .atomic_file import replace_file
from .config import ConfigError

__all__ = ["SUFFIX", "WeightsError", "read_weights", "to_half", "write_weights"]

SUFFIX = ".safetensors"

# One entry only: safetensors writes the entries of its metadata in no fixed order.
_ENTRY = "roca_nocs"
_HALF = torch.finfo(torch.float16)


class WeightsError(ConfigError):
    """Weights that cannot be written or read; the message names the file or the tensor."""


def to_half(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Tensors of floating point in half precision, the others (counters) as they are.

    Args:
        state: named tensors on any device.

    Returns:
        Copies on the CPU, and by name how many values of a tensor lie below the normal numbers of
        half precision (6.1e-5), where the rounding error is at most 3e-8, but no longer relative.

    Raises:
        WeightsError: a value is too large for half precision (above 65504), or not finite.
    """
    halves, subnormals = {}, {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu()
        if not tensor.is_floating_point():
            halves[name] = tensor.clone().contiguous()
            continue
        half = tensor.to(torch.float16, copy=True).contiguous()
        if not torch.isfinite(half).all():
            largest = tensor.abs().max().item()  # NaN if there is one
            raise WeightsError(
                f"the tensor {name} does not fit into half precision: its largest absolute value "
                f"is {largest:g}, that of half precision {_HALF.max:g}"
            )
        if count := int(((tensor != 0) & (tensor.abs() < _HALF.tiny)).sum()):
            subnormals[name] = count
        halves[name] = half
    return halves, subnormals


def write_weights(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    description: Mapping[str, Any],
) -> None:
    """Write a safetensors file; the same arguments give the same bytes.

    Args:
        path: file to write; an existing one is replaced in one step.
        tensors: contiguous tensors on the CPU that share no memory.
        description: plain data for JSON; kept in the header of the file.
    """
    document = {"description": dict(description), "content": _content_hash(tensors)}
    data = safetensors.torch.save(dict(tensors), {_ENTRY: json.dumps(document, sort_keys=True)})
    with replace_file(path) as file:
        file.write(data)


def read_weights(
    path: str | os.PathLike[str],
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a safetensors file.

    Returns:
        The tensors, in the precision of the file, and its description, empty for files that
        `write_weights` has not written.

    Raises:
        WeightsError: the file is missing, damaged, or no safetensors file.
    """
    if not Path(path).is_file():
        raise WeightsError(f"{path} does not exist")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        document = json.loads(metadata[_ENTRY]) if _ENTRY in metadata else None
        intact = document is None or document["content"] == _content_hash(tensors)
        description = dict(document["description"]) if document else {}
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} is damaged or no safetensors file ({type(error).__name__}: {error}): "
            "get or export it again"
        ) from error
    if not intact:
        raise WeightsError(
            f"{path} is damaged (its tensors differ from their checksum): get or export it again"
        )
    return tensors, description


def _content_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, whatever the order of the tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
