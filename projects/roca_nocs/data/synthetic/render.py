"""Renders scenes: colour, depth, instances, NOCS, normals, visible and amodal masks and boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .assembly import scene_geometry
from .cameras import camera_rays
from .raycast import RayCaster, pixel_directions
from .shading import facing_normals
from .supersampling import SAMPLE_OFFSETS, PixelHits, supersample
from .types import Frame, Scene, View
from .visibility import amodal_mask, clipped_box, mask_box, pixel_window, truncation

NOISE = 3.0
"""Standard deviation of the pixel noise, in levels of 255."""


class Renderer:
    """Draws views of one scene.

    Depth, instance, NOCS and normals belong to the ray through the pixel centre and are never
    averaged; colour is the mean of 2x2 samples. The result is a pure function of the scene and the
    view.

    Args:
        scene: what to draw.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._geometry = scene_geometry(scene)
        self._casters: dict[int, RayCaster] = {}

    def render(self, view: View) -> Frame:
        """Draw one view.

        Returns:
            The frame; see :class:`~roca_nocs.data.synthetic.types.Frame`.
        """
        geometry = self._geometry
        hits = self.trace(view)
        height, width = view.size
        depth = hits.depth.reshape(height, width)
        instance = geometry.instances[hits.faces].reshape(height, width)
        normals = facing_normals(geometry, hits.faces, hits.directions)
        rotation = view.world_to_camera[:3, :3].astype(np.float32)
        # Not a matrix product: BLAS rounds differently from one number of threads to the next.
        x, y, z = (normals[:, i, None] * rotation[:, i] for i in range(3))
        normals = x + y + z
        return Frame(
            rgb=self._color(view, hits),
            depth=depth,
            instance=instance,
            nocs=self._nocs(view, hits, instance),
            normals=normals.reshape(height, width, 3),
            **self._visibility(view, hits, instance, depth),
        )

    def trace(self, view: View) -> PixelHits:
        """Follow the rays through the pixel centres."""
        height, width = view.size
        if height < 1 or width < 1:
            raise ValueError(f"view.size is {view.size}; expected (height, width) >= (1, 1)")
        columns, rows = np.arange(width)[None], np.arange(height)[:, None]
        directions = pixel_directions(view.intrinsics, columns, rows).reshape(-1, 3)
        eye, world = camera_rays(view.world_to_camera, directions)
        offsets = np.asarray(SAMPLE_OFFSETS)
        steps = pixel_directions(view.intrinsics, offsets[:, 0], offsets[:, 1])
        steps -= pixel_directions(view.intrinsics, np.zeros(1), np.zeros(1))
        _, world_steps = camera_rays(view.world_to_camera, steps)
        faces, depth = self._geometry.caster.first_hit(eye, world)
        return PixelHits(view.size, eye.astype(np.float32), world, world_steps, faces, depth)

    def _color(self, view: View, hits: PixelHits) -> np.ndarray:
        """(H, W, 3) uint8."""
        colors = supersample(self._geometry, self._scene.lighting, hits)
        colors *= np.float32(255.0)
        rng = np.random.default_rng([*self._scene.seed, 2, view.index])
        colors += np.float32(NOISE) * rng.standard_normal(colors.shape, dtype=np.float32)
        colors = np.clip(np.rint(colors, out=colors), 0.0, 255.0, out=colors)
        return colors.astype(np.uint8).reshape(*view.size, 3)

    def _nocs(self, view: View, hits: PixelHits, instance: np.ndarray) -> np.ndarray:
        """(H, W, 3) float32, from depth by the inverse pose, in double precision."""
        nocs = np.zeros((*view.size, 3), dtype=np.float32)
        camera_to_world = np.linalg.inv(view.world_to_camera)
        for index, placed in enumerate(self._scene.objects):
            rows, columns = np.nonzero(instance == index + 1)
            if len(rows) == 0:
                continue
            depth = hits.depth[rows * view.size[1] + columns].astype(np.float64)
            points = pixel_directions(view.intrinsics, columns, rows) * depth[:, None]
            to_model = (placed.rotation / placed.scale).T
            matrix = to_model @ camera_to_world[:3, :3]
            offset = to_model @ (camera_to_world[:3, 3] - placed.translation)
            model = sum(points[:, i, None] * matrix[:, i] for i in range(3)) + offset
            nocs[rows, columns] = model
        return nocs

    def _visibility(
        self, view: View, hits: PixelHits, instance: np.ndarray, depth: np.ndarray
    ) -> dict[str, np.ndarray]:
        count = len(self._scene.objects)
        masks = np.zeros((count, *view.size), dtype=bool)
        amodal_boxes, visible_boxes = np.zeros((2, count, 4), dtype=np.float32)
        visible_pixels = np.zeros(count, dtype=np.int64)
        visibility, outside = np.zeros((2, count), dtype=np.float32)
        directions = hits.directions.reshape(*view.size, 3)
        rotation, shift = view.world_to_camera[:3, :3], view.world_to_camera[:3, 3]
        for index, placed in enumerate(self._scene.objects):
            vertices = self._geometry.object_vertices[index] @ rotation.T + shift
            box = clipped_box(vertices, placed.model.faces, view.intrinsics)
            window = pixel_window(box, view.size)
            visible = instance[window] == index + 1
            masks[index][window] = amodal_mask(
                self._caster(index),
                float(vertices[:, 2].max()),
                visible,
                depth[window],
                hits.eye,
                directions[window],
            )
            corner = [window[1].start, window[0].start]
            visible_pixels[index] = np.count_nonzero(visible)
            if visible_pixels[index]:
                visible_boxes[index] = mask_box(visible) + np.tile(corner, 2)
                visibility[index] = visible_pixels[index] / np.count_nonzero(masks[index])
            amodal_boxes[index] = box
            outside[index] = truncation(box, view.size)
        return {
            "amodal_masks": masks,
            "amodal_boxes": amodal_boxes,
            "visible_boxes": visible_boxes,
            "visible_pixels": visible_pixels,
            "visibility": visibility,
            "truncation": outside,
        }

    def _caster(self, index: int) -> RayCaster:
        """Ray queries on one object alone, built when first needed."""
        if index not in self._casters:
            faces = self._scene.objects[index].model.faces
            self._casters[index] = RayCaster(self._geometry.object_vertices[index], faces)
        return self._casters[index]


def render_depth_instance(
    meshes: Sequence[tuple[np.ndarray, np.ndarray]],
    object_to_camera: Sequence[np.ndarray],
    intrinsics: np.ndarray,
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Depth and instances of arbitrary meshes, two-sided, clipped at the near plane.

    Args:
        meshes: (vertices (V, 3), faces (F, 3)) of each object, in its own frame.
        object_to_camera: (4, 4) affine matrix of each object, scale included; OpenCV camera frame,
            metres.
        intrinsics: (3, 3), pixel centres at integer coordinates.
        size: (height, width).

    Returns:
        depth (H, W) float32 in metres, 0 where nothing was hit, and instance (H, W) int32, 1 +
        index of the object, 0 where nothing was hit.
    """
    if not meshes:
        return np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.int32)
    counts = [len(vertices) for vertices, _ in meshes]
    starts = np.cumsum([0, *counts[:-1]])
    vertices = [_in_camera(*pair) for pair in _paired(meshes, object_to_camera)]
    faces = [faces + start for (_, faces), start in zip(meshes, starts, strict=True)]
    owner = np.repeat(np.arange(1, len(meshes) + 1), [len(triangles) for triangles in faces])
    rays = pixel_directions(intrinsics, np.arange(size[1])[None], np.arange(size[0])[:, None])
    caster = RayCaster(np.concatenate(vertices), np.concatenate(faces))
    hit, depth = caster.first_hit(np.zeros(3), rays.reshape(-1, 3))
    instance = np.append(owner, 0)[hit].astype(np.int32)
    return depth.reshape(size), instance.reshape(size)


def render_silhouettes(
    meshes: Sequence[tuple[np.ndarray, np.ndarray]],
    object_to_camera: Sequence[np.ndarray],
    intrinsics: np.ndarray,
    size: tuple[int, int],
) -> np.ndarray:
    """Masks of meshes, each drawn alone: (N, H, W) bool. Arguments as above."""
    masks = np.zeros((len(meshes), *size), dtype=bool)
    for mask, pair in zip(masks, _paired(meshes, object_to_camera), strict=True):
        vertices, faces = _in_camera(*pair), pair[0][1]
        rows, columns = pixel_window(clipped_box(vertices, faces, intrinsics), size)
        x, y = np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop)
        rays = pixel_directions(intrinsics, x[None], y[:, None])
        hit, _ = RayCaster(vertices, faces).first_hit(np.zeros(3), rays.reshape(-1, 3))
        mask[rows, columns] = (hit >= 0).reshape(rays.shape[:2])
    return masks


def _paired(
    meshes: Sequence[tuple[np.ndarray, np.ndarray]], object_to_camera: Sequence[np.ndarray]
) -> list[tuple[tuple[np.ndarray, np.ndarray], np.ndarray]]:
    if len(meshes) != len(object_to_camera):
        raise ValueError(
            f"{len(meshes)} meshes and {len(object_to_camera)} poses; expected as many of both"
        )
    return list(zip(meshes, object_to_camera, strict=True))


def _in_camera(mesh: tuple[np.ndarray, np.ndarray], object_to_camera: np.ndarray) -> np.ndarray:
    """(V, 3) float64 vertices of a mesh in the camera frame."""
    matrix = np.asarray(object_to_camera, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise ValueError(f"object_to_camera has shape {matrix.shape}; expected (4, 4)")
    return np.asarray(mesh[0], dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
