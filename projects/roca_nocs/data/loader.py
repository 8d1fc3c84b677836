"""The training loader: detectron2's loader over a stream of samples that can be resumed exactly.

Vocabulary: the *global batch* ``k`` is the list of samples that all processes together train on in
step ``k``; slot ``s`` of it has the *global position* ``k * total_batch_size + s``. What a global
batch holds, and how each of its samples is augmented, depends on the seed and on ``k`` only: not
on the number of processes, not on the number of workers, and not on what ran before.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import IterableDataset, get_worker_info

from .packing import pack, unpack

__all__ = ["IndexStream", "TrainLoader", "build_train_loader"]

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Mapper = Callable[[Record], Any]

_MAX_REPLACEMENTS = 20
"""Unusable records in a row after which the data, not one record, is at fault."""


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore the CPU generators of python, numpy and torch on exit."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def _seed_generators(*entropy: int) -> None:
    """Seed the generators that augmentations draw from (the CPU ones, and no other)."""
    seeds = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    # torch.manual_seed would seed the CUDA generators too, in this process and lazily in workers.
    torch.default_generator.manual_seed(int(seeds[2]))


class IndexStream:
    """Endless global batches of record indices, fully determined by the constructor arguments.

    The indices are successive random permutations of the data set, drawn from one generator, as in
    detectron2's `TrainingSampler`. With groups, an index waits until its group fills a batch, so
    that all images of a global batch, on all processes, have the same orientation.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        *,
        groups: Sequence[int] | None = None,
        repeat_factors: torch.Tensor | None = None,
    ) -> None:
        """
        Args:
            size: number of records, at least 1.
            batch_size: number of indices in a global batch.
            seed: of the generator.
            groups: group number of each record; `None` puts all into one.
            repeat_factors: float (size,), how often each record occurs in one pass over the data;
                fractions are rounded at random, anew in each pass. `None` means once.
        """
        if size < 1:
            raise ValueError(f"the training data set must not be empty, got {size} records")
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.groups = None if groups is None else tuple(groups)
        self.repeat_factors = repeat_factors
        for name, given in (("groups", self.groups), ("repeat_factors", repeat_factors)):
            if given is not None and len(given) != size:
                raise ValueError(f"{name} has {len(given)} entries for {size} records")

    def _passes(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            if self.repeat_factors is None:
                yield torch.randperm(self.size, generator=generator).tolist()
                continue
            whole = self.repeat_factors.floor()
            extra = torch.rand(self.size, generator=generator) < self.repeat_factors - whole
            indices = torch.repeat_interleave(whole.long() + extra)
            yield indices[torch.randperm(len(indices), generator=generator)].tolist()

    def batches(self) -> Iterator[list[int]]:
        """The global batches 0, 1, 2, ..., each a list of `batch_size` indices."""
        waiting: dict[int, list[int]] = {}
        for indices in self._passes():
            for index in indices:
                group = 0 if self.groups is None else self.groups[index]
                batch = waiting.setdefault(group, [])
                batch.append(index)
                if len(batch) == self.batch_size:
                    del waiting[group]
                    yield batch


class _SampleStream(IterableDataset):
    """Mapped samples of one process, from global batch `start` on.

    Yields ``(sample, number of records that were replaced)``. Inside a `DataLoader` worker it
    yields whole batches in turn with the other workers, in the order in which the `DataLoader`
    asks for them.
    """

    def __init__(
        self, records: Sequence[Record], mapper: Mapper, stream: IndexStream, start: int
    ) -> None:
        self.records = records
        self.mapper = PicklableWrapper(mapper)
        self.stream = stream
        self.start = start
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        worker = get_worker_info()
        num_workers, worker_id = (worker.num_workers, worker.id) if worker else (1, 0)
        share = self.stream.batch_size // self.world_size
        for number, batch in enumerate(self.stream.batches()):
            if number < self.start or (number - self.start) % num_workers != worker_id:
                continue
            for slot in range(self.rank * share, (self.rank + 1) * share):
                yield self._sample(batch[slot], number * len(batch) + slot)

    def _sample(self, index: int, position: int) -> tuple[Any, int]:
        """Map record `index`, or, where that gives `None`, another one drawn for this position."""
        first = index
        with _random_state_kept():
            for attempt in range(_MAX_REPLACEMENTS):
                _seed_generators(self.stream.seed, position, attempt)
                sample = self._map(index)
                if sample is not None:
                    return sample, attempt
                _seed_generators(self.stream.seed, position, attempt)
                index = self._other_index(first)
        raise ValueError(
            f"the mapper returned None for {_MAX_REPLACEMENTS} records in a row, the first of "
            f"which is {_describe(self.records[first], first)}: check the data set and the mapper"
        )

    def _map(self, index: int) -> Any:
        record = self.records[index]
        try:
            return self.mapper(record)
        except Exception as error:
            error.add_note(f"while mapping {_describe(record, index)}")
            raise

    def _other_index(self, index: int) -> int:
        groups = self.stream.groups
        if groups is None:
            return random.randrange(self.stream.size)
        return random.choice([i for i, group in enumerate(groups) if group == groups[index]])


def _describe(record: Record, index: int) -> str:
    name = record.get("file_name") if isinstance(record, dict) else None
    return f"record {index}" + ("" if name is None else f" (file_name {name!r})")


class TrainLoader:
    """Endless iterator over this process's share of the global batches, a `list` of samples each.

    `position` counts the batches handed out, not those that workers prepared in advance. The state
    is that count and the seed; resuming goes through indices only and reads no image.
    """

    def __init__(
        self,
        records: Sequence[Record],
        mapper: Mapper,
        *,
        total_batch_size: int,
        seed: int,
        groups: Sequence[int] | None = None,
        repeat_factors: torch.Tensor | None = None,
        num_workers: int = 0,
    ) -> None:
        """
        Args:
            records: detectron2's dataset dicts.
            mapper: record -> sample, or `None` for a record that cannot be used.
            total_batch_size: over all processes, divisible by their number.
            seed: decides order and augmentations; the same on all processes.
            groups, repeat_factors: see `IndexStream`.
            num_workers: worker processes of this process.
        """
        world_size = comm.get_world_size()
        if total_batch_size < 1 or total_batch_size % world_size:
            raise ValueError(
                f"total_batch_size must be a positive multiple of the {world_size} processes, "
                f"got {total_batch_size}"
            )
        self._stream = IndexStream(
            len(records), total_batch_size, seed, groups=groups, repeat_factors=repeat_factors
        )
        self._records = DatasetFromList(list(records), copy=False)
        self._mapper = mapper
        self._num_workers = num_workers
        self.position = 0
        self.replaced = 0

    def __iter__(self) -> Iterator[list[Any]]:
        loader = build_detection_train_loader(
            _SampleStream(self._records, self._mapper, self._stream, self.position),
            mapper=None,
            total_batch_size=self._stream.batch_size,
            aspect_ratio_grouping=False,
            num_workers=self._num_workers,
            collate_fn=pack if self._num_workers else None,
        )
        with _random_state_kept():  # creating the iterator draws the workers' base seed
            batches = iter(loader)
        for batch in batches:
            if self._num_workers:
                batch = unpack(batch)
            self.position += 1
            self._count_replaced(sum(attempts for _, attempts in batch))
            yield [sample for sample, _ in batch]

    def _count_replaced(self, count: int) -> None:
        if not count:
            return
        before, self.replaced = self.replaced, self.replaced + count
        if before.bit_length() != self.replaced.bit_length():  # 1, 2, 4, 8, ...: no flood of lines
            logger.warning(
                "The mapper returned None for %d records so far; others stood in for them.",
                self.replaced,
            )

    def _identity(self) -> dict[str, int]:
        return {"num_records": self._stream.size, "total_batch_size": self._stream.batch_size}

    def state_dict(self) -> dict[str, int]:
        """Position, seed, count of replaced records, and what the order of samples depends on."""
        return {
            "position": self.position,
            "seed": self._stream.seed,
            "replaced": self.replaced,
            **self._identity(),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue behind `state`; takes effect at the next `iter()`."""
        for key, value in self._identity().items():
            if state[key] != value:
                logger.warning(
                    "%s was %d when the checkpoint was written and is %d now: training continues "
                    "with batch %d of another sequence of samples.",
                    *(key, state[key], value, state["position"]),
                )
        self.position = state["position"]
        self.replaced = state["replaced"]
        self._stream.seed = state["seed"]


def build_train_loader(
    dataset: Sequence[Record],
    *,
    mapper: Mapper,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    repeat_threshold: float = 0.0,
    repeat_factors: Callable[[Sequence[Record]], Sequence[float]] | None = None,
    num_workers: int = 0,
    seed: int | None = None,
) -> TrainLoader:
    """Build the training loader; use it in configs in place of `build_detection_train_loader`.

    Args:
        dataset: dataset dicts, e.g. from `get_detection_dataset_dicts`.
        mapper: record -> sample for the model; `None` where the record cannot be used, which then
            is replaced by another one and counted.
        total_batch_size: images per step over all processes.
        aspect_ratio_grouping: make each global batch of either landscape or portrait images; needs
            `width` and `height` in every record.
        repeat_threshold: categories that occur in a smaller share of the images than this are
            sampled more often (repeat factor sampling); 0 samples all images equally.
        repeat_factors: from the dataset to how often each record occurs in one pass over it, in
            place of `repeat_threshold`.
        num_workers: worker processes per training process.
        seed: `None` draws one from numpy's generator of rank 0.
    """
    groups = None
    if aspect_ratio_grouping:
        groups = [_orientation(record, index) for index, record in enumerate(dataset)]
    if repeat_threshold > 0 and repeat_factors is not None:
        raise ValueError("repeat_threshold and repeat_factors exclude each other: give one")
    repeats = None
    if repeat_factors is not None:
        repeats = torch.tensor(repeat_factors(dataset), dtype=torch.float32)
    elif repeat_threshold > 0:
        repeats = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, repeat_threshold
        )
    return TrainLoader(
        dataset,
        mapper,
        total_batch_size=total_batch_size,
        seed=int(comm.shared_random_seed() if seed is None else seed),
        groups=groups,
        repeat_factors=repeats,
        num_workers=num_workers,
    )


def _orientation(record: Record, index: int) -> int:
    missing = [key for key in ("width", "height") if key not in record]
    if missing:
        raise ValueError(
            f"{_describe(record, index)} has no {' and no '.join(missing)}, which "
            "aspect_ratio_grouping needs: add them or set aspect_ratio_grouping=False"
        )
    return int(record["width"] > record["height"])
