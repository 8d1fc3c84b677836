"""Scan2CAD's ``full_annotations.json``: which CAD models stand where in a scan."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from roca_nocs.geometry.pose import compose_pose, decompose_pose
from roca_nocs.geometry.rotation import matrix_to_quaternion, quaternion_to_matrix
from roca_nocs.geometry.symmetry import SYMMETRY_TAGS

from ..cad_catalog import CadKey
from ..categories import SCAN2CAD_SYNSETS
from ..coco_json import DatasetError, get_field, get_numbers, read_json

CATEGORY_IDS = {synset: number for number, synset in enumerate(SCAN2CAD_SYNSETS.values())}
"""Contiguous class index by synset; the class names are in alphabetical order."""

MAX_MODELS = 255
"""Instance images have 8 bits and 0 is the background."""

_NOT_A_ROTATION = 1e-2


@dataclass(frozen=True)
class PlacedModel:
    """A CAD model in a scan.

    Attributes:
        idx: position in the annotation's list, from 1: the value in instance images.
        key: (synset, model id).
        symmetry: tag, e.g. ``"__SYM_NONE"``.
        model_to_scan: (4, 4) float64, scale included.
    """

    idx: int
    key: CadKey
    symmetry: str
    model_to_scan: np.ndarray

    @property
    def category_id(self) -> int | None:
        """Class index; ``None`` for models outside the nine classes."""
        return CATEGORY_IDS.get(self.key[0])

    def pose_fields(self, scan_to_frame: np.ndarray) -> dict[str, list[float]]:
        """``t`` (metres), ``q`` (w, x, y, z with w >= 0) and ``s`` in another frame.

        Args:
            scan_to_frame: (4, 4) rigid motion.

        Raises:
            DatasetError: the result is no rotation after a scaling along the model's axes.
        """
        matrix = torch.from_numpy(scan_to_frame @ self.model_to_scan)
        translation, rotation, scale = decompose_pose(matrix)
        deviation = (rotation.mT @ rotation - torch.eye(3, dtype=torch.float64)).abs().max()
        if not float(deviation) < _NOT_A_ROTATION or torch.linalg.det(rotation) < 0:
            raise DatasetError(
                f"aligned model {self.idx} ({'/'.join(self.key)}): its pose is no rotation after a "
                f"scaling: {matrix.tolist()}."
            )
        quaternion = matrix_to_quaternion(rotation)
        fields = {"t": translation, "q": quaternion, "s": scale}
        return {name: np.round(value.numpy(), 9).tolist() for name, value in fields.items()}


@dataclass(frozen=True)
class SceneAnnotation:
    """The models of a scan.

    Attributes:
        scene_id: e.g. ``"scene0000_00"``.
        to_scene: (4, 4) float64, Scan2CAD's world to the scan.
        models: all of them, in the annotation's order.
    """

    scene_id: str
    to_scene: np.ndarray
    models: tuple[PlacedModel, ...]


def read_full_annotations(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """The raw annotation of each scan, by scene id.

    Raises:
        DatasetError: the file is missing or damaged, or a scan occurs twice.
    """
    scenes: dict[str, dict[str, Any]] = {}
    for index, scene in enumerate(read_json(path)):
        name = get_field(scene, "id_scan", f"{path}: [{index}]")
        if name in scenes:
            raise DatasetError(f"{path}: [{index}]: 'id_scan' {name} occurs twice.")
        scenes[name] = scene
    return scenes


def parse_scene(raw: Mapping[str, Any]) -> SceneAnnotation:
    """Check the annotation of a scan and compose its transforms.

    Args:
        raw: an entry of :func:`read_full_annotations`.

    Raises:
        DatasetError: names the scan, the model and the field.
    """
    scene_id = raw["id_scan"]
    where = f"full_annotations.json: {scene_id}"
    to_scene = np.linalg.inv(_matrix(raw, where))
    records = get_field(raw, "aligned_models", where)
    if len(records) > MAX_MODELS:
        raise DatasetError(
            f"{where}: {len(records)} aligned models; instance images hold {MAX_MODELS}."
        )
    models = []
    for idx, record in enumerate(records, start=1):
        place = f"{where}: aligned model {idx}"
        symmetry = get_field(record, "sym", place)
        if symmetry not in SYMMETRY_TAGS:
            raise DatasetError(f"{place}: 'sym' is {symmetry!r}; expected one of {SYMMETRY_TAGS}.")
        key = (get_field(record, "catid_cad", place), get_field(record, "id_cad", place))
        models.append(PlacedModel(idx, key, symmetry, to_scene @ _matrix(record, place)))
    return SceneAnnotation(scene_id, to_scene, tuple(models))


def _matrix(record: Mapping[str, Any], where: str) -> np.ndarray:
    """(4, 4) float64 of the field ``trs``."""
    trs = get_field(record, "trs", where)
    translation, quaternion, scale = (
        torch.tensor(get_numbers(trs, name, (size,), f"{where}: 'trs'"), dtype=torch.float64)
        for name, size in (("translation", 3), ("rotation", 4), ("scale", 3))
    )
    if not quaternion.any() or not scale.all():
        raise DatasetError(f"{where}: 'trs' has a zero quaternion or a scale of zero: {trs}.")
    return compose_pose(translation, quaternion_to_matrix(quaternion), scale).numpy()
