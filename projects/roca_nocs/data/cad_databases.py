"""From the CAD catalogues on disk to what retrieval searches in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.data import MetadataCatalog

from roca_nocs.data.cad_catalog import (
    CadCatalog,
    CadEntry,
    CadKey,
    load_cad_catalog,
    load_scene_candidates,
)
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.geometry.symmetry import symmetry_ids
from roca_nocs.structures.cad_database import CadDatabase


@dataclass(frozen=True)
class CatalogSource:
    """A catalogue on disk: ``<folder>/scan2cad_<split>_cads.*`` or our files ``<folder>/<stem>.*``.

    Attributes:
        folder: of the files.
        split: of a dataset in ROCA's layout; ``None`` where ``stem`` is given.
        stem: file name without suffix.
    """

    folder: str
    split: str | None = None
    stem: str | None = None

    def load(self) -> CadCatalog:
        """Read it.

        Raises:
            DatasetError: it is missing or damaged.
        """
        if self.split is not None:
            return load_cad_catalog(self.folder, self.split)
        return CadCatalog.load(Path(self.folder, str(self.stem)))

    def __str__(self) -> str:
        name = self.stem if self.split is None else f"scan2cad_{self.split}_cads"
        return os.path.join(self.folder, str(name))


def catalog_sources(datasets: str | Sequence[str]) -> tuple[CatalogSource, ...]:
    """The catalogues of registered datasets, each once.

    Args:
        datasets: one name or several.

    Raises:
        DatasetError: a dataset is not registered with ``cad_folder`` and ``cad_split``.
    """
    names = [datasets] if isinstance(datasets, str) else list(datasets)
    sources = {}
    for name in names:
        metadata = MetadataCatalog.get(name)
        folder, split = metadata.get("cad_folder"), metadata.get("cad_split")
        if not (folder and split):
            raise DatasetError(
                f"Dataset '{name}' names no CAD catalogue: its metadata has no cad_folder and "
                "cad_split. Is it a dataset in ROCA's layout, and registered?"
            )
        sources[CatalogSource(str(folder), split=split)] = None
    return tuple(sources)


def stored_sources(path: str | os.PathLike[str]) -> tuple[CatalogSource, ...]:
    """The catalogues that a path names.

    Args:
        path: ``<stem>``, ``<stem>.json`` or ``<stem>.npz`` of a catalogue in our format, or a
            folder with catalogues in ours or the published one (all of them are meant).

    Raises:
        DatasetError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        names = {
            file.name.removeprefix("scan2cad_").removesuffix(f"_cads{suffix}")
            for suffix in (".json", ".pkl")
            for file in path.glob(f"scan2cad_*_cads{suffix}")
        }
        found = [CatalogSource(str(path), split=split) for split in sorted(names)]
        found += [
            CatalogSource(str(path), stem=file.stem)
            for file in sorted(path.glob("*.npz"))
            if file.with_suffix(".json").is_file() and not file.name.endswith("_cads.npz")
        ]
        if not found:
            raise DatasetError(
                f"{path} holds no CAD catalogue: no scan2cad_<split>_cads.json or .pkl, and no "
                "pair <stem>.json and <stem>.npz."
            )
        return tuple(found)
    stem = path.with_suffix("") if path.suffix in (".json", ".npz") else path
    if not Path(f"{stem}.json").is_file():
        raise DatasetError(f"There is no CAD catalogue {stem}.json, and no folder {path}.")
    return (CatalogSource(str(stem.parent), stem=stem.name),)


def load_sources(sources: Iterable[CatalogSource]) -> CadCatalog:
    """Read catalogues and join them, see :func:`merge_catalogs`."""
    return merge_catalogs([source.load() for source in sources])


def merge_catalogs(catalogs: Sequence[CadCatalog]) -> CadCatalog:
    """All models in one catalogue, in the order given; a model in several is taken from the first.

    Every model keeps its own points and voxels.
    """
    entries: dict[CadKey, CadEntry] = {}
    for catalog in catalogs:
        for entry in catalog.entries:
            entries.setdefault(entry.key, entry)
    return CadCatalog(list(entries.values()))


def check_shapes(catalog: CadCatalog, source: str, *, voxels: bool, points: bool) -> None:
    """Check that every model has the shapes that are needed.

    Raises:
        DatasetError: names the source and the first model without, and counts them.
    """
    for name, needed in (("voxels", voxels), ("points", points)):
        if not needed:
            continue
        empty = [entry.key for entry in catalog.entries if len(getattr(entry, name)) == 0]
        if empty:
            published = "<split>_grids_32.pkl" if name == "voxels" else "points_<split>.pkl"
            raise DatasetError(
                f"{source}: {len(empty)} of {len(catalog)} CAD models have no {name}, e.g. "
                f"{'/'.join(empty[0])}. Published catalogues have them in {published}."
            )


def build_cad_database(datasets: str | Sequence[str], *, voxels: bool, points: bool) -> CadDatabase:
    """The models of registered datasets, with the candidates of each scene where they are known.

    Args:
        datasets: one name, or several whose models are joined.
        voxels: include occupancy grids.
        points: include surface points.

    Raises:
        DatasetError: a dataset has no catalogue, a file is missing or damaged, a model has no such
            shape, or a scene names a model that the catalogues lack.
    """
    sources = catalog_sources(datasets)
    candidates: dict[str, tuple[CadKey, ...]] = {}
    for name in [datasets] if isinstance(datasets, str) else datasets:
        scenes_file = MetadataCatalog.get(name).get("scenes_file")
        if scenes_file:
            candidates |= load_scene_candidates(scenes_file)
    source = ", ".join(map(str, sources))
    return make_database(load_sources(sources), source, candidates, voxels=voxels, points=points)


def read_cad_database(path: str | os.PathLike[str], *, voxels: bool, points: bool) -> CadDatabase:
    """The models of catalogues on disk, without scenes: every image may show any of them.

    Args:
        path: see :func:`stored_sources`.
        voxels, points: see :func:`build_cad_database`.

    Raises:
        DatasetError: there is no catalogue, it is damaged, or a model has no such shape.
    """
    catalog = load_sources(stored_sources(path))
    return make_database(catalog, os.fspath(path), {}, voxels=voxels, points=points)


def make_database(
    catalog: CadCatalog,
    source: str,
    candidates: Mapping[str, Sequence[CadKey]],
    *,
    voxels: bool,
    points: bool,
) -> CadDatabase:
    """A catalogue as tensors.

    Args:
        catalog: the models.
        source: where they come from, for messages.
        candidates: scene id -> the models that its objects may be.
        voxels, points: see :func:`build_cad_database`.

    Raises:
        DatasetError: see :func:`build_cad_database`.
    """
    check_shapes(catalog, source, voxels=voxels, points=points)
    scenes = {}
    for scene, keys in candidates.items():
        missing = [key for key in keys if key not in catalog]
        if missing:
            raise DatasetError(
                f"Scene {scene} names the CAD model {'/'.join(missing[0])} "
                f"({len(missing)} of its {len(keys)} are missing), which {source} lacks."
            )
        rows = sorted(catalog.index(*key) for key in keys)
        scenes[scene] = torch.tensor(rows, dtype=torch.int64)
    return CadDatabase(
        keys=tuple(entry.key for entry in catalog.entries),
        category_ids=torch.from_numpy(catalog.category_ids),
        symmetries=symmetry_ids(catalog.symmetries),
        voxels=torch.from_numpy(catalog.occupancy()) if voxels else None,
        points=torch.from_numpy(catalog.points()) if points else None,
        scenes=scenes,
    )
