"""The CAD models that a dataset refers to: meshes, points, voxels, class, symmetry.

Stored as ``<stem>.json`` (one record per model) and ``<stem>.npz`` (arrays joined over the models,
with offsets). The pickles that ROCA publishes (``scan2cad_<split>_cads.pkl``,
``points_<split>.pkl``, ``<split>_grids_32.pkl``) are read through the restricted unpickler.

Models are in their own frame: y up, as ShapeNetCore v2 has them; the voxel grid has 32 cells of
1/32 along each axis, cell 16 centred at the origin.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from trimesh.voxel.creation import voxelize_subdivide

from .coco_json import DatasetError, get_field, read_json
from .restricted_pickle import load_restricted_pickle

GRID_SIZE = 32
POINTS_PER_MODEL = 1024

CadKey = tuple[str, str]
"""(ShapeNet synset, model id), e.g. ``("03001627", "chair_v03")``."""


@dataclass(frozen=True)
class CadEntry:
    """One model of a catalogue.

    Attributes:
        catalog_id: ShapeNet synset, e.g. ``"03001627"``.
        model_id: name within the synset.
        category_id: contiguous class index of the dataset.
        symmetry: ``"__SYM_NONE"``, ``"__SYM_ROTATE_UP_2"``, ``..._4`` or ``..._INF`` (about +y).
        vertices: (V, 3) float32.
        faces: (F, 3) int64.
        points: (P, 3) float32 on the surface; no rows where the source has none.
        voxels: (K, 3) int32, occupied cells as (z, y, x); no rows where the source has none.
    """

    catalog_id: str
    model_id: str
    category_id: int
    symmetry: str
    vertices: np.ndarray
    faces: np.ndarray
    points: np.ndarray
    voxels: np.ndarray

    @property
    def key(self) -> CadKey:
        """(synset, model id)."""
        return self.catalog_id, self.model_id


def occupied_voxels(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Cells of the 32^3 grid that a surface passes through.

    The same cells as trimesh's ``local_voxelize(mesh, 0, 1/32, 16, fill=False)`` cropped to 32^3
    (the published grids), without the spatial index that function needs.

    Args:
        vertices: (V, 3), model frame.
        faces: (F, 3) vertex indices.

    Returns:
        (K, 3) int32, unique (z, y, x) in ascending order.
    """
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    grid = voxelize_subdivide(mesh, 1 / GRID_SIZE)
    origin = np.round(grid.transform[:3, 3] * GRID_SIZE).astype(np.int64)
    cells = grid.sparse_indices + origin + GRID_SIZE // 2
    inside = ((cells >= 0) & (cells < GRID_SIZE)).all(axis=1)
    return np.unique(cells[inside, ::-1], axis=0).astype(np.int32)


def surface_points(
    vertices: np.ndarray, faces: np.ndarray, seed: int, count: int = POINTS_PER_MODEL
) -> np.ndarray:
    """Points drawn evenly from a surface.

    Args:
        vertices: (V, 3).
        faces: (F, 3) vertex indices.
        seed: of the draw.
        count: number of points P.

    Returns:
        (P, 3) float32.
    """
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    points, _ = trimesh.sample.sample_surface(mesh, count, seed=seed)
    return np.asarray(points, dtype=np.float32)


class CadCatalog:
    """CAD models in a fixed order, found by index, by (synset, model id) or by class.

    Args:
        entries: the models; their keys must be unique.

    Attributes:
        entries: the models.
        category_ids: (N,) int64.
        symmetries: N symmetry tags.
    """

    def __init__(self, entries: Sequence[CadEntry]) -> None:
        self.entries = tuple(entries)
        self.category_ids = np.array([entry.category_id for entry in self.entries], np.int64)
        self.symmetries = tuple(entry.symmetry for entry in self.entries)
        self._index = {entry.key: index for index, entry in enumerate(self.entries)}
        if len(self._index) != len(self.entries):
            keys = [entry.key for entry in self.entries]
            repeated = sorted({key for key in keys if keys.count(key) > 1})
            raise ValueError(f"CAD models occur twice in the catalogue: {repeated}.")

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: CadKey) -> bool:
        return key in self._index

    def index(self, catalog_id: str, model_id: str) -> int:
        """Index of a model.

        Raises:
            KeyError: there is no such model.
        """
        try:
            return self._index[catalog_id, model_id]
        except KeyError:
            same = [entry.model_id for entry in self.entries if entry.catalog_id == catalog_id]
            raise KeyError(
                f"No CAD model {catalog_id}/{model_id} among {len(self)} models; the catalogue has "
                f"{len(same)} of this synset{': ' + ', '.join(same[:12]) if same else ''}."
            ) from None

    def indices_of_category(self, category_id: int) -> np.ndarray:
        """(M,) int64: the models of a class, ascending."""
        return np.flatnonzero(self.category_ids == category_id)

    def points(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Surface points of the given (default: all) models: (M, P, 3) float32.

        Raises:
            ValueError: a model has none, or another number than the first.
        """
        chosen = range(len(self)) if indices is None else indices
        counts = {self.entries[int(index)].points.shape[0] for index in chosen}
        if len(counts) > 1 or 0 in counts:
            raise ValueError(
                f"The CAD models have {sorted(counts)} surface points; all need the same number."
            )
        if not counts:
            return np.zeros((0, 0, 3), np.float32)
        return np.stack([self.entries[int(index)].points for index in chosen])

    def occupancy(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Voxel grids of the given (default: all) models: (M, 32, 32, 32) bool, axes z, y, x."""
        chosen = range(len(self)) if indices is None else indices
        grids = np.zeros((len(chosen), GRID_SIZE, GRID_SIZE, GRID_SIZE), dtype=bool)
        for row, index in enumerate(chosen):
            z, y, x = self.entries[int(index)].voxels.T
            grids[row, z, y, x] = True
        return grids

    def save(self, stem: str | os.PathLike[str]) -> None:
        """Write ``<stem>.json`` and ``<stem>.npz``; the bytes depend on the content only."""
        for suffix, content in self.to_bytes().items():
            Path(f"{os.fspath(stem)}{suffix}").write_bytes(content)

    def to_bytes(self) -> dict[str, bytes]:
        """Contents of the two files, by suffix."""
        arrays = {}
        for name, dtype in _ARRAYS.items():
            parts = [np.asarray(getattr(entry, name), dtype) for entry in self.entries]
            arrays[name] = np.concatenate(parts) if parts else np.zeros((0, 3), dtype)
            arrays[f"{name}_count"] = np.array([len(part) for part in parts], np.int64)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        models = [
            {
                "catid_cad": entry.catalog_id,
                "id_cad": entry.model_id,
                "category_id": int(entry.category_id),
                "sym": entry.symmetry,
            }
            for entry in self.entries
        ]
        text = json.dumps({"models": models}, indent=0) + "\n"
        return {".json": text.encode("utf-8"), ".npz": buffer.getvalue()}

    @classmethod
    def load(cls, stem: str | os.PathLike[str]) -> CadCatalog:
        """Read ``<stem>.json`` and ``<stem>.npz``.

        Raises:
            DatasetError: a file is missing or damaged.
        """
        json_file, npz_file = (Path(f"{os.fspath(stem)}{suffix}") for suffix in (".json", ".npz"))
        models = get_field(read_json(json_file), "models", str(json_file))
        try:
            with np.load(npz_file, allow_pickle=False) as arrays:
                parts = {
                    name: np.split(arrays[name], np.cumsum(arrays[f"{name}_count"])[:-1])
                    for name in _ARRAYS
                    if len(models)
                }
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DatasetError(f"{npz_file}: missing or damaged ({error}).") from error
        if any(len(values) != len(models) for values in parts.values()):
            raise DatasetError(f"{npz_file} and {json_file} hold different numbers of models.")
        return cls(
            [
                _entry(
                    model,
                    f"{json_file}: models[{index}]",
                    **{name: values[index] for name, values in parts.items()},
                )
                for index, model in enumerate(models)
            ]
        )

    @classmethod
    def load_pickles(
        cls,
        cads_file: str | os.PathLike[str],
        points_file: str | os.PathLike[str] | None = None,
        grids_file: str | os.PathLike[str] | None = None,
    ) -> CadCatalog:
        """Read the published pickles; models are ordered by class, synset and id.

        Args:
            cads_file: ``scan2cad_<split>_cads.pkl``.
            points_file: ``points_<split>.pkl``.
            grids_file: ``<split>_grids_32.pkl``.

        Raises:
            DatasetError: a record lacks a field.
            pickle.UnpicklingError: a file holds something else than arrays and containers.
        """
        records = load_restricted_pickle(cads_file)
        points: Mapping[CadKey, np.ndarray] = {}
        if points_file is not None:
            points = {
                (record["catid_cad"], record["id_cad"]): record["points"]
                for record in load_restricted_pickle(points_file)
            }
        grids = load_restricted_pickle(grids_file) if grids_file is not None else {}
        empty = np.zeros((0, 3))
        entries = []
        for index, record in enumerate(records):
            where = f"{cads_file}: record {index}"
            key = (get_field(record, "catid_cad", where), get_field(record, "id_cad", where))
            entries.append(
                _entry(
                    record,
                    where,
                    vertices=get_field(record, "verts", where),
                    faces=get_field(record, "faces", where),
                    points=points.get(key, empty),
                    voxels=grids.get(key, empty),
                )
            )
        return cls(sorted(entries, key=lambda entry: (entry.category_id, entry.key)))


_ARRAYS = {
    "vertices": np.float32,
    "faces": np.int64,
    "points": np.float32,
    "voxels": np.int32,
}


def _entry(record: Mapping[str, Any], where: str, **arrays: Any) -> CadEntry:
    converted = {name: np.asarray(arrays[name], dtype) for name, dtype in _ARRAYS.items()}
    for name, array in converted.items():
        if array.ndim != 2 or array.shape[1] != 3:
            raise DatasetError(f"{where}: '{name}' has the shape {array.shape}; expected (N, 3).")
    return CadEntry(
        catalog_id=get_field(record, "catid_cad", where),
        model_id=get_field(record, "id_cad", where),
        category_id=int(get_field(record, "category_id", where)),
        symmetry=get_field(record, "sym", where),
        **converted,
    )


def load_cad_catalog(dataset_folder: str | os.PathLike[str], split: str) -> CadCatalog:
    """The CAD models of a split, from our files where they exist, else from the pickles.

    Args:
        dataset_folder: folder with ``scan2cad_<split>_cads.*``.
        split: e.g. ``"train"``.

    Raises:
        DatasetError: there is neither.
    """
    folder = Path(dataset_folder)
    stem = folder / f"scan2cad_{split}_cads"
    if Path(f"{stem}.json").is_file():
        return CadCatalog.load(stem)
    cads_file = Path(f"{stem}.pkl")
    if not cads_file.is_file():
        raise DatasetError(f"There is no CAD catalogue {stem}.json or {cads_file}.")
    points_file = folder / f"points_{split}.pkl"
    grids_file = folder / f"{split}_grids_{GRID_SIZE}.pkl"
    return CadCatalog.load_pickles(
        cads_file,
        points_file if points_file.is_file() else None,
        grids_file if grids_file.is_file() else None,
    )


def load_scene_candidates(path: str | os.PathLike[str]) -> dict[str, tuple[CadKey, ...]]:
    """The CAD models annotated in each scene, i.e. the candidates of the Scan2CAD protocol.

    Args:
        path: ``scan2cad_val_scenes.json``.

    Returns:
        Scene id -> its distinct (synset, model id), sorted.
    """
    scenes = read_json(path)
    candidates = {}
    for scene, models in scenes.items():
        where = f"{path}: scene {scene}"
        keys = {(get_field(m, "catid_cad", where), get_field(m, "id_cad", where)) for m in models}
        candidates[scene] = tuple(sorted(keys))
    return candidates
