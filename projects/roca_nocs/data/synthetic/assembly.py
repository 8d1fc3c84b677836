"""A scene as one triangle mesh with look-up tables per face."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .layout import world_vertices
from .raycast import RayCaster
from .types import CadModel, Material, Scene


@dataclass(frozen=True, eq=False)
class SceneGeometry:
    """The merged triangles of a scene, in the world frame.

    Attributes:
        caster: ray queries; its face numbers index the tables below.
        normals: (F + 1, 3) float32, unit; the last row (face -1, nothing hit) is zero.
        instances: (F + 1,) uint8, 1 + index of the object, 0 for surfaces and nothing.
        materials: (F + 1,) int32, index into ``palette``; nothing hit is black.
        patches: (F + 1,) int32, the same number for faces of one material that lie in one plane;
            -1 for nothing hit. At most 2**24, so that float32 holds them.
        palette: all materials of the scene, at most 65535.
        colors: (M, 3) float32, base colours of the palette.
        textured: (M,) bool, whether a material has a texture.
        world_to_texture: (M, 3, 4) float32, from world points to texture coordinates (metres along
            the axes of the model for objects, of the world for surfaces), texture scale included.
        object_vertices: world vertices (V, 3) float64 of each object.
    """

    caster: RayCaster
    normals: np.ndarray
    instances: np.ndarray
    materials: np.ndarray
    patches: np.ndarray
    palette: tuple[Material, ...]
    colors: np.ndarray
    textured: np.ndarray
    world_to_texture: np.ndarray
    object_vertices: tuple[np.ndarray, ...]


@lru_cache(maxsize=2)
def scene_geometry(scene: Scene) -> SceneGeometry:
    """Merge a scene; cached, for the search for views and the renderer follow each other.

    Raises:
        ValueError: more than 255 objects.
    """
    if len(scene.objects) > 255:
        raise ValueError(
            f"{scene.name} has {len(scene.objects)} objects; instance images count to 255"
        )
    object_vertices = tuple(world_vertices(placed) for placed in scene.objects)
    vertices: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    instances, materials, patches = [], [], []
    palette: list[Material] = []
    to_texture: list[np.ndarray] = []
    num_vertices = num_patches = 0
    for index, (placed, points) in enumerate(zip(scene.objects, object_vertices, strict=True)):
        model = placed.model
        model_patches = _model_patches(model)
        vertices.append(points)
        faces.append(model.faces + num_vertices)
        instances.append(np.full(len(model.faces), index + 1))
        materials.append(model.face_parts.astype(np.int32) + len(palette))
        patches.append(model_patches + num_patches)
        num_vertices += len(points)
        num_patches += int(model_patches.max()) + 1
        palette.extend(placed.materials)
        inverse = np.column_stack([placed.rotation.T, -placed.rotation.T @ placed.translation])
        to_texture.extend(inverse * material.texture_scale for material in placed.materials)
    for surface in scene.surfaces:
        vertices.append(surface.vertices)
        faces.append(surface.faces + num_vertices)
        instances.append(np.zeros(len(surface.faces)))
        materials.append(np.full(len(surface.faces), len(palette)))
        patches.append(_coplanar(surface.vertices, surface.faces) + num_patches)
        num_vertices += len(surface.vertices)
        num_patches = int(patches[-1].max()) + 1
        palette.append(surface.material)
        to_texture.append(np.eye(3, 4) * surface.material.texture_scale)
    palette.append(Material(np.zeros(3, dtype=np.float32)))
    to_texture.append(np.eye(3, 4))
    points, triangles = np.concatenate(vertices), np.concatenate(faces).astype(np.int32)
    return SceneGeometry(
        caster=RayCaster(points, triangles),
        normals=np.vstack([_unit_normals(points, triangles), np.zeros(3)]).astype(np.float32),
        instances=np.append(np.concatenate(instances), 0).astype(np.uint8),
        materials=np.append(np.concatenate(materials), len(palette) - 1).astype(np.int32),
        patches=np.append(np.concatenate(patches), -1).astype(np.int32),
        palette=tuple(palette),
        colors=np.stack([material.color for material in palette]).astype(np.float32),
        textured=np.array([material.texture != "none" for material in palette]),
        world_to_texture=np.stack(to_texture).astype(np.float32),
        object_vertices=object_vertices,
    )


def _unit_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) float64; zero for degenerate faces, which no ray hits."""
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0.0)


def _coplanar(
    vertices: np.ndarray, faces: np.ndarray, parts: np.ndarray | None = None
) -> np.ndarray:
    """Number the planes that faces lie in: (F,) int32 from 0, separate for each part."""
    normals = _unit_normals(vertices, faces)
    extent = float(np.ptp(vertices, axis=0).max())
    offsets = np.einsum("fi,fi->f", normals, vertices[faces[:, 0]].astype(np.float64)) / extent
    planes = np.round(np.column_stack([normals, offsets]) * 1e4)
    if parts is not None:
        planes = np.column_stack([planes, parts])
    return np.unique(planes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)


@lru_cache(maxsize=512)
def _model_patches(model: CadModel) -> np.ndarray:
    return _coplanar(model.vertices, model.faces, model.face_parts)
