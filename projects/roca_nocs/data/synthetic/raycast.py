"""Ray queries on triangle meshes, on top of embreex (Embree)."""

from __future__ import annotations

import numpy as np

try:
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene
except ImportError as error:  # the numpy intersector of trimesh would be about 1000 times slower
    raise ImportError(
        "the renderer of the embedded datasets needs embreex: pip install embreex"
    ) from error

NEAR = 0.05
"""Metres along the optical axis within which nothing is drawn."""


class RayCaster:
    """Two-sided ray queries on one mesh.

    Args:
        vertices: (V, 3), metres.
        faces: (F, 3) integers.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self._scene = EmbreeScene()
        TriangleMesh(
            self._scene,
            np.ascontiguousarray(vertices, dtype=np.float32),
            np.ascontiguousarray(faces, dtype=np.int32),
        )

    def first_hit(
        self, eye: np.ndarray, directions: np.ndarray, near: float = NEAR
    ) -> tuple[np.ndarray, np.ndarray]:
        """Follow rays from one point.

        Args:
            eye: (3,).
            directions: (N, 3) float32, of any length.
            near: rays begin at this multiple of their direction.

        Returns:
            faces (N,) int32, -1 where nothing was hit, and distances (N,) float32 in multiples of
            the direction, 0 where nothing was hit. Directions whose component along the optical
            axis is 1 make the distance a depth.
        """
        if len(directions) == 0:
            return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
        directions = np.ascontiguousarray(directions, dtype=np.float32)
        origins = directions * np.float32(near)
        origins += np.asarray(eye, dtype=np.float32)
        hit = self._scene.run(origins, directions, query="INTERSECT", output=True)
        faces = hit["primID"]
        distances = np.where(faces >= 0, hit["tfar"] + np.float32(near), np.float32(0.0))
        return faces, distances

    def occluded(
        self, origins: np.ndarray, directions: np.ndarray, limit: float = np.inf
    ) -> np.ndarray:
        """Whether anything lies on each ray.

        Args:
            origins: (N, 3).
            directions: (N, 3), of any length.
            limit: rays end at this multiple of their direction.

        Returns:
            (N,) bool.
        """
        if len(directions) == 0:
            return np.zeros(0, dtype=bool)
        blocked = self._scene.run(
            np.ascontiguousarray(origins, dtype=np.float32),
            np.ascontiguousarray(directions, dtype=np.float32),
            dists=np.full(len(directions), min(limit, 1e30), dtype=np.float32),
            query="OCCLUDED",
        )
        return blocked >= 0


def pixel_directions(intrinsics: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Camera-frame rays through image points.

    Args:
        intrinsics: (3, 3), pixels, pixel centres at integer coordinates.
        columns: image x of each ray.
        rows: image y, of a shape that broadcasts with ``columns``.

    Returns:
        (..., 3) float64 directions with z = 1.
    """
    fx, skew, cx = intrinsics[0]
    fy, cy = intrinsics[1, 1], intrinsics[1, 2]
    y = (np.asarray(rows, dtype=np.float64) - cy) / fy
    x = (np.asarray(columns, dtype=np.float64) - cx - skew * y) / fx
    x, y = np.broadcast_arrays(x, y)
    return np.stack([x, y, np.ones_like(x)], axis=-1)
