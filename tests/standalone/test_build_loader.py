"""Loaders: batches, order, workers, seeds."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    ToIterableDataset,
    build_batch_data_loader,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.build import (
    trivial_batch_collator,
    worker_init_reset_seed,
)
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils import data

NAME = "test_build_loader"

# Machines with fewer cores than workers.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(autouse=True)
def clean_catalogs():
    yield
    DatasetCatalog.pop(NAME, None)


def identity(element):
    return element


def random_number(element):
    return element["n"], np.random.randint(10**9), torch.randint(10**9, ()).item()


def records(count=12):
    """Alternately two wide images and a high one."""
    return [
        {"n": i, "width": 2 if i % 3 else 1, "height": 1 if i % 3 else 2, "annotations": []}
        for i in range(count)
    ]


def numbers(batches):
    return [[element["n"] for element in batch] for batch in batches]


def train_batches(count, **settings):
    arguments = {
        "mapper": identity,
        "sampler": TrainingSampler(12, seed=3),
        "total_batch_size": 4,
        "aspect_ratio_grouping": False,
        **settings,
    }
    loader = build_detection_train_loader(records(), **arguments)
    return list(itertools.islice(loader, count))


def test_train_loader_is_endless_and_follows_the_sampler():
    stream = list(itertools.islice(TrainingSampler(12, seed=3), 40))
    expected = [stream[i : i + 4] for i in range(0, 40, 4)]
    assert numbers(train_batches(10)) == expected


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_batches_do_not_depend_on_the_number_of_workers(workers):
    assert numbers(train_batches(10, num_workers=workers)) == numbers(train_batches(10))


def test_aspect_ratio_grouping():
    batches = train_batches(20, aspect_ratio_grouping=True)
    for batch in batches:
        assert len(batch) == 4
        assert len({element["width"] > element["height"] for element in batch}) == 1


@pytest.mark.standalone_only
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_grouped_batches_do_not_depend_on_the_number_of_workers(workers):
    expected = numbers(train_batches(10, aspect_ratio_grouping=True))
    result = train_batches(10, aspect_ratio_grouping=True, num_workers=workers)
    assert numbers(result) == expected


def test_default_sampler_shuffles_all_elements():
    loader = build_detection_train_loader(
        records(), mapper=identity, total_batch_size=4, aspect_ratio_grouping=False
    )
    epoch = list(itertools.chain(*numbers(itertools.islice(loader, 3))))
    assert sorted(epoch) == list(range(12))


@pytest.mark.parametrize("grouping", [True, False])
def test_collate_function(grouping):
    batches = train_batches(3, aspect_ratio_grouping=grouping, collate_fn=len)
    assert batches == [4, 4, 4]


def test_mapper_may_be_none_or_skip():
    assert numbers(train_batches(1, mapper=None)) == numbers(train_batches(1))
    batches = train_batches(6, mapper=lambda r: r if r["n"] < 6 else None)
    assert all(n < 6 for batch in numbers(batches) for n in batch)


def test_records_are_not_shared_between_iterations():
    def spoil(element):
        element["annotations"].append(1)
        return element

    batches = train_batches(9, mapper=spoil)
    assert all(element["annotations"] == [1] for batch in batches for element in batch)


def test_worker_seeds_differ_and_repeat():
    def draw(seed):
        torch.manual_seed(seed)
        loader = train_batches(4, mapper=random_number, num_workers=2)
        return [element for batch in loader for element in batch]

    first, again, other = draw(1), draw(1), draw(2)
    assert first == again and first != other
    assert len({numpy_draw for _, numpy_draw, _ in first}) == 16
    assert len({torch_draw for _, _, torch_draw in first}) == 16


def test_worker_seed_comes_from_torch():
    torch.manual_seed(11)
    worker_init_reset_seed(3)
    assert np.random.randint(10**6) == np.random.RandomState(14).randint(10**6)
    assert torch.initial_seed() == 14


def test_loader_seed_argument():
    def draw(seed):
        return train_batches(2, mapper=random_number, num_workers=1, seed=seed)

    assert draw(5) == draw(5) != draw(6)


@pytest.mark.parametrize("workers", [0, 1])
def test_further_arguments_reach_the_loader(workers):
    loader = build_detection_train_loader(
        records(),
        mapper=identity,
        total_batch_size=2,
        aspect_ratio_grouping=False,
        num_workers=workers,
        prefetch_factor=3,
        timeout=5 * workers,
    )
    assert loader.timeout == 5 * workers
    assert loader.prefetch_factor == (3 if workers else None)


@pytest.mark.parametrize(("total", "world"), [(0, 1), (-2, 1), (3, 2)])
def test_total_batch_size_error(monkeypatch, total, world):
    monkeypatch.setattr(comm, "get_world_size", lambda: world)
    monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: world)
    message = rf"Total batch size \({total}\) must be divisible by the number of gpus \({world}\)"
    with pytest.raises(AssertionError, match=message):
        train_batches(1, total_batch_size=total)


def test_total_batch_size_is_divided(monkeypatch):
    monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 2)
    assert len(train_batches(1)[0]) == 2


class Stream(data.IterableDataset):
    def __iter__(self):
        yield from records(100)


def test_iterable_dataset():
    loader = build_detection_train_loader(Stream(), mapper=identity, total_batch_size=2)
    assert numbers(itertools.islice(loader, 2)) == [[1, 2], [0, 3]]
    for build in (build_detection_train_loader, build_detection_test_loader):
        arguments = {"total_batch_size": 2} if build is build_detection_train_loader else {}
        with pytest.raises(AssertionError, match="sampler must be None"):
            build(Stream(), mapper=identity, sampler=InferenceSampler(4), **arguments)


def test_sampler_must_be_a_sampler():
    with pytest.raises(AssertionError, match="Sampler"):
        train_batches(1, sampler=[0, 1, 2])


@pytest.mark.parametrize("count", [24, 23, 17])
@pytest.mark.parametrize("workers", [0, 3])
def test_batch_loader_with_a_finite_sampler(count, workers):
    def batches(**settings):
        loader = build_batch_data_loader(
            DatasetFromList(list(range(count))),
            InferenceSampler(count),
            4,
            num_workers=workers,
            **settings,
        )
        result = list(loader)
        assert len(result) == len(loader)
        return sorted(itertools.chain(*result))

    full = batches()
    assert len(full) == len(set(full)) == count // 4 * 4
    assert batches(drop_last=False) == list(range(count))


def test_grouping_needs_drop_last():
    with pytest.raises(AssertionError, match="incomplete batches"):
        build_batch_data_loader(
            records(), InferenceSampler(12), 4, aspect_ratio_grouping=True, drop_last=False
        )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("batch_size", "count"), [(1, 7), (3, 3), (10, 1)])
def test_test_loader(workers, batch_size, count):
    loader = build_detection_test_loader(
        records(7), mapper=identity, batch_size=batch_size, num_workers=workers
    )
    batches = list(loader)
    assert len(loader) == len(batches) == count
    assert list(itertools.chain(*numbers(batches))) == list(range(7))


def test_test_loader_options():
    loader = build_detection_test_loader(
        dataset=records(4), mapper=None, sampler=InferenceSampler(2), collate_fn=len, batch_size=2
    )
    assert list(loader) == [2]
    dataset = ToIterableDataset(DatasetFromList(records(5)), InferenceSampler(5))
    loader = build_detection_test_loader(dataset, mapper=identity, num_workers=2)
    assert sorted(itertools.chain(*numbers(loader))) == list(range(5))


def test_trivial_collator():
    batch = [1, 2]
    assert trivial_batch_collator(batch) is batch


def annotated(*categories, **changes):
    return {
        "file_name": "a.jpg",
        "annotations": [{"category_id": c, "iscrowd": 0, **changes} for c in categories],
    }


def yacs_config(**settings):
    config = get_cfg()
    config.DATASETS.TRAIN = (NAME,)
    config.DATALOADER.NUM_WORKERS = 0
    config.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    config.SOLVER.IMS_PER_BATCH = 4
    config.merge_from_list([x for pair in settings.items() for x in pair])
    return config


def test_loaders_from_a_yacs_config():
    DatasetCatalog.register(NAME, records)
    config = yacs_config(SEED=3)
    train = build_detection_train_loader(config, mapper=identity, aspect_ratio_grouping=False)
    assert numbers(itertools.islice(train, 3)) == numbers(train_batches(3))
    test = build_detection_test_loader(config, NAME, mapper=identity, batch_size=5)
    assert numbers(test) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


def test_repeat_factor_sampler_from_a_yacs_config():
    # f(0) = 1, f(1) = 1/4, threshold 1: the image with class 1 appears twice an epoch.
    dataset = [{**annotated(0, 1), "n": 1}] + [{**annotated(0), "n": 0}] * 3
    DatasetCatalog.register(NAME, lambda: dataset)
    config = yacs_config(
        **{
            "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
            "DATALOADER.REPEAT_THRESHOLD": 1.0,
            "SOLVER.IMS_PER_BATCH": 5,
        }
    )
    loader = build_detection_train_loader(config, mapper=identity, aspect_ratio_grouping=False)
    assert [sum(batch) for batch in numbers(itertools.islice(loader, 3))] == [2, 2, 2]


def test_unknown_sampler_in_a_yacs_config():
    DatasetCatalog.register(NAME, records)
    config = yacs_config(**{"DATALOADER.SAMPLER_TRAIN": "Nobody"})
    with pytest.raises(ValueError, match="Unknown training sampler: Nobody"):
        build_detection_train_loader(config, mapper=identity)


@pytest.mark.standalone_only
def test_negative_seed_in_a_yacs_config_is_random():
    DatasetCatalog.register(NAME, lambda: records(60))
    loaders = [
        build_detection_train_loader(yacs_config(), mapper=identity, aspect_ratio_grouping=False)
        for _ in range(2)
    ]
    first, second = (numbers(itertools.islice(loader, 5)) for loader in loaders)
    assert first != second


@pytest.mark.standalone_only
def test_yacs_config_with_keypoints_is_refused():
    with pytest.raises(NotImplementedError, match="KEYPOINT_ON"):
        build_detection_train_loader(yacs_config(**{"MODEL.KEYPOINT_ON": True}))


def test_loader_from_a_lazy_config():
    DatasetCatalog.register(NAME, lambda: [annotated(0)] * 3)
    config = LazyCall(build_detection_test_loader)(
        dataset=LazyCall(get_detection_dataset_dicts)(names=NAME, filter_empty=False),
        mapper=None,
        batch_size=2,
    )
    assert [len(batch) for batch in instantiate(config)] == [2, 1]
