"""From a worker process to the training: batches as one block against one block for each tensor.

The samples are what a raster model trains on: of seven frames the boxes, identities and masks of
twelve objects, rasters and maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from timing import compare
from torch.utils.data import DataLoader, IterableDataset

from roca_nocs.data.packing import pack, unpack

BATCH, OBJECTS, CELLS = 16, 12, 96


class _Repeated(IterableDataset):
    """The same sample for ever."""

    def __iter__(self) -> Iterator[dict]:
        torch.set_num_threads(1)
        frame = {
            "boxes": torch.rand(OBJECTS, 4),
            "labels": torch.zeros(OBJECTS, dtype=torch.int64),
            "ids": torch.arange(OBJECTS),
            "masks": torch.rand(OBJECTS, CELLS, CELLS) < 0.1,
        }
        sample = {
            "clip": torch.rand(3, 5, CELLS, CELLS),
            "flow": torch.rand(4, 2, CELLS, CELLS),
            "frames": [{name: value.clone() for name, value in frame.items()} for _ in range(7)],
        }
        while True:
            yield sample


def receive(collate: Callable, finish: Callable) -> Callable[[], object]:
    """The next batch of one worker, which has two ready while this one is used."""
    batches = iter(DataLoader(_Repeated(), BATCH, num_workers=1, collate_fn=collate))
    return lambda: finish(next(batches))


def main() -> None:
    compare(
        f"batch of {BATCH} clips from a worker process, vs a block of memory for each tensor",
        receive(list, list),
        receive(pack, unpack),
    )


if __name__ == "__main__":
    main()
