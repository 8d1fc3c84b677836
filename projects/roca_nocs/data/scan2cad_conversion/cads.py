"""CAD models of ShapeNetCore v2 to our catalogue."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import trimesh

from ..cad_catalog import CadCatalog, CadEntry, CadKey, occupied_voxels, surface_points
from ..coco_json import DatasetError
from ..synthetic.manifest import FileWriter

NO_CATEGORY = -1
"""Class of the models outside the nine classes: they are drawn, but in no catalogue."""


def cad_stem(key: CadKey) -> str:
    """Where the catalogue of a single model lies, relative to the dataset."""
    return f"Conversion/cads/{key[0]}/{key[1]}"


def read_mesh(shapenet: Path, key: CadKey) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float32 and faces (F, 3) int64 of a model of ShapeNetCore v2.

    Raises:
        DatasetError: the file is missing or damaged, or holds no triangle.
    """
    path = shapenet / key[0] / key[1] / "models" / "model_normalized.obj"
    if not path.is_file():
        raise DatasetError(f"there is no CAD model {path}.")
    try:
        mesh = trimesh.load(path, force="mesh", process=False, skip_materials=True)
        vertices = np.asarray(mesh.vertices, dtype=np.float32)
        faces = np.asarray(mesh.faces, dtype=np.int64)
    except Exception as error:  # trimesh raises whatever its parser runs into
        raise DatasetError(f"{path}: cannot read the mesh ({error!r}).") from error
    if len(faces) == 0 or not np.isfinite(vertices).all():
        raise DatasetError(f"{path}: no triangle, or a vertex that is not finite.")
    return vertices, faces


def convert_cad(
    writer: FileWriter, shapenet: Path, key: CadKey, category_id: int, symmetry: str
) -> None:
    """Write a catalogue of one model.

    Args:
        writer: where it goes.
        shapenet: root of ShapeNetCore v2.
        key: of the model.
        category_id: its class, or ``NO_CATEGORY``: then without points and voxels.
        symmetry: its tag.

    Raises:
        DatasetError: see :func:`read_mesh`.
    """
    vertices, faces = read_mesh(shapenet, key)
    points, voxels = np.zeros((0, 3)), np.zeros((0, 3))
    if category_id != NO_CATEGORY:
        # The seed depends on the model alone, so that any selection of models gives the same.
        points = surface_points(vertices, faces, seed=zlib.crc32("/".join(key).encode()))
        voxels = occupied_voxels(vertices, faces)
    entry = CadEntry(*key, category_id, symmetry, vertices, faces, points, voxels)
    for suffix, content in CadCatalog([entry]).to_bytes().items():
        writer.write(f"{cad_stem(key)}{suffix}", content)


def load_cad(root: Path, key: CadKey) -> CadEntry:
    """A model that :func:`convert_cad` has written below ``root``."""
    return CadCatalog.load(root / cad_stem(key)).entries[0]
