"""Index streams that are consistent over all processes of a job.

Every process iterates the same stream from the same seed and keeps its own share, so that
no communication is needed after construction.
"""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from ...utils import comm

__all__ = [
    "InferenceSampler",
    "RandomSubsetTrainingSampler",
    "RepeatFactorTrainingSampler",
    "TrainingSampler",
]

logger = logging.getLogger(__name__)


def _seeded_generator(seed: int) -> torch.Generator:
    generator = torch.Generator()
    generator.manual_seed(seed)
    return generator


class _InfiniteSampler(Sampler):
    """Endless concatenation of epochs, of which rank r takes every world-size-th index from r."""

    def __init__(self, shuffle: bool, seed: int | None) -> None:
        self._shuffle = shuffle
        self._seed = comm.shared_random_seed() if seed is None else int(seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        """Indices of one epoch over all ranks, `(M,)` int64, before shuffling."""
        raise NotImplementedError

    def _infinite_indices(self) -> Iterator[int]:
        generator = _seeded_generator(self._seed)
        while True:
            indices = self._epoch(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)


class TrainingSampler(_InfiniteSampler):
    """Endless stream of successive permutations of `0..size-1`."""

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        """
        Args:
            size: number of elements of the data set.
            shuffle: permute each epoch; otherwise count up again and again.
            seed: the same on all processes; `None` draws one and shares it.

        Raises:
            TypeError: `size` is not an int.
            ValueError: `size` is not positive.
        """
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler(size=) expects an int. Got type {type(size)}.")
        if size <= 0:
            raise ValueError(f"TrainingSampler(size=) expects a positive int. Got {size}.")
        super().__init__(shuffle, seed)
        self._size = size

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return torch.arange(self._size)


class RandomSubsetTrainingSampler(TrainingSampler):
    """A `TrainingSampler` over a random but fixed part of the data set."""

    def __init__(
        self,
        size: int,
        subset_ratio: float,
        shuffle: bool = True,
        seed_shuffle: int | None = None,
        seed_subset: int | None = None,
    ) -> None:
        """
        Args:
            size: number of elements of the data set.
            subset_ratio: part to use, in (0, 1]; `int(size * subset_ratio)` elements.
            shuffle: permute each epoch.
            seed_shuffle: seed of the permutations; `None` draws one and shares it.
            seed_subset: seed of the choice of the subset; `None` draws one and shares it.
        """
        super().__init__(size, shuffle, seed_shuffle)
        subset_size = int(size * subset_ratio)
        assert 0.0 < subset_ratio <= 1.0 and subset_size > 0, (
            f"subset_ratio={subset_ratio} of {size} elements must be in (0, 1] and leave at "
            "least one element."
        )
        if seed_subset is None:
            seed_subset = comm.shared_random_seed()
        order = torch.randperm(size, generator=_seeded_generator(int(seed_subset)))
        self._indexes_subset = order[:subset_size]
        logger.info("Sampling from a random subset of %d of %d elements", subset_size, size)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return self._indexes_subset


class RepeatFactorTrainingSampler(_InfiniteSampler):
    """Endless stream in which element i appears `repeat_factors[i]` times an epoch on average."""

    def __init__(
        self,
        repeat_factors: torch.Tensor | Sequence[float],
        *,
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            repeat_factors: `(N,)` float; the fractional part is rounded stochastically, anew
                in each epoch.
            shuffle: permute each epoch.
            seed: the same on all processes; `None` draws one and shares it.
        """
        super().__init__(shuffle, seed)
        if not isinstance(repeat_factors, torch.Tensor):
            repeat_factors = torch.tensor(tuple(repeat_factors), dtype=torch.float32)
        self._int_part = torch.trunc(repeat_factors)
        self._frac_part = repeat_factors - self._int_part

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: Sequence[Mapping[str, Any]], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """Repeat factors that show images with rare categories more often.

        With f(c) the fraction of images that contain category c, the factor of an image is the
        largest `max(1, sqrt(repeat_thresh / f(c)))` of its categories (LVIS, appendix B.2) and
        1 for an image without annotations.

        Args:
            dataset_dicts: records with `annotations`, each with a `category_id`.
            repeat_thresh: frequency below which a category is repeated.
            sqrt: `False` uses `repeat_thresh / f(c)` itself.

        Returns:
            `(N,)` float32.
        """
        categories = [
            {annotation["category_id"] for annotation in record.get("annotations", ())}
            for record in dataset_dicts
        ]
        images_with = Counter(itertools.chain.from_iterable(categories))
        category_factor = {}
        for category, count in sorted(images_with.items()):
            ratio = repeat_thresh / (count / len(categories))
            category_factor[category] = max(1.0, math.sqrt(ratio) if sqrt else ratio)
            logger.info(
                "Category id %s: in %d of %d images, repeat factor %.2f",
                category,
                count,
                len(categories),
                category_factor[category],
            )
        factors = [max((category_factor[c] for c in ids), default=1.0) for ids in categories]
        return torch.tensor(factors, dtype=torch.float32)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        draws = torch.rand(len(self._frac_part), generator=generator)
        repeats = (self._int_part + (draws < self._frac_part)).long()
        return torch.repeat_interleave(repeats)


class InferenceSampler(Sampler):
    """Each index once over all processes: contiguous shards whose sizes differ by at most one."""

    def __init__(self, size: int) -> None:
        """
        Args:
            size: number of elements of the data set, positive.
        """
        assert size > 0, f"InferenceSampler(size=) expects a positive int. Got {size}."
        self._local_indices = self._get_local_indices(size, comm.get_world_size(), comm.get_rank())

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        share, larger_shards = divmod(total_size, world_size)
        begin = rank * share + min(rank, larger_shards)
        return range(begin, begin + share + (rank < larger_shards))

    def __iter__(self) -> Iterator[int]:
        return iter(self._local_indices)

    def __len__(self) -> int:
        return len(self._local_indices)
