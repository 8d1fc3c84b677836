"""The objects of an image as a 3D scene for viewers: GLB files and one HTML page.

Viewers have y up and look along -z. The scene is the camera frame turned by 180 degrees about x,
(x, y, z) -> (x, -y, -z), so that the photo's camera stays at the origin.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import trimesh
from trimesh.viewer.notebook import scene_to_html
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from roca_nocs.geometry.camera import back_project, resize_intrinsics
from roca_nocs.visualization.box_pictures import AXIS_COLORS
from roca_nocs.visualization.posed_boxes import PosedBox
from roca_nocs.visualization.posed_cads import PosedCad

CAMERA_TO_VIEWER = np.diag([1.0, -1.0, -1.0, 1.0])
MAX_POINTS = 60_000
FRUSTUM_COLOR = (90, 90, 90, 255)
# Thickness of the edges and axes of boxes, as a share of the diagonal.
_EDGE, _AXIS = 0.008, 0.012


def build_scene(
    cads: Sequence[PosedCad],
    image: np.ndarray,
    intrinsics: np.ndarray,
    depth: np.ndarray | None = None,
    boxes: Sequence[PosedBox] = (),
) -> trimesh.Scene:
    """Posed CAD models and boxes, the camera and, with a depth map, the photo as a point cloud.

    Args:
        cads: the models; each becomes a geometry ``object_<row>_<class>`` at a node of that name.
        image: (H, W, 3) uint8 RGB.
        intrinsics: (3, 3), pixels of the image.
        depth: (h, w) metres, of any size that covers the image; 0 = none.
        boxes: each becomes a geometry ``box_<row>_<class>``, edges and a plate on the front, or
            else ``..._x``, ``..._y``, ``..._z`` for the axes of the model beside the edges.

    Returns:
        A scene in metres that is looked at from behind the photo's camera.
    """
    scene = trimesh.Scene()
    for cad in cads:
        mesh = trimesh.Trimesh(cad.vertices, cad.faces, process=False)
        _add(scene, _name("object", cad), mesh, cad.color, cad.pose)
    for box in boxes:
        _add_box(scene, box)
    distance = _median_distance([*cads, *boxes], depth)
    scene.add_geometry(
        _frustum(intrinsics, image.shape[:2], 0.15 * distance),
        node_name="photo_camera",
        geom_name="photo_camera",
        transform=CAMERA_TO_VIEWER,
    )
    if depth is not None and (depth > 0).any():
        cloud = depth_points(image, intrinsics, depth)
        scene.add_geometry(cloud, node_name="depth", geom_name="depth", transform=CAMERA_TO_VIEWER)
    _place_viewer(scene, intrinsics, image.shape[:2], distance)
    return scene


def _name(kind: str, thing: PosedCad | PosedBox) -> str:
    return f"{kind}_{thing.row:02d}_{thing.label.replace(' ', '_')}"


def _add(
    scene: trimesh.Scene, name: str, mesh: trimesh.Trimesh, color: np.ndarray, pose: np.ndarray
) -> None:
    # The pose stays in the node, the mesh in its own frame.
    mesh.visual = TextureVisuals(material=_material(color))
    transform = CAMERA_TO_VIEWER @ pose
    scene.add_geometry(mesh, node_name=name, geom_name=name, transform=transform)


def _add_box(scene: trimesh.Scene, box: PosedBox) -> None:
    """Edges as thin bars: viewers draw lines one pixel wide, whatever the distance."""
    name, diagonal = _name("box", box), float(np.linalg.norm(box.extents))
    parts = []
    for axis in range(3):
        lengths = np.full(3, _EDGE * diagonal)
        lengths[axis] += box.extents[axis]
        for signs in np.ndindex(2, 2):
            center = np.insert(np.array(signs) - 0.5, axis, 0.0) * box.extents
            parts.append(_bar(lengths, center))
    if box.has_front:
        thin = np.array([_EDGE * diagonal, *box.extents[1:]])
        parts.append(_bar(thin, np.array([box.extents[0] / 2, 0.0, 0.0])))
    _add(scene, name, trimesh.util.concatenate(parts), box.color, box.pose)
    if box.has_front:
        return
    for axis, (letter, color) in enumerate(zip("xyz", AXIS_COLORS, strict=True)):
        lengths, center = np.full(3, _AXIS * diagonal), np.zeros(3)
        lengths[axis] = box.extents[axis] / 2
        center[axis] = box.extents[axis] / 4
        _add(scene, f"{name}_{letter}", _bar(lengths, center), np.uint8(color), box.pose)


def _bar(lengths: np.ndarray, center: np.ndarray) -> trimesh.Trimesh:
    bar = trimesh.creation.box(lengths)
    bar.apply_translation(center)
    return bar


def depth_points(
    image: np.ndarray, intrinsics: np.ndarray, depth: np.ndarray
) -> trimesh.PointCloud:
    """A depth map as at most about ``MAX_POINTS`` coloured points of the camera frame.

    Args:
        image: (H, W, 3) uint8 RGB.
        intrinsics: (3, 3), pixels of the image.
        depth: (h, w) metres, 0 = none.
    """
    height, width = image.shape[:2]
    factor = np.sqrt(MAX_POINTS / (height * width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    interpolation = cv2.INTER_LINEAR if (depth > 0).all() else cv2.INTER_NEAREST
    depth = cv2.resize(depth, size, interpolation=interpolation)
    colors = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else 1)
    matrix = torch.as_tensor(np.asarray(intrinsics, np.float64))
    matrix = resize_intrinsics(matrix, size[0] / width, size[1] / height)
    points = back_project(torch.from_numpy(depth).double(), matrix).numpy()
    known = depth > 0
    return trimesh.PointCloud(points[known], colors=colors[known])


def scene_page(scene: trimesh.Scene) -> str:
    """One HTML page with the scene and the program that turns it; works without a network."""
    return scene_to_html(scene)


def _material(color: np.ndarray) -> PBRMaterial:
    # The page has a single lamp at the viewer; a little light of its own keeps sides visible.
    return PBRMaterial(
        baseColorFactor=[*color.tolist(), 255],
        emissiveFactor=(0.25 * color / 255).tolist(),
        metallicFactor=0.0,
        roughnessFactor=0.9,
        doubleSided=True,
    )


def _median_distance(things: Sequence[PosedCad | PosedBox], depth: np.ndarray | None) -> float:
    """Typical distance of the scene from the camera, metres."""
    distances = np.array([np.linalg.norm(thing.pose[:3, 3]) for thing in things])
    if len(distances) == 0:
        distances = np.empty(0) if depth is None else depth[depth > 0]
    return float(np.median(distances)) if len(distances) else 1.0


def _frustum(intrinsics: np.ndarray, size: tuple[int, int], distance: float) -> trimesh.path.Path3D:
    """The pyramid through the image borders up to a depth, as lines of the camera frame."""
    height, width = size
    x = np.array([-0.5, width - 0.5, width - 0.5, -0.5])
    y = np.array([-0.5, -0.5, height - 0.5, height - 0.5])
    corners = np.stack([x, y, np.ones(4)], axis=1) @ np.linalg.inv(intrinsics).T * distance
    sides = np.stack([np.zeros((4, 3)), corners], axis=1)
    border = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)
    frustum = trimesh.load_path(np.concatenate([sides, border]))
    frustum.colors = np.tile(np.uint8(FRUSTUM_COLOR), (len(frustum.entities), 1))
    return frustum


def _place_viewer(
    scene: trimesh.Scene, intrinsics: np.ndarray, size: tuple[int, int], distance: float
) -> None:
    """Look from behind and above the photo's camera at the middle of the scene.

    Not from the origin itself: the page's lamp, which follows the viewer, shines towards it.
    """
    height, width = size
    fov = np.degrees(2 * np.arctan([width / 2 / intrinsics[0, 0], height / 2 / intrinsics[1, 1]]))
    scene.camera.fov = fov
    transform = np.eye(4)
    tilt = np.radians(12)
    transform[1:3, 1:3] = [[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]]
    transform[:3, 3] = 0, np.sin(tilt) * 1.3 * distance, 0.4 * distance
    scene.camera_transform = transform
