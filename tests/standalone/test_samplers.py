"""Index streams of one and of several processes."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.data.samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from hypothesis import given, settings
from hypothesis import strategies as st


def first(sampler, count):
    return list(itertools.islice(sampler, count))


@pytest.fixture
def as_rank(monkeypatch):
    """Let samplers that are constructed from now on believe in a rank of a larger world."""

    def set_rank(rank, world_size):
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: world_size)

    return set_rank


def test_training_sampler_recorded_stream():
    assert first(TrainingSampler(5, seed=42), 10) == [2, 4, 3, 0, 1, 1, 4, 3, 2, 0]
    generator = torch.Generator().manual_seed(42)
    expected = [torch.randperm(5, generator=generator).tolist() for _ in range(4)]
    assert first(TrainingSampler(5, seed=42), 20) == list(itertools.chain(*expected))


def test_training_sampler_without_shuffling():
    assert first(TrainingSampler(3, shuffle=False), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_training_sampler_ranks_share_one_stream(as_rank):
    stream = first(TrainingSampler(5, seed=42), 30)
    for rank in range(3):
        as_rank(rank, 3)
        assert first(TrainingSampler(5, seed=42), 10) == stream[rank::3]


def test_training_sampler_seed_is_drawn_at_construction():
    seed_all_rng(42)
    sampler = TrainingSampler(30)
    expected = first(sampler, 65)
    seed_all_rng(42)
    sampler = TrainingSampler(30)
    seed_all_rng(999)
    assert first(sampler, 65) == expected
    assert first(sampler, 65) == expected  # iterating again starts again


@pytest.mark.parametrize("size", [5.0, "5", None])
def test_training_sampler_type_error(size):
    with pytest.raises(TypeError, match="expects an int"):
        TrainingSampler(size)


@pytest.mark.parametrize("size", [0, -1])
def test_training_sampler_value_error(size):
    with pytest.raises(ValueError, match=f"positive int. Got {size}"):
        TrainingSampler(size)


def test_random_subset():
    sampler = RandomSubsetTrainingSampler(50, 0.3, seed_shuffle=4, seed_subset=8)
    chosen = torch.randperm(50, generator=torch.Generator().manual_seed(8))[:15]
    order = torch.randperm(15, generator=torch.Generator().manual_seed(4))
    stream = first(sampler, 60)
    assert stream[:15] == chosen[order].tolist()
    assert all(set(stream[i : i + 15]) == set(chosen.tolist()) for i in range(0, 60, 15))
    unshuffled = RandomSubsetTrainingSampler(50, 0.3, shuffle=False, seed_subset=8)
    assert first(unshuffled, 15) == chosen.tolist()
    assert set(first(RandomSubsetTrainingSampler(4, 1.0), 4)) == {0, 1, 2, 3}


@pytest.mark.parametrize("ratio", [0.0, 1.1, 0.01])
def test_random_subset_must_not_be_empty(ratio):
    with pytest.raises(AssertionError):
        RandomSubsetTrainingSampler(50, ratio)


def annotated(*images):
    return [{"annotations": [{"category_id": c} for c in categories]} for categories in images]


def test_repeat_factors():
    # f(0) = 2/4, f(1) = 1/4, f(2) = 4/4
    records = annotated([0, 1, 2], [0, 0, 2], [2], [2])
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    torch.testing.assert_close(factors(records, 1.0), torch.tensor([2.0, 2**0.5, 1, 1]))
    torch.testing.assert_close(factors(records, 1.0, sqrt=False), torch.tensor([4.0, 2, 1, 1]))
    torch.testing.assert_close(factors(records, 0.1), torch.ones(4))
    torch.testing.assert_close(factors(annotated([0], []), 1.0), torch.tensor([2**0.5, 1]))


def test_repeat_factor_ones_equal_unshuffled_epochs():
    sampler = RepeatFactorTrainingSampler(torch.ones(4), shuffle=False, seed=0)
    assert first(sampler, 8) == [0, 1, 2, 3, 0, 1, 2, 3]


def test_repeat_factor_rounding_is_right_on_average():
    sampler = RepeatFactorTrainingSampler(torch.tensor([1.0, 2.5, 1.25]), seed=0)
    counts = np.bincount(first(sampler, 4750))
    np.testing.assert_allclose(counts, [1000, 2500, 1250], rtol=0.05)


def test_repeat_factor_stream_follows_its_generator(as_rank):
    factors = torch.tensor([1.5, 1.0, 2.75])
    generator = torch.Generator().manual_seed(7)
    expected = []
    for _ in range(5):
        rounded = factors.floor() + (torch.rand(3, generator=generator) < factors.frac())
        epoch = torch.tensor([i for i in range(3) for _ in range(int(rounded[i]))])
        expected += epoch[torch.randperm(len(epoch), generator=generator)].tolist()
    assert first(RepeatFactorTrainingSampler(factors, seed=7), len(expected)) == expected
    as_rank(1, 2)
    assert first(RepeatFactorTrainingSampler(factors, seed=7), 5) == expected[1:10:2]


@pytest.mark.standalone_only
def test_repeat_factors_may_be_a_list_and_records_unannotated():
    assert first(RepeatFactorTrainingSampler([1, 1], shuffle=False), 2) == [0, 1]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    torch.testing.assert_close(factors([*annotated([0]), {}], 1.0), torch.tensor([2**0.5, 1]))


def test_inference_sampler_shards(as_rank):
    shards = []
    for rank in range(3):
        as_rank(rank, 3)
        sampler = InferenceSampler(7)
        shards.append(list(sampler))
        assert len(sampler) == len(shards[-1])
    assert shards == [[0, 1, 2], [3, 4], [5, 6]]


@settings(max_examples=50, deadline=None)
@given(size=st.integers(0, 60), world_size=st.integers(1, 9))
def test_inference_shards_cover_everything_once(size, world_size):
    shards = [InferenceSampler._get_local_indices(size, world_size, r) for r in range(world_size)]
    assert [i for shard in shards for i in shard] == list(range(size))
    lengths = [len(shard) for shard in shards]
    assert max(lengths) - min(lengths) <= 1


def test_inference_sampler_needs_data():
    with pytest.raises(AssertionError):
        InferenceSampler(0)
