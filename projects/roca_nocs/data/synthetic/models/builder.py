"""Collects the parts of a parametric model and normalises them into a :class:`CadModel`."""

from __future__ import annotations

import numpy as np

from roca_nocs.data.categories import NOCS_SYNSETS, SCAN2CAD_SYNSETS

from ..primitives import Mesh, box
from ..symmetry import rotational_symmetry
from ..types import CadModel

CATALOG_IDS = SCAN2CAD_SYNSETS | NOCS_SYNSETS
"""ShapeNet synset of the classes that have CAD models on disk; all others are ``"00000000"``."""


class ModelBuilder:
    """Parts in metres, y up, front -z; any origin.

    Parts of the same name share one entry of ``part_names`` and thereby one material.
    """

    def __init__(self) -> None:
        self._meshes: list[Mesh] = []
        self._parts: list[int] = []
        self._names: list[str] = []

    def add(self, part: str, *meshes: Mesh) -> None:
        """Append closed meshes to a part; parts may overlap."""
        if part not in self._names:
            self._names.append(part)
        self._meshes.extend(meshes)
        self._parts.extend([self._names.index(part)] * len(meshes))

    def box(
        self, part: str, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]
    ) -> None:
        """Append an axis-aligned box given as three intervals."""
        self.add(part, box((x[0], y[0], z[0]), (x[1], y[1], z[1])))

    def finish(self, category: str, variant: int) -> CadModel:
        """Centre the bounding box, scale its diagonal to one and tag the symmetry."""
        counts = [len(mesh.vertices) for mesh in self._meshes]
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        vertices = np.concatenate([mesh.vertices for mesh in self._meshes])
        faces = np.concatenate(
            [mesh.faces + start for mesh, start in zip(self._meshes, starts, strict=True)]
        ).astype(np.int32)
        face_parts = np.repeat(self._parts, [len(mesh.faces) for mesh in self._meshes])
        lower, upper = vertices.min(axis=0), vertices.max(axis=0)
        size = upper - lower
        vertices = ((vertices - (lower + upper) / 2.0) / np.linalg.norm(size)).astype(np.float32)
        model = CadModel(
            category=category,
            catalog_id=CATALOG_IDS.get(category, "00000000"),
            model_id=f"{category}_v{variant:02d}",
            vertices=vertices,
            faces=faces,
            face_parts=face_parts.astype(np.uint8),
            part_names=tuple(self._names),
            size=size.astype(np.float32),
            symmetry=rotational_symmetry(vertices, faces),
        )
        for array in (model.vertices, model.faces, model.face_parts, model.size):
            array.flags.writeable = False  # models are cached and shared
        return model
