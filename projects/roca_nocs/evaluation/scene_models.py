"""The annotated models of the scenes of a dataset, and the table of CAD models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog

from roca_nocs.data.cad_catalog import CadKey
from roca_nocs.data.cad_databases import build_cad_database
from roca_nocs.data.categories import SCAN2CAD_SYNSETS
from roca_nocs.data.coco_json import DatasetError, get_field, get_numbers, read_json
from roca_nocs.geometry.rotation import quaternion_to_matrix
from roca_nocs.geometry.symmetry import SYMMETRY_TAGS, symmetry_ids

from .alignment import PlacedModels


@dataclass(frozen=True)
class CadTable:
    """All CAD models that can be annotated or retrieved.

    Attributes:
        rows: number of each (synset, model id).
        categories: (K,) int64.
        symmetries: (K,) int64.
    """

    rows: Mapping[CadKey, int]
    categories: np.ndarray
    symmetries: np.ndarray


@dataclass(frozen=True)
class SceneModels:
    """Annotated models of S scenes.

    Attributes:
        scenes: number of each scene.
        models: M placed models, in the order of their scenes and annotations.
        visible: (M,) bool, whether the model is annotated in an image of the dataset.
    """

    scenes: Mapping[str, int]
    models: PlacedModels
    visible: np.ndarray


def load_cad_table(dataset_names: Sequence[str]) -> CadTable:
    """The CAD models of the catalogues of some datasets.

    Raises:
        DatasetError: a dataset has no catalogue.
    """
    database = build_cad_database(dataset_names, voxels=False, points=False)
    return CadTable(
        rows={key: row for row, key in enumerate(database.keys)},
        categories=database.category_ids.numpy(),
        symmetries=database.symmetries.numpy(),
    )


def load_scene_models(
    dataset_name: str, records: Sequence[Mapping[str, Any]], cad_rows: Mapping[CadKey, int]
) -> SceneModels:
    """Read the ``scenes_file`` of a dataset; models of other classes are left out.

    Args:
        dataset_name: in ROCA's layout.
        records: of the dataset; they tell which models are visible.
        cad_rows: table of CAD models.

    Raises:
        DatasetError: the dataset has no such file, or a record in it is damaged or names a CAD
            model that is not in the table.
    """
    metadata = MetadataCatalog.get(dataset_name)
    path = require_scenes_file(dataset_name)
    categories = {
        SCAN2CAD_SYNSETS[name]: category
        for category, name in enumerate(metadata.thing_classes)
        if name in SCAN2CAD_SYNSETS
    }
    seen = {
        (record["scene_id"], annotation["alignment_id"])
        for record in records
        for annotation in record["annotations"]
    }
    scenes: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for scene, models in read_json(path).items():
        scenes[scene] = len(scenes)
        for position, model in enumerate(models):
            where = f"{path}: scene {scene}, model {position}"
            synset = get_field(model, "catid_cad", where)
            if synset not in categories:
                continue
            key = (synset, get_field(model, "id_cad", where))
            symmetry = get_field(model, "sym", where)
            if key not in cad_rows or symmetry not in SYMMETRY_TAGS:
                raise DatasetError(
                    f"{where}: the CAD model {'/'.join(key)} is not in the catalogue, or its "
                    f"symmetry {symmetry!r} is none of {SYMMETRY_TAGS}."
                )
            rows.append(
                {
                    "scenes": scenes[scene],
                    "categories": categories[synset],
                    "translations": get_numbers(model, "t", (3,), where),
                    "rotations": get_numbers(model, "q", (4,), where),
                    "scales": get_numbers(model, "s", (3,), where),
                    "symmetries": symmetry,
                    "cads": cad_rows[key],
                    "visible": (scene, get_field(model, "idx", where)) in seen,
                }
            )
    return SceneModels(scenes, _placed(rows), np.array([row["visible"] for row in rows], bool))


def require_scenes_file(dataset_name: str) -> str:
    """Path of the annotated scenes of a dataset.

    Raises:
        DatasetError: it has none.
    """
    path = MetadataCatalog.get(dataset_name).get("scenes_file")
    if not path:
        raise DatasetError(
            f"Dataset '{dataset_name}' has no 'scenes_file' in its metadata; alignments are "
            "evaluated on splits with annotated scenes, such as scan2cad_val or rooms_val."
        )
    return str(path)


def _placed(rows: Sequence[Mapping[str, Any]]) -> PlacedModels:
    def numbers(name: str, *shape: int) -> np.ndarray:
        return np.array([row[name] for row in rows], np.float64).reshape(-1, *shape)

    return PlacedModels(
        scenes=np.array([row["scenes"] for row in rows], np.int64),
        categories=np.array([row["categories"] for row in rows], np.int64),
        translations=numbers("translations", 3),
        rotations=quaternion_to_matrix(torch.from_numpy(numbers("rotations", 4))).numpy(),
        scales=numbers("scales", 3),
        symmetries=symmetry_ids([row["symmetries"] for row in rows]).numpy(),
        cads=np.array([row["cads"] for row in rows], np.int64),
    )
