"""Data loaders for training and testing."""

import itertools
import logging
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch.utils import data as torchdata

from ..config import configurable
from ..utils.comm import get_world_size
from ..utils.env import seed_all_rng
from ..utils.logger import log_first_n
from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from .dataset_mapper import DatasetMapper
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

__all__ = [
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "filter_images_with_only_crowd_annotations",
    "get_detection_dataset_dicts",
    "print_instances_class_histogram",
    "trivial_batch_collator",
    "worker_init_reset_seed",
]

logger = logging.getLogger(__name__)

Records = list[dict[str, Any]]


def filter_images_with_only_crowd_annotations(dataset_dicts: Records) -> Records:
    """The records that have at least one annotation which is not a crowd."""
    kept = [
        record
        for record in dataset_dicts
        if any(a.get("iscrowd", 0) == 0 for a in record.get("annotations", ()))
    ]
    logger.info(
        "Removed %d images with no usable annotations. %d images left.",
        len(dataset_dicts) - len(kept),
        len(kept),
    )
    return kept


def print_instances_class_histogram(dataset_dicts: Records, class_names: Sequence[str]) -> None:
    """Log how many objects (crowds excluded) each class has.

    Args:
        dataset_dicts: records with `annotations`.
        class_names: names by contiguous class id; another id is an `AssertionError`.
    """
    num_classes = len(class_names)
    counts = np.zeros(num_classes, dtype=np.int64)
    for record in dataset_dicts:
        ids = [a["category_id"] for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
        for category_id in ids:
            assert 0 <= category_id < num_classes, (
                f"Got an invalid category_id={category_id} for a dataset of {num_classes} classes "
                f"(image {record.get('file_name')})"
            )
        counts += np.bincount(np.array(ids, dtype=np.int64), minlength=num_classes)

    cells = list(zip(class_names, counts.tolist(), strict=True))
    if num_classes > 1:
        cells.append(("total", int(counts.sum())))
    columns = min(3, len(cells))
    rows = [itertools.chain(*cells[i : i + columns]) for i in range(0, len(cells), columns)]
    table = tabulate(rows, headers=["category", "#instances"] * columns, tablefmt="pipe")
    log_first_n(
        logging.INFO,
        f"Distribution of instances among all {num_classes} categories:\n{table}",
        key="message",
    )


def _check_records(names: Sequence[str], records: Records) -> None:
    """Check the class ids against the class names, where all data sets have names."""
    if all(MetadataCatalog.get(name).get("thing_classes") is not None for name in names):
        check_metadata_consistency("thing_classes", names)
        print_instances_class_histogram(records, MetadataCatalog.get(names[0]).thing_classes)
    else:
        logger.info("Class ids not checked: not all of %s have thing_classes.", ", ".join(names))


def get_detection_dataset_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> Records | torchdata.Dataset:
    """Load registered data sets and concatenate them.

    Args:
        names: one or several names of `DatasetCatalog`.
        filter_empty: leave out images without annotations or with crowds only (unless no image
            at all has `annotations`).
        min_keypoints: must be 0; keypoints are not supported.
        proposal_files: must be `None`; precomputed proposals are not supported.
        check_consistency: require equal `thing_classes`, check the class ids and log how many
            objects each class has.

    Returns:
        The records; or a torch data set, if that is what was registered.

    Raises:
        KeyError: a name is not registered.
        AssertionError: a data set is empty, nothing is left, or a class id is invalid.
        ValueError: the data sets have different classes.
    """
    if min_keypoints > 0 or proposal_files is not None:
        raise NotImplementedError(
            "Keypoints and precomputed proposals are not supported: leave min_keypoints=0 and "
            "proposal_files=None."
        )
    names = (names,) if isinstance(names, str) else tuple(names)
    assert names, "get_detection_dataset_dicts needs at least one dataset name."
    unknown = [name for name in names if name not in DatasetCatalog]
    if unknown:
        logger.warning(
            "Not registered in the DatasetCatalog: %s. Available datasets are: %s",
            ", ".join(unknown),
            ", ".join(DatasetCatalog.list()),
        )

    loaded = [DatasetCatalog.get(name) for name in names]
    if isinstance(loaded[0], torchdata.Dataset):
        return loaded[0] if len(loaded) == 1 else torchdata.ConcatDataset(loaded)
    for name, records in zip(names, loaded, strict=True):
        assert len(records), f"Dataset '{name}' is empty!"

    records = list(itertools.chain.from_iterable(loaded))
    if any("annotations" in record for record in records):
        if filter_empty:
            records = filter_images_with_only_crowd_annotations(records)
        if check_consistency:
            _check_records(names, records)
    assert records, f"No valid data found in {', '.join(names)}."
    return records


def build_batch_data_loader(
    dataset: torchdata.Dataset,
    sampler: torchdata.Sampler | None,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    drop_last: bool = True,
    prefetch_factor: int | None = 2,
    seed: int | None = None,
    **kwargs: Any,
) -> torchdata.DataLoader | torchdata.IterableDataset:
    """Batches of this process, which are the same for any number of workers.

    Args:
        dataset: map-style or iterable.
        sampler: indices for a map-style data set; `None` for an iterable one.
        total_batch_size: over all processes; divisible by their number.
        aspect_ratio_grouping: see `AspectRatioGroupedDataset`; needs `drop_last`.
        num_workers: worker processes of this process.
        collate_fn: list of elements -> batch; without it the list is the batch.
        drop_last: leave out an incomplete batch.
        prefetch_factor: batches that each worker prepares in advance.
        seed: seed from which the workers' seeds are derived; `None` takes torch's.
        kwargs: further arguments of `torch.utils.data.DataLoader`.
    """
    world_size = get_world_size()
    assert total_batch_size > 0 and total_batch_size % world_size == 0, (
        f"Total batch size ({total_batch_size}) must be divisible by the number of gpus "
        f"({world_size})."
    )
    assert drop_last or not aspect_ratio_grouping, (
        "Aspect ratio grouping will drop incomplete batches: it needs drop_last=True."
    )
    batch_size = total_batch_size // world_size
    logger.info("Making batched data loader with batch_size=%d", batch_size)

    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "sampler must be None if dataset is IterableDataset"
    else:
        # What a worker hands over at once: a single element when batches are made from the
        # merged stream of all workers, a whole batch otherwise.
        chunk_size = 1 if aspect_ratio_grouping else batch_size
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=chunk_size)
    if seed is not None:
        kwargs["generator"] = torch.Generator().manual_seed(seed)
    kwargs.update(
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers > 0 else None,
        worker_init_fn=worker_init_reset_seed,
    )
    if aspect_ratio_grouping:
        elements = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **kwargs)
        batches = AspectRatioGroupedDataset(elements, batch_size)
        return batches if collate_fn is None else MapDataset(batches, collate_fn)
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        drop_last=drop_last,
        collate_fn=collate_fn or trivial_batch_collator,
        **kwargs,
    )


def _reject_unsupported(cfg: Any) -> None:
    if cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS:
        raise NotImplementedError(
            "Keypoints and precomputed proposals are not supported: set MODEL.KEYPOINT_ON and "
            "MODEL.LOAD_PROPOSALS to False."
        )


def _sampler_from_config(cfg: Any, dataset: Any) -> torchdata.Sampler:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    logger.info("Using training sampler %s", name)
    seed = cfg.SEED if cfg.SEED >= 0 else None
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset), seed=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    raise ValueError(
        f"Unknown training sampler: {name}. DATALOADER.SAMPLER_TRAIN can be TrainingSampler or "
        "RepeatFactorTrainingSampler; give others to build_detection_train_loader(sampler=)."
    )


def _train_loader_from_config(
    cfg: Any,
    mapper: Callable[[dict[str, Any]], Any] | None = None,
    *,
    dataset: Any = None,
    sampler: torchdata.Sampler | None = None,
) -> dict[str, Any]:
    _reject_unsupported(cfg)
    if dataset is None:
        dataset = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = _sampler_from_config(cfg, dataset)
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


def _map_elements(dataset: Any, mapper: Callable[[Any], Any] | None) -> torchdata.Dataset:
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return dataset if mapper is None else MapDataset(dataset, mapper)


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: Records | torchdata.Dataset,
    *,
    mapper: Callable[[dict[str, Any]], Any] | None,
    sampler: torchdata.Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    **kwargs: Any,
) -> torchdata.DataLoader | torchdata.IterableDataset:
    """An endless loader; or, called as `(cfg, mapper=None)`, the one that a yacs config describes.

    Args:
        dataset: records, or a map-style or iterable torch data set.
        mapper: record -> element of a batch; `None` leaves the records as they are.
        sampler: indices for a map-style data set; by default a `TrainingSampler`.
        total_batch_size: over all processes; divisible by their number.
        aspect_ratio_grouping: put images of similar aspect ratio into a batch, which needs
            `width` and `height` in the mapped elements.
        num_workers: worker processes of this process.
        collate_fn: list of elements -> batch; without it the list is the batch.
        kwargs: see `build_batch_data_loader`.

    Returns:
        An iterable of lists of mapped elements, `total_batch_size / world size` each.
    """
    dataset = _map_elements(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "sampler must be None if dataset is IterableDataset"
    else:
        sampler = TrainingSampler(len(dataset)) if sampler is None else sampler
        assert isinstance(sampler, torchdata.Sampler), f"Expect a Sampler but got {type(sampler)}"
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _test_loader_from_config(
    cfg: Any,
    dataset_name: str | Sequence[str],
    mapper: Callable[[dict[str, Any]], Any] | None = None,
) -> dict[str, Any]:
    _reject_unsupported(cfg)
    return {
        "dataset": get_detection_dataset_dicts(dataset_name, filter_empty=False),
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: Records | torchdata.Dataset,
    *,
    mapper: Callable[[dict[str, Any]], Any] | None,
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> torchdata.DataLoader:
    """A loader of each element once; or, called as `(cfg, name)`, for a data set and yacs config.

    Args:
        dataset: records, or a map-style or iterable torch data set.
        mapper: record -> element of a batch; `None` leaves the records as they are.
        sampler: indices for a map-style data set; by default an `InferenceSampler`, which gives
            each process its part.
        batch_size: of this process; the last batch may be smaller.
        num_workers: worker processes of this process.
        collate_fn: list of elements -> batch; without it the list is the batch.
    """
    dataset = _map_elements(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "sampler must be None if dataset is IterableDataset"
    elif sampler is None:
        sampler = InferenceSampler(len(dataset))
    return torchdata.DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
    )


def trivial_batch_collator(batch: list[Any]) -> list[Any]:
    """The identity: a batch is the list of its elements."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed all generators of a worker process from its torch seed."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
