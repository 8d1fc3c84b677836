"""How a batch gets from a worker process to the training: as one block of shared memory.

PyTorch moves each tensor into shared memory of its own, whose file the receiving process has to ask
for; samples with masks, boxes and ids of many frames hold dozens of tensors, and that can take as
long as a training step. Packed, the worker copies all tensors of a batch into one block, and what
is received are views into it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["PackedBatch", "pack", "unpack"]

_ALIGNMENT = 64


@dataclass(frozen=True)
class PackedBatch:
    """A pickled batch.

    Attributes:
        pickled: the batch without the contents of its arrays.
        contents: uint8 (total size,) in shared memory.
        spans: first byte and number of bytes of each array in ``contents``.
    """

    pickled: bytes
    contents: torch.Tensor
    spans: tuple[tuple[int, int], ...]


class _ArrayPickler(pickle.Pickler):
    """Pickles plain CPU tensors as arrays, whose contents can be kept apart."""

    def reducer_override(self, item: Any) -> Any:
        if type(item) is not torch.Tensor or item.device.type != "cpu" or item.requires_grad:
            return NotImplemented
        try:
            return torch.from_numpy, (item.numpy(),)
        except TypeError:  # a type that NumPy does not have, such as bfloat16
            return NotImplemented


def pack(batch: Sequence[Any]) -> PackedBatch:
    """Pack a list of samples of any kind that can be pickled; tensors may be anywhere in them."""
    stream, kept = io.BytesIO(), []
    _ArrayPickler(stream, protocol=5, buffer_callback=kept.append).dump(list(batch))
    arrays = [np.frombuffer(each.raw(), dtype=np.uint8) for each in kept]
    spans, total = [], 0
    for array in arrays:
        spans.append((total, len(array)))
        total += -(-len(array) // _ALIGNMENT) * _ALIGNMENT
    contents = torch.empty(total, dtype=torch.uint8).share_memory_()
    block = contents.numpy()
    for array, (start, size) in zip(arrays, spans, strict=True):
        block[start : start + size] = array
    return PackedBatch(stream.getvalue(), contents, tuple(spans))


def unpack(packed: PackedBatch) -> list[Any]:
    """The samples; their tensors and arrays are views into ``packed.contents``."""
    block = memoryview(packed.contents.numpy())
    return pickle.loads(
        packed.pickled, buffers=[block[start : start + size] for start, size in packed.spans]
    )
