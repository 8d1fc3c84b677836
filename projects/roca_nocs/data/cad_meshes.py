"""Meshes of the CAD models that the records of a dataset name, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh
from detectron2.data import MetadataCatalog

from roca_nocs.data.cad_catalog import CadCatalog, load_cad_catalog
from roca_nocs.data.coco_json import DatasetError

Mesh = tuple[np.ndarray, np.ndarray]
"""Vertices (V, 3) in the model frame and faces (F, 3)."""

MeshFinder = Callable[[str, str], Mesh]
"""From (catalogue id, model id) to the mesh."""


def mesh_finder(dataset: str) -> MeshFinder | None:
    """How to find the meshes of a registered dataset.

    Args:
        dataset: registered name.

    Returns:
        A function from (catalogue id, model id) to the mesh; None where the dataset has no models.

    Raises:
        DatasetError: the function, when a model is missing.
    """
    metadata = MetadataCatalog.get(dataset)
    if metadata.get("cad_folder"):
        return catalog_meshes(load_cad_catalog(metadata.cad_folder, metadata.cad_split))
    if metadata.get("model_root"):
        root, split = Path(metadata.model_root), metadata.model_split
        return lambda catalog_id, model_id: nocs_mesh(root, split, catalog_id, model_id)
    return None


def catalog_meshes(catalog: CadCatalog) -> MeshFinder:
    """How to find the meshes of a catalogue; the function raises KeyError for a missing model."""

    def find(catalog_id: str, model_id: str) -> Mesh:
        entry = catalog.entries[catalog.index(catalog_id, model_id)]
        return entry.vertices, entry.faces

    return find


def nocs_mesh(root: Path, split: str, catalog_id: str, model_id: str) -> Mesh:
    """Mesh of a NOCS model with unit diagonal; `catalog_id` is empty in REAL.

    CAMERA's files are mirrored in z, as its maps are; REAL's are metric.

    Raises:
        DatasetError: the model is missing.
    """
    camera_file = root / split / catalog_id / model_id / "model.obj"
    path = camera_file if catalog_id else root / f"real_{split}" / f"{model_id}.obj"
    if not path.is_file():
        raise DatasetError(f"There is no CAD model {path}.")
    mesh = trimesh.load(path, force="mesh", process=False)
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    if catalog_id:
        vertices, faces = vertices * [1, 1, -1], faces[:, ::-1]
    else:
        vertices = vertices / np.linalg.norm(np.ptp(vertices, axis=0))
    return vertices, faces
