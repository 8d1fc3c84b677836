"""Data set wrappers."""

import itertools
import logging
import operator
import pickle

import numpy as np
import pytest
import torch
from detectron2.data import DatasetFromList, MapDataset, ToIterableDataset
from detectron2.data.build import worker_init_reset_seed
from detectron2.data.common import (
    AspectRatioGroupedDataset,
    set_default_dataset_from_list_serialize_method,
)
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from torch.utils import data


class Counting(data.IterableDataset):
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        yield from range(self.count)

    def __len__(self):
        return self.count


@pytest.mark.parametrize("serialize", [True, False])
def test_list_elements_are_protected(serialize):
    elements = [{"a": [1, 2]}, {"a": np.arange(3)}, None]
    dataset = DatasetFromList(elements, serialize=serialize)
    assert len(dataset) == 3 and dataset[2] is None
    dataset[0]["a"].append(3)
    assert dataset[0] == {"a": [1, 2]} == elements[0]
    np.testing.assert_array_equal(dataset[1]["a"], np.arange(3))
    assert dataset[-1] is None
    with pytest.raises(IndexError):
        dataset[3]


def test_list_without_copy():
    elements = [[1]]
    assert DatasetFromList(elements, copy=False, serialize=False)[0] is elements[0]


def test_list_serialisation_can_be_replaced():
    assert DatasetFromList([1, 2, 3], serialize=torch.tensor)[2] == torch.tensor(3)
    with set_default_dataset_from_list_serialize_method(torch.tensor):
        assert isinstance(DatasetFromList([1, 2])[0], torch.Tensor)
    assert DatasetFromList([1, 2])[0] == 1
    with pytest.raises(TypeError):
        DatasetFromList([1], serialize="yes")


@pytest.mark.standalone_only
def test_replaced_serialisation_ends_with_an_exception():
    with pytest.raises(KeyError), set_default_dataset_from_list_serialize_method(torch.tensor):
        raise KeyError
    assert not isinstance(DatasetFromList([1])[0], torch.Tensor)


@pytest.mark.standalone_only
def test_serialised_list_ends():
    assert len(DatasetFromList([])) == 0
    dataset = DatasetFromList([10, 11, 12])
    assert list(dataset) == [10, 11, 12]
    assert [dataset[i] for i in (-3, -2, -1)] == [10, 11, 12]
    with pytest.raises(IndexError):
        dataset[-4]


def test_serialised_list_pickles():
    dataset = pickle.loads(pickle.dumps(DatasetFromList([{"a": 1}, {"b": 2}])))
    assert dataset[1] == {"b": 2}


def test_map_style():
    dataset = MapDataset(DatasetFromList([1, 2, 3]), lambda x: x * 2)
    assert [dataset[i] for i in range(3)] == [2, 4, 6] and len(dataset) == 3
    assert not isinstance(dataset, data.IterableDataset)


def test_map_style_replaces_unusable_elements(caplog):
    dataset = MapDataset(list(range(100)), lambda x: x if x >= 95 else None)
    with caplog.at_level(logging.WARNING):
        assert dataset[97] == 97
        assert caplog.text == ""
        results = [dataset[i] for i in range(20)]
    assert all(result >= 95 for result in results)
    assert "attempt" in caplog.text or "retry" in caplog.text


def test_map_style_tries_again_what_failed_before():
    usable = set()
    dataset = MapDataset([0, 1], lambda x: x if x in usable else None)
    usable.add(1)
    assert dataset[0] == 1
    usable.add(0)
    assert dataset[0] == 0


def test_map_style_recorded_replacements():
    dataset = MapDataset(list(range(20)), lambda x: x if x % 3 else None)
    # Recorded with detectron2 0.6 at commit 02b5c4e295e9.
    assert [dataset[i] for i in range(0, 20, 3)] == [4, 1, 11, 11, 5, 4, 17]


@pytest.mark.standalone_only
def test_map_style_without_any_usable_element():
    dataset = MapDataset([1, 2, 3], lambda x: None)
    with pytest.raises(ValueError, match="None for all 3 elements"):
        dataset[0]


def test_map_of_iterable_skips_none():
    dataset = MapDataset(Counting(4), lambda x: None if x == 1 else x * 2)
    assert isinstance(dataset, data.IterableDataset)
    assert list(dataset) == [0, 4, 6] and len(dataset) == 4


@pytest.mark.parametrize("dataset", [[1, 2, 3], Counting(3)])
def test_map_with_a_lambda_pickles(dataset):
    offset = 10
    mapped = pickle.loads(pickle.dumps(MapDataset(dataset, lambda x: x + offset)))
    expected = [x + 10 for x in dataset]
    if isinstance(dataset, list):
        assert [mapped[i] for i in range(3)] == expected
    else:
        assert list(mapped) == expected


def test_to_iterable_follows_the_sampler():
    dataset = ToIterableDataset(DatasetFromList(list("abcde")), InferenceSampler(5))
    assert list(dataset) == list("abcde") and len(dataset) == 5
    with pytest.raises(AssertionError):
        ToIterableDataset(Counting(3), InferenceSampler(3))
    with pytest.raises(AssertionError):
        ToIterableDataset([1, 2], [0, 1])


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_to_iterable_deals_chunks_to_workers(monkeypatch, chunk_size):
    dataset = ToIterableDataset(list(range(10)), InferenceSampler(10), True, chunk_size)
    shares = []
    for worker in range(2):
        info = type("Info", (), {"id": worker, "num_workers": 2})
        monkeypatch.setattr(data, "get_worker_info", lambda info=info: info)
        shares.append(list(dataset))
    assert (
        shares
        == {
            1: [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]],
            3: [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9]],
        }[chunk_size]
    )


def test_to_iterable_without_sharding(monkeypatch):
    info = type("Info", (), {"id": 1, "num_workers": 2})
    monkeypatch.setattr(data, "get_worker_info", lambda: info)
    dataset = ToIterableDataset(list(range(3)), InferenceSampler(3), shard_sampler=False)
    assert list(dataset) == [0, 1, 2]


def test_workers_do_not_duplicate_the_stream():
    sampler = TrainingSampler(20, seed=10)
    expected = list(itertools.islice(sampler, 40))
    for workers in (0, 2):
        loader = data.DataLoader(
            ToIterableDataset(DatasetFromList(list(range(20))), sampler),
            num_workers=workers,
            collate_fn=operator.itemgetter(0),
            worker_init_fn=worker_init_reset_seed,
        )
        assert list(itertools.islice(loader, 40)) == expected


def shapes(text):
    """One record a letter: w(ide), h(igh) or s(quare)."""
    sizes = {"w": (2, 1), "h": (1, 2), "s": (1, 1)}
    return [{"width": sizes[c][0], "height": sizes[c][1], "n": i} for i, c in enumerate(text)]


def test_aspect_ratio_groups():
    batches = AspectRatioGroupedDataset(shapes("whswwhs"), 2)
    assert [[r["n"] for r in batch] for batch in batches] == [[1, 2], [0, 3], [5, 6]]


def test_aspect_ratio_leftovers_are_kept():
    grouped = AspectRatioGroupedDataset(shapes("wwwh"), 2)
    assert [[r["n"] for r in batch] for batch in grouped] == [[0, 1]]
    assert [[r["n"] for r in batch] for batch in grouped] == [[2, 0], [1, 2], [3, 3]]


def test_aspect_ratio_group_left_early_holds_no_full_bucket():
    grouped = AspectRatioGroupedDataset(shapes("whwh"), 2)
    for _ in range(5):
        next(iter(grouped))
    assert all(len(bucket) < 2 for bucket in grouped._buckets)
