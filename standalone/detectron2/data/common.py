"""Data set wrappers: lists shared by worker processes, mapping, sharding, aspect ratio groups."""

from __future__ import annotations

import contextlib
import copy as copy_module
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import data

from ..utils.serialize import PicklableWrapper

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "ToIterableDataset"]

logger = logging.getLogger(__name__)


def _shard_over_workers(iterable: Iterable[Any], chunk_size: int) -> Iterator[Any]:
    """The elements of `iterable` that belong to this `DataLoader` worker.

    Chunks of `chunk_size` elements are dealt out to the workers in turn; outside a worker
    everything is kept.
    """
    worker = data.get_worker_info()
    if worker is None or worker.num_workers == 1:
        yield from iterable
        return
    for position, element in enumerate(iterable):
        if position // chunk_size % worker.num_workers == worker.id:
            yield element


class _MapIterableDataset(data.IterableDataset):
    """`MapDataset` of an iterable data set; `None` results are skipped."""

    def __init__(self, dataset: Iterable[Any], map_func: Callable[[Any], Any]) -> None:
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Any]:
        for element in self._dataset:
            mapped = self._map_func(element)
            if mapped is not None:
                yield mapped


class MapDataset(data.Dataset):
    """Applies a function to the elements of a data set.

    `map_func` may return `None` for an element that cannot be used. A map-style data set then
    answers with another, randomly chosen element; an iterable one goes on to the next.
    """

    # More failures in a row than this are reported: one broken image is nothing unusual.
    _SILENT_RETRIES = 2

    def __new__(cls, dataset: Any, map_func: Callable[[Any], Any]) -> data.Dataset:
        if isinstance(dataset, data.IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset: Any, map_func: Callable[[Any], Any]) -> None:
        """
        Args:
            dataset: map-style or iterable; the result is of the same style.
            map_func: element -> mapped element or `None`; lambdas survive pickling.
        """
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)
        self._rng = random.Random(42)
        self._unusable: set[int] = set()

    def __getnewargs__(self) -> tuple[Any, PicklableWrapper]:
        return self._dataset, self._map_func

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        current, failures = int(index), 0
        while (mapped := self._map_func(self._dataset[current])) is None:
            failures += 1
            self._unusable.add(current)
            if failures > self._SILENT_RETRIES:
                logger.warning("No result for index %s after %d attempts", index, failures)
            candidates = [i for i in range(len(self)) if i not in self._unusable]
            if not candidates:
                raise ValueError(
                    f"The map function returned None for all {len(self)} elements of the dataset."
                )
            current = self._rng.choice(candidates)
        self._unusable.discard(current)
        return mapped


class _TorchSerializedList(Sequence):
    """A read-only list whose elements are pickled into one byte tensor.

    Reading an element touches no reference counts of the stored objects, so that forked workers
    do not duplicate the pages, and spawned ones receive the tensor through shared memory.
    """

    def __init__(self, elements: Sequence[Any]) -> None:
        pickled = [
            np.frombuffer(pickle.dumps(x, protocol=pickle.HIGHEST_PROTOCOL), dtype=np.uint8)
            for x in elements
        ]
        sizes = np.array([0, *(len(x) for x in pickled)], dtype=np.int64)
        self._ends = torch.from_numpy(sizes.cumsum())
        joined = np.concatenate(pickled) if pickled else np.zeros(0, dtype=np.uint8)
        self._bytes = torch.from_numpy(joined)
        logger.info(
            "Serialized %d elements into %.2f MiB", len(pickled), len(self._bytes) / 1024**2
        )

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        begin, end = self._ends[index : index + 2].tolist()
        return pickle.loads(memoryview(self._bytes[begin:end].numpy()))


_default_serialize_method: Callable[[Sequence[Any]], Any] = _TorchSerializedList


@contextlib.contextmanager
def set_default_dataset_from_list_serialize_method(new: Callable[[Sequence[Any]], Any]):
    """Within the context `DatasetFromList(..., serialize=True)` stores `new(list)`."""
    global _default_serialize_method
    previous = _default_serialize_method
    _default_serialize_method = new
    try:
        yield
    finally:
        _default_serialize_method = previous


class DatasetFromList(data.Dataset):
    """A list as a map-style data set."""

    def __init__(
        self,
        lst: Sequence[Any],
        copy: bool = True,
        serialize: bool | Callable[[Sequence[Any]], Any] = True,
    ) -> None:
        """
        Args:
            lst: the elements.
            copy: return a deep copy of the element (an unpickled element already is one).
            serialize: `True` pickles the elements into one tensor, which worker processes
                share; a callable stores what it makes of the list instead.
        """
        if not (isinstance(serialize, bool) or callable(serialize)):
            raise TypeError(
                f"DatasetFromList(serialize=) expects a bool or a callable, got {serialize!r}."
            )
        self._copy = copy and serialize is False
        if serialize is True:
            serialize = _default_serialize_method
        self._lst = serialize(lst) if serialize else lst

    def __len__(self) -> int:
        return len(self._lst)

    def __getitem__(self, index: int) -> Any:
        element = self._lst[index]
        return copy_module.deepcopy(element) if self._copy else element


class ToIterableDataset(data.IterableDataset):
    """A map-style data set read in the order of a sampler, by one or several workers."""

    def __init__(
        self,
        dataset: data.Dataset,
        sampler: data.Sampler,
        shard_sampler: bool = True,
        shard_chunk_size: int = 1,
    ) -> None:
        """
        Args:
            dataset: map-style.
            sampler: its indices; must be cheap, because every worker iterates all of them.
            shard_sampler: deal the indices out to the workers; `False` when the sampler itself
                already gives each worker its own.
            shard_chunk_size: number of consecutive indices that go to the same worker.
        """
        assert not isinstance(dataset, data.IterableDataset), (
            f"ToIterableDataset needs a map-style dataset, got {type(dataset).__name__}."
        )
        assert isinstance(sampler, data.Sampler), (
            f"ToIterableDataset needs a torch Sampler, got {type(sampler).__name__}."
        )
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        indices = iter(self.sampler)
        if self.shard_sampler:
            indices = _shard_over_workers(indices, self.shard_chunk_size)
        for index in indices:
            yield self.dataset[index]

    def __len__(self) -> int:
        return len(self.sampler)


class AspectRatioGroupedDataset(data.IterableDataset):
    """Batches of records that are all wider than high, or all not: less padding in a batch."""

    def __init__(self, dataset: Iterable[dict[str, Any]], batch_size: int) -> None:
        """
        Args:
            dataset: records with the `width` and `height` of the original image.
            batch_size: length of each batch. Records that do not fill one are kept for the next
                iteration.
        """
        self.dataset = dataset
        self.batch_size = batch_size
        self._buckets: tuple[list[dict[str, Any]], ...] = ([], [])

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for record in self.dataset:
            bucket = self._buckets[0 if record["width"] > record["height"] else 1]
            bucket.append(record)
            if len(bucket) == self.batch_size:
                # Emptied before the yield: the caller may never come back.
                batch = bucket.copy()
                bucket.clear()
                yield batch
