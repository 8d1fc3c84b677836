"""The training loader: order of samples, shares of the processes, augmentation seeds, resuming."""

import itertools
import logging
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.data import loader as loader_module
from roca_nocs.data.loader import IndexStream, TrainLoader, build_train_loader


def draw(record: dict[str, Any]) -> dict[str, Any]:
    """A mapper whose result shows the record and what the three generators gave."""
    draws = random.random(), np.random.rand(), torch.rand(()).item()
    return {"id": record["id"], "draws": draws}


def no_odd_ids(record: dict[str, Any]) -> dict[str, Any] | None:
    return draw(record) if record["id"] % 2 == 0 else None


def nothing(record: dict[str, Any]) -> None:
    return None


def broken(record: dict[str, Any]) -> dict[str, Any]:
    raise OSError("image file is truncated")


def records(count: int) -> list[dict[str, Any]]:
    """Every third record is a portrait image."""
    return [
        {"id": i, "file_name": f"{i}.png", "width": 30 if i % 3 else 20, "height": 25}
        for i in range(count)
    ]


def batches(count: int, position: int = 0, **changes: Any) -> list[list[dict[str, Any]]]:
    loader = build_train_loader(
        **{"dataset": records(10), "mapper": draw, "total_batch_size": 4, "seed": 5} | changes
    )
    state = loader.state_dict()
    loader.load_state_dict(state | {"position": position})
    return list(itertools.islice(loader, count))


def test_index_stream_follows_training_sampler() -> None:
    stream = IndexStream(5, 3, seed=42)
    drawn = list(itertools.chain.from_iterable(itertools.islice(stream.batches(), 4)))
    assert drawn[:10] == [2, 4, 3, 0, 1, 1, 4, 3, 2, 0]
    assert drawn == list(itertools.islice(TrainingSampler(5, seed=42), 12))


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 20),
    batch_size=st.integers(1, 6),
    seed=st.integers(0, 2**31 - 1),
    grouped=st.booleans(),
)
def test_index_stream_visits_records_equally(
    size: int, batch_size: int, seed: int, grouped: bool
) -> None:
    groups = [i % 2 for i in range(size)] if grouped else None
    stream = IndexStream(size, batch_size, seed, groups=groups)
    count = -(-5 * size // batch_size)  # five passes over the data
    drawn = list(itertools.islice(stream.batches(), count))
    assert all(len(batch) == batch_size for batch in drawn)
    if groups:
        assert all(len({groups[i] for i in batch}) == 1 for batch in drawn)
    visits = np.bincount(list(itertools.chain.from_iterable(drawn)), minlength=size)
    # A group's unfinished batch waits for the next pass: at most one batch per group is behind.
    assert visits.max() - visits.min() <= (1 if not grouped else 1 + 2 * batch_size)


def test_repeat_factors_are_kept_on_average() -> None:
    factors = torch.tensor([1.0, 2.5, 1.0])
    stream = IndexStream(3, 9, seed=0, repeat_factors=factors)
    drawn = list(itertools.chain.from_iterable(itertools.islice(stream.batches(), 500)))
    shares = np.bincount(drawn) / len(drawn)
    # 4500 draws: the standard deviation of the share of record 1 is below 0.004.
    np.testing.assert_allclose(shares, [1 / 4.5, 2.5 / 4.5, 1 / 4.5], atol=0.02)


def test_repeat_threshold_repeats_rare_categories() -> None:
    dataset = [{"id": i, "annotations": [{"category_id": int(i == 0)}]} for i in range(16)]
    settings = {"aspect_ratio_grouping": False, "repeat_threshold": 0.25, "total_batch_size": 17}
    drawn = batches(1, dataset=dataset, **settings)
    # Category 1 is in 1/16 of the images: repeat factor sqrt(0.25 * 16) = 2.
    assert sorted(sample["id"] for sample in drawn[0]) == [0, *range(16)]


def test_one_record() -> None:
    drawn = batches(3, dataset=records(1))
    assert [[s["id"] for s in batch] for batch in drawn] == [[0] * 4] * 3
    assert len({s["draws"] for batch in drawn for s in batch}) == 12


def test_no_records() -> None:
    with pytest.raises(ValueError, match="must not be empty, got 0 records"):
        batches(1, dataset=[])


def test_orientation_of_a_batch_is_one() -> None:
    drawn = batches(20)
    assert {len({s["id"] % 3 == 0 for s in batch}) for batch in drawn} == {1}
    assert {batch[0]["id"] % 3 == 0 for batch in drawn} == {True, False}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_content_is_independent_of_workers(num_workers: int) -> None:
    assert batches(7, num_workers=num_workers) == batches(7)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_loader_continues(num_workers: int) -> None:
    expected = batches(9)
    assert batches(4, position=5, num_workers=num_workers) == expected[5:]


def test_content_is_independent_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batches(6)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_world_size", lambda: 2)
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        loader = TrainLoader(
            records(10),
            draw,
            total_batch_size=4,
            seed=5,
            groups=[int(r["width"] > r["height"]) for r in records(10)],
        )
        stream = loader_module._SampleStream(loader._records, draw, loader._stream, 0)
        samples = [sample for sample, _ in itertools.islice(stream, 12)]
        shares.append([samples[i : i + 2] for i in range(0, 12, 2)])
    assert [first + second for first, second in zip(*shares, strict=True)] == expected


def test_position_counts_what_was_handed_out() -> None:
    loader = build_train_loader(records(10), mapper=draw, total_batch_size=2, num_workers=2, seed=0)
    iterator = iter(loader)
    for count in range(1, 4):
        next(iterator)
        assert loader.state_dict()["position"] == count


def test_resuming_reads_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = []
    monkeypatch.setattr(
        loader_module._SampleStream, "_map", lambda self, index: mapped.append(index) or index
    )
    batches(1, position=1000)
    assert len(mapped) == 4


def test_generators_of_the_training_are_not_disturbed() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw({"id": 0})
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    batches(3)
    assert draw({"id": 0}) == expected


def test_seed_is_drawn_and_resumed() -> None:
    loader = build_train_loader(records(10), mapper=draw, total_batch_size=4)
    expected = list(itertools.islice(loader, 3))
    state = loader.state_dict()
    other = build_train_loader(records(10), mapper=draw, total_batch_size=4, seed=99)
    other.load_state_dict(state | {"position": 0})
    assert list(itertools.islice(other, 3)) == expected


def test_stream_can_be_sent_to_a_spawned_worker() -> None:
    loader = build_train_loader(
        records(10), mapper=lambda record: record["id"], total_batch_size=4, seed=5
    )
    stream = loader_module._SampleStream(loader._records, loader._mapper, loader._stream, 3)
    copy = pickle.loads(pickle.dumps(stream))
    assert list(itertools.islice(copy, 8)) == list(itertools.islice(stream, 8))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unusable_records_are_replaced_and_counted(num_workers: int) -> None:
    loader = build_train_loader(
        records(10), mapper=no_odd_ids, total_batch_size=4, num_workers=num_workers, seed=5
    )
    drawn = list(itertools.islice(loader, 6))
    originals = [sample["id"] for batch in batches(6) for sample in batch]
    ids = [sample["id"] for batch in drawn for sample in batch]
    assert all(i % 2 == 0 for i in ids)
    # What could be used stays where it was, and replacements have the same orientation.
    assert all(new == old for new, old in zip(ids, originals, strict=True) if old % 2 == 0)
    assert all(new % 3 == 0 for new, old in zip(ids, originals, strict=True) if old % 3 == 0)
    assert loader.replaced >= sum(i % 2 for i in originals) > 0
    assert loader.state_dict()["replaced"] == loader.replaced
    again = batches(6, mapper=no_odd_ids)
    assert drawn == again


def test_replacements_are_logged_in_powers_of_two(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("roca_nocs"), "propagate", True)
    loader = TrainLoader(records(2), draw, total_batch_size=1, seed=0)
    for count in (1, 0, 1, 1, 2, 1):
        loader._count_replaced(count)
    counts = [record.args[0] for record in caplog.records if "returned None" in record.msg]
    assert counts == [1, 2, 5]


def test_mapper_that_gives_nothing() -> None:
    with pytest.raises(ValueError, match=r"returned None for 20 records in a row.*record \d"):
        batches(1, mapper=nothing)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_error_in_the_mapper_names_the_record(num_workers: int) -> None:
    with pytest.raises(OSError, match="truncated") as caught:
        batches(1, mapper=broken, num_workers=num_workers)
    text = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    first = next(IndexStream(10, 4, 5, groups=[int(i % 3 > 0) for i in range(10)]).batches())[0]
    assert f"while mapping record {first} (file_name '{first}.png')" in text


def test_missing_size_is_named() -> None:
    dataset = [{"file_name": "a.png", "width": 3}]
    with pytest.raises(ValueError, match=r"record 0 \(file_name 'a.png'\) has no height"):
        batches(1, dataset=dataset)
    assert batches(1, dataset=[{"id": 7}], aspect_ratio_grouping=False)[0][0]["id"] == 7


def test_batch_size_must_fit_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="multiple of the 3 processes, got 4"):
        batches(1)


def test_other_data_set_is_reported(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("roca_nocs"), "propagate", True)
    state = build_train_loader(records(10), mapper=draw, total_batch_size=4, seed=5).state_dict()
    other = build_train_loader(records(9), mapper=draw, total_batch_size=4, seed=5)
    other.load_state_dict(state)
    assert "num_records was 10 when the checkpoint was written and is 9 now" in caplog.text


def double_odd_ids(records: list[dict[str, Any]]) -> list[float]:
    return [1 + record["id"] % 2 for record in records]


def test_repeat_factors_of_a_function() -> None:
    loaded = batches(15, repeat_factors=double_odd_ids, aspect_ratio_grouping=False)
    visits = np.bincount([sample["id"] for batch in loaded for sample in batch])
    # Four passes of 15 samples each.
    assert visits.tolist() == [4, 8] * 5
    with pytest.raises(ValueError, match="exclude each other"):
        batches(1, repeat_factors=double_odd_ids, repeat_threshold=0.1)
