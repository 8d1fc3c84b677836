"""The list of datasets that have a name. Registering opens no file.

Everything lies below ``$DETECTRON2_DATASETS`` (default ``datasets``); ``datasets/README.md`` shows
the folder trees. To add a dataset in an existing format, add an entry here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..coco_json import DatasetError
from ..synthetic.manifest import check_dataset
from ..synthetic.presets import KINDS, PRESETS, folder_name
from . import a2d2, bev_clips, habitat, kitti, nocs, nocs_coco, omni3d, scan2cad

ROOT_VARIABLE = "DETECTRON2_DATASETS"

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class BuiltinDataset:
    """A named dataset.

    Attributes:
        name: as in ``DatasetCatalog.get(name)``.
        folder: its folder below the dataset root.
        load: reads it, given that folder.
        classes: names of the classes by contiguous id.
        first_id: category id of the first class in the annotation file; ``None``: ids are those of
            the file, and become known when it is read.
        json_file: annotation file relative to the folder, also for ``COCOEvaluator``; ``None`` if
            there is none, the evaluator then makes one.
        image_root: folder of the image names in it, relative to the folder.
        command: that makes an embedded dataset, whose manifest tells whether it is complete;
            ``None`` for a published one.
        evaluator_type: ``"coco"``, ``"kitti"``, ``"omni3d"`` or ``"bev"``, for tools that choose by
            it.
        extra: further metadata; values of type ``Path`` are relative to the folder.
    """

    name: str
    folder: str
    load: Callable[[Path], Records]
    classes: tuple[str, ...]
    first_id: int | None
    json_file: str | None
    image_root: str
    command: str | None
    evaluator_type: str = "coco"
    extra: dict[str, Any] = field(default_factory=dict)


def dataset_root() -> Path:
    """``$DETECTRON2_DATASETS``, default ``datasets`` in the current folder."""
    return Path(os.environ.get(ROOT_VARIABLE, "datasets")).expanduser()


def builtin_datasets() -> list[BuiltinDataset]:
    """All named datasets: the embedded presets and the published ones."""
    datasets = []
    for preset in PRESETS:
        for kind in KINDS:
            prefix = folder_name(kind, preset)
            command = prepare_command(kind, preset)
            make = {
                "rooms": _rooms,
                "tabletop": _tabletops,
                "street": _streets,
                "traffic": _traffic,
            }[kind]
            datasets += make(prefix, command)
    datasets += [
        _scan2cad(f"scan2cad_{split}", "scan2cad", split, split, None) for split in ("train", "val")
    ]
    for dataset, split in NOCS_SPLITS:
        name = f"nocs_{dataset}_{split}"
        datasets.append(_nocs(name, "nocs", dataset, split, None))
        datasets.append(
            _nocs(
                f"{name}_spd", "nocs", dataset, split, None, labelled_only=True, mug_recenter=True
            )
        )
    datasets += [_nocs_coco(split) for split in ("train", "val")]
    datasets += [_habitat(split) for split in ("train", "val")]
    datasets += [
        _kitti(f"kitti_{split}", "kitti", split, None)
        for split in ("train", "val", "trainval", "test")
    ]
    datasets += [_a2d2(split) for split in ("train", "val")]
    datasets += [
        _omni3d_published(name, split, *variant)
        for name, classes in omni3d.DATASETS.items()
        for split in ("train", "val", "test")
        for variant in (("omni3d", classes), ("omni3d_all", omni3d.ALL_CLASSES))
    ]
    datasets += [
        _bev_clips(folder, split, None)
        for folder in ("nuscenes_bev", "lyft_bev")
        for split in ("train", "val")
    ]
    return datasets


NOCS_SPLITS = (("camera", "train"), ("camera", "val"), ("real", "train"), ("real", "test"))


def prepare_command(kind: str, preset: str) -> str:
    """The command that makes an embedded dataset."""
    return f"python datasets/prepare_embedded.py --kind {kind} --preset {preset}"


def _rooms(prefix: str, command: str) -> list[BuiltinDataset]:
    # The models of val_seen are those of train.
    splits = {"train": "train", "val": "val", "val_seen": "train"}
    return [
        _scan2cad(f"{prefix}_{split}", prefix, split, cad_split, command)
        for split, cad_split in splits.items()
    ]


def _tabletops(prefix: str, command: str) -> list[BuiltinDataset]:
    names = {"camera": prefix, "real": f"{prefix}_real"}
    return [
        _nocs(f"{names[dataset]}_{split}", prefix, dataset, split, command)
        for dataset, split in NOCS_SPLITS
    ]


def _streets(prefix: str, command: str) -> list[BuiltinDataset]:
    splits = ("train", "val")
    return [
        *(_kitti(f"{prefix}_{split}", prefix, split, command) for split in splits),
        *(
            _omni3d(
                f"{prefix}_omni3d_{split}",
                prefix,
                f"Omni3D/street_{split}.json",
                tuple(name.lower() for name in kitti.CLASSES),
                is_train=split == "train",
                image_root="",
                command=command,
            )
            for split in splits
        ),
    ]


def _traffic(prefix: str, command: str) -> list[BuiltinDataset]:
    return [_bev_clips(prefix, split, command) for split in ("train", "val", "test")]


def _bev_clips(folder: str, split: str, command: str | None) -> BuiltinDataset:
    return BuiltinDataset(
        name=f"{folder}_{split}",
        folder=folder,
        load=partial(bev_clips.load_bev_clips, split=split),
        classes=bev_clips.CLASSES,
        first_id=0,
        json_file=None,
        image_root="clips",
        command=command,
        evaluator_type="bev",
    )


def _scan2cad(
    name: str, folder: str, split: str, cad_split: str, command: str | None
) -> BuiltinDataset:
    json_file = f"Dataset/scan2cad_instances_{split}.json"
    extra: dict[str, Any] = {
        "rendering_root": Path("Rendering"),
        "cad_folder": Path("Dataset"),
        "cad_split": cad_split,
    }
    if split != "train":
        extra["scenes_file"] = Path(f"Dataset/scan2cad_{split}_scenes.json")
    return BuiltinDataset(
        name=name,
        folder=folder,
        load=partial(_load_scan2cad, json_file),
        classes=scan2cad.CLASSES,
        first_id=0,
        json_file=json_file,
        image_root="Images",
        command=command,
        extra=extra,
    )


def _load_scan2cad(json_file: str, folder: Path) -> Records:
    return scan2cad.load_scan2cad(folder / json_file, folder / "Images", folder / "Rendering")


def _nocs(
    name: str, folder: str, dataset: str, split: str, command: str | None, **options: bool
) -> BuiltinDataset:
    return BuiltinDataset(
        name=name,
        folder=folder,
        load=partial(nocs.load_nocs, dataset=dataset, split=split, **options),
        classes=nocs.CLASSES,
        first_id=1,
        # The index lists all objects, so it does not belong to a part of them.
        json_file=None if options else nocs.nocs_index_file("", dataset, split).as_posix(),
        image_root="",
        command=command,
        extra={
            "model_root": Path("obj_models"),
            "model_split": split,
            "symmetries": nocs.SYMMETRIES,
            "handle_class": nocs.HANDLE_CLASS,
        },
    )


def _nocs_coco(split: str) -> BuiltinDataset:
    return BuiltinDataset(
        name=f"nocs_coco_{split}",
        folder="coco",
        load=partial(nocs_coco.load_nocs_coco, split=split),
        classes=nocs.CLASSES,
        first_id=1,
        json_file=None,
        image_root=f"{split}2017",
        command=None,
        extra={"symmetries": nocs.SYMMETRIES},
    )


def _habitat(split: str) -> BuiltinDataset:
    return BuiltinDataset(
        name=f"habitat_{split}",
        folder="habitat",
        load=partial(habitat.load_habitat, split=split),
        classes=habitat.CLASSES,
        first_id=1,
        json_file=None,
        image_root=split,
        command=None,
        extra={"symmetries": {}},
    )


def _kitti(name: str, folder: str, split: str, command: str | None) -> BuiltinDataset:
    return BuiltinDataset(
        name=name,
        folder=folder,
        load=partial(kitti.load_kitti, split=split),
        classes=kitti.CLASSES,
        first_id=0,
        json_file=None,
        image_root="testing/image_2" if split == "test" else "training/image_2",
        command=command,
        evaluator_type="kitti",
    )


def _a2d2(split: str) -> BuiltinDataset:
    return BuiltinDataset(
        name=f"a2d2_{split}",
        folder="a2d2",
        load=partial(a2d2.load_a2d2, split=split),
        classes=a2d2.CLASSES,
        first_id=0,
        json_file=None,
        image_root="camera_lidar_semantic_bboxes",
        command=None,
        evaluator_type="omni3d",
    )


def _omni3d_published(
    dataset: str, split: str, prefix: str, classes: tuple[str, ...]
) -> BuiltinDataset:
    return _omni3d(
        f"{prefix}_{dataset.lower()}_{split}",
        "Omni3D",
        f"{dataset}_{split}.json",
        classes,
        # Trainings take val too, as the published ones did.
        is_train=split != "test",
        # The files lie in a folder beside the images of the datasets that they annotate.
        image_root="..",
        extra={"exhaustive": dataset not in omni3d.NOT_EXHAUSTIVE},
    )


def _omni3d(
    name: str,
    folder: str,
    json_file: str,
    classes: tuple[str, ...],
    *,
    is_train: bool,
    image_root: str,
    command: str | None = None,
    extra: dict[str, Any] | None = None,
) -> BuiltinDataset:
    def load(folder: Path) -> Records:
        return omni3d.load_omni3d(
            folder / json_file,
            os.path.normpath(folder / image_root),
            is_train=is_train,
            classes=classes,
            dataset_name=name,
        )

    return BuiltinDataset(
        name=name,
        folder=folder,
        load=load,
        classes=classes,
        first_id=None,
        json_file=None,
        image_root=image_root,
        command=command,
        evaluator_type="omni3d",
        extra=extra or {},
    )


def load_builtin(dataset: BuiltinDataset, root: Path) -> Records:
    """Read a named dataset below a root.

    Raises:
        DatasetError: its folder is missing (says which, where and what to do), incomplete, changed
            or damaged.
    """
    folder = root / dataset.folder
    if not folder.is_dir():
        value = os.environ.get(ROOT_VARIABLE)
        advice = (
            f"Make it with: {dataset.command}"
            if dataset.command
            else "It has to be obtained from its authors: see datasets/README.md."
        )
        setting = f"${ROOT_VARIABLE} is {'not set' if value is None else repr(value)}"
        raise DatasetError(
            f"Dataset '{dataset.name}' needs the folder {folder.absolute()}, which does not exist "
            f"({setting}). {advice}"
        )
    if dataset.command:
        check_dataset(folder, dataset.command)
    return dataset.load(folder)


def register_builtin(root: Path | None = None) -> None:
    """Register every named dataset that is not registered yet.

    Args:
        root: folder of the datasets, default :func:`dataset_root`.
    """
    root = dataset_root() if root is None else Path(root)
    registered = set(DatasetCatalog.list())
    for dataset in builtin_datasets():
        if dataset.name in registered:
            continue
        DatasetCatalog.register(dataset.name, partial(load_builtin, dataset, root))
        folder = root / dataset.folder
        extra = {
            key: str(folder / value) if isinstance(value, Path) else value
            for key, value in dataset.extra.items()
        }
        if dataset.json_file is not None:
            extra["json_file"] = str(folder / dataset.json_file)
        if dataset.first_id is not None:
            extra["thing_dataset_id_to_contiguous_id"] = {
                dataset.first_id + index: index for index in range(len(dataset.classes))
            }
        MetadataCatalog.get(dataset.name).set(
            thing_classes=list(dataset.classes),
            image_root=str(folder / dataset.image_root),
            evaluator_type=dataset.evaluator_type,
            **extra,
        )
