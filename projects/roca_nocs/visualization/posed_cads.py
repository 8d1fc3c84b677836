"""CAD models at the poses of objects, and what a camera sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roca_nocs.data.cad_meshes import MeshFinder
from roca_nocs.data.synthetic.raycast import RayCaster, pixel_directions
from roca_nocs.utils.visualize import instance_colors
from roca_nocs.visualization.image_result import ImageResult


@dataclass(frozen=True)
class PosedCad:
    """A CAD model in front of the camera.

    Attributes:
        vertices: (V, 3), model frame.
        faces: (F, 3) vertex indices.
        pose: (4, 4), model to camera, metres.
        color: (3,) uint8 RGB, that of the object's box and mask.
        row: the object in its ``ImageResult``.
        label: class name.
    """

    vertices: np.ndarray
    faces: np.ndarray
    pose: np.ndarray
    color: np.ndarray
    row: int
    label: str

    def camera_vertices(self) -> np.ndarray:
        """(V, 3), camera frame."""
        return self.vertices @ self.pose[:3, :3].T + self.pose[:3, 3]


def pose_cads(result: ImageResult, mesh: MeshFinder, names: Sequence[str]) -> list[PosedCad]:
    """The CAD models of all objects that have a valid pose and a model."""
    if result.alignments is None:
        return []
    poses = result.alignments.poses()
    colors = instance_colors(len(result))
    return [
        PosedCad(*mesh(*key), poses[row], colors[row], row, names[result.classes[row]])
        for row, key in enumerate(result.alignments.shown_cads())
        if key is not None
    ]


@dataclass(frozen=True)
class CadView:
    """What a camera sees of posed CAD models.

    Attributes:
        index: (H, W) int64, position in the list of models, -1 where none is seen.
        depth: (H, W) float32 metres, 0 where none is seen.
        normals: (H, W, 3) float64 unit vectors of the camera frame, towards the camera.
    """

    index: np.ndarray
    depth: np.ndarray
    normals: np.ndarray


def view_cads(cads: Sequence[PosedCad], intrinsics: np.ndarray, size: tuple[int, int]) -> CadView:
    """Cast one ray through each pixel centre.

    Args:
        cads: the models.
        intrinsics: (3, 3), pixels of an image of this size.
        size: (height, width).
    """
    height, width = size
    rays = pixel_directions(intrinsics, np.arange(width), np.arange(height)[:, None])
    if not cads:
        empty = np.zeros(size, np.float32)
        return CadView(np.full(size, -1), empty, np.zeros((height, width, 3)))
    vertices = [cad.camera_vertices() for cad in cads]
    starts = np.cumsum([0, *(len(each) for each in vertices[:-1])])
    faces = np.concatenate([cad.faces + start for cad, start in zip(cads, starts, strict=True)])
    owners = np.repeat(np.arange(len(cads)), [len(cad.faces) for cad in cads])
    points = np.concatenate(vertices)
    hit, depth = RayCaster(points, faces).first_hit(np.zeros(3), rays.reshape(-1, 3))

    corners = points[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(face_normals, axis=1, keepdims=True)
    normals = (face_normals / np.maximum(lengths, 1e-30))[hit].reshape(height, width, 3)
    away = (normals * rays).sum(axis=-1, keepdims=True) > 0
    seen = (hit >= 0).reshape(size)
    index = np.where(seen, owners[hit].reshape(size), -1)
    depth = depth.reshape(size)
    return CadView(
        index=index,
        depth=depth,
        normals=np.where(seen[..., None], np.where(away, -normals, normals), 0),
    )


def model_coordinates(
    view: CadView, cads: Sequence[PosedCad], intrinsics: np.ndarray
) -> np.ndarray:
    """(H, W, 3) float64: where on its model each pixel of a view lies, 0 where none is seen.

    Args:
        view: of ``view_cads``.
        cads, intrinsics: the same.
    """
    height, width = view.index.shape
    seen = view.index >= 0
    nocs = np.zeros((height, width, 3))
    if not cads:
        return nocs
    rows, columns = np.nonzero(seen)
    points = pixel_directions(intrinsics, columns, rows) * view.depth[seen][:, None]
    poses = np.stack([cad.pose for cad in cads])
    owners = view.index[seen]
    # The pseudo-inverse: a predicted scale may be zero.
    inverses = np.linalg.pinv(poses[:, :3, :3])[owners]
    nocs[seen] = (inverses @ (points - poses[owners, :3, 3])[..., None])[..., 0]
    return nocs
