"""Random viewpoints that see something."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from roca_nocs.data.published_cameras import nocs_intrinsics, scannet_intrinsics

from .assembly import scene_geometry
from .raycast import pixel_directions
from .types import Scene, View
from .visibility import clipped_box, truncation

_logger = logging.getLogger(__name__)

_PROBE = (30, 40)
_ATTEMPTS = 400
_FULL_SHARE = 0.015  # of the image: from here on an object counts fully
# Views of rare classes win more often, for else chairs and tables would be most of what is seen.
_CLASS_WEIGHTS = {"bathtub": 1.5, "bed": 2.0, "sofa": 2.0, "chair": 0.5, "table": 0.7}


@dataclass(frozen=True)
class _Rules:
    """What a 40x30 probe must see, how many such views compete, and where the eye may be."""

    min_objects: int
    min_share: float
    nearest: float
    candidates: int
    propose: Callable[[Scene, np.random.Generator], np.ndarray | None]


def sample_views(
    scene: Scene, count: int, size: tuple[int, int], kind: str, dataset: str = "camera"
) -> list[View]:
    """Look at a scene from random places.

    A 40x30 probe accepts a view of a room if it sees at least two annotated objects, them on at
    least 10 % of its pixels, and nothing nearer than 0.7 m; a view of a table top if it sees an
    annotated object on 4 % (where the scene has any) and nothing nearer than 0.2 m. Of six views
    of a room that pass, the one is taken that cuts off least of its objects and shows most of them,
    with a preference for rare classes. The poses do not depend on the size.

    Args:
        scene: what to look at.
        count: number of views.
        size: (height, width) of the images.
        kind: ``"rooms"`` or ``"tabletop"``.
        dataset: whose camera the table tops use, ``"camera"`` or ``"real"``.

    Returns:
        The views. Fewer than six compete if 400 viewpoints hold no more; if none passes, the one
        that sees most is taken and a warning logged.
    """
    if kind == "rooms":
        rules = _Rules(2, 0.10, 0.7, 6, _propose_in_room)
        intrinsics, probe = scannet_intrinsics(size), scannet_intrinsics(_PROBE)
    elif kind == "tabletop":
        populated = any(placed.annotated for placed in scene.objects)
        minimum = (1, 0.04) if populated else (0, 0.0)
        rules = _Rules(*minimum, 0.2, 1, _propose_at_table)
        intrinsics = nocs_intrinsics(size, dataset)
        probe = nocs_intrinsics(_PROBE, dataset)
    else:
        raise ValueError(f"kind is {kind!r}; expected 'rooms' or 'tabletop'")
    columns, rows = np.arange(_PROBE[1])[None], np.arange(_PROBE[0])[:, None]
    directions = pixel_directions(probe, columns, rows).reshape(-1, 3)
    rng = np.random.default_rng([*scene.seed, 1])
    shape = (int(size[0]), int(size[1]))
    return [
        View(intrinsics, _search(scene, probe, directions, rules, rng), shape, index)
        for index in range(count)
    ]


def _search(
    scene: Scene,
    intrinsics: np.ndarray,
    directions: np.ndarray,
    rules: _Rules,
    rng: np.random.Generator,
) -> np.ndarray:
    """The best world-to-camera matrix of the first few that pass the rules."""
    geometry = scene_geometry(scene)
    annotated = np.array([False, *(placed.annotated for placed in scene.objects)])
    passed: list[tuple[float, np.ndarray]] = []
    best, best_share = None, -1.0
    for _ in range(_ATTEMPTS):
        pose = rules.propose(scene, rng)
        if pose is None:
            continue
        eye, world = camera_rays(pose, directions)
        faces, depth = geometry.caster.first_hit(eye, world)
        if depth[faces >= 0].min(initial=np.inf) < rules.nearest:
            continue
        counts = np.bincount(geometry.instances[faces], minlength=len(annotated)) * annotated
        share = float(counts.sum()) / len(directions)
        if share >= rules.min_share and np.count_nonzero(counts >= 2) >= rules.min_objects:
            passed.append((_merit(scene, pose, intrinsics, counts[1:] / len(directions)), pose))
            if len(passed) == rules.candidates:
                break
        if share > best_share:
            best, best_share = pose, share
    if passed:
        return max(passed, key=lambda pair: pair[0])[1]
    if best is None:
        raise RuntimeError(f"{scene.name}: no free place for a camera in {_ATTEMPTS} attempts")
    _logger.warning("%s: no view passed; took one with %.1f %%", scene.name, 100 * best_share)
    return best


def _merit(scene: Scene, pose: np.ndarray, intrinsics: np.ndarray, shares: np.ndarray) -> float:
    """How well a view shows its objects.

    An object counts 1 if it is whole, 0 if half of its box lies outside the image, less if more
    does; times the weight of its class, and less if its share of the image is small.

    Args:
        scene: what is seen.
        pose: (4, 4) world to camera.
        intrinsics: (3, 3) of the probe.
        shares: (N,) of the image that each object covers; 0 for those without annotation.
    """
    total = 0.0
    for index in np.flatnonzero(shares > 0.0):
        vertices = scene_geometry(scene).object_vertices[index] @ pose[:3, :3].T + pose[:3, 3]
        box = clipped_box(vertices, scene.objects[index].model.faces, intrinsics)
        weight = _CLASS_WEIGHTS.get(scene.objects[index].model.category, 1.0)
        weight *= min(1.0, float(shares[index]) / _FULL_SHARE)
        total += weight * (1.0 - 2.0 * truncation(box, _PROBE))
    return total


def camera_rays(
    world_to_camera: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Move camera-frame rays to the world.

    Args:
        world_to_camera: (4, 4).
        directions: (N, 3) with z = 1.

    Returns:
        The eye (3,) float64 and the directions (N, 3) float32.
    """
    rotation = world_to_camera[:3, :3]
    eye = -rotation.T @ world_to_camera[:3, 3]
    # Written out, for the order of summation of a matrix product may depend on the thread count.
    world = sum(directions[:, i, None] * rotation[i] for i in range(3))
    return eye, world.astype(np.float32)


def look_at(eye: np.ndarray, target: np.ndarray, roll: float = 0.0) -> np.ndarray:
    """World-to-camera matrix (4, 4) of an OpenCV camera (x right, y down, z forward).

    Args:
        eye: (3,) world.
        target: (3,) world; not straight above or below the eye.
        roll: radians about the optical axis.
    """
    forward = np.asarray(target, dtype=np.float64) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cosine, sine = np.cos(roll), np.sin(roll)
    rotation = np.stack([cosine * right + sine * down, cosine * down - sine * right, forward])
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ eye
    return pose


def _propose_in_room(scene: Scene, rng: np.random.Generator) -> np.ndarray | None:
    """Eye 1.1-1.9 m high, 0.25 m off the walls, 1.2 m or more from the object it looks at."""
    lower, upper = _bounds(scene)
    eye = np.array([*rng.uniform(lower[:2] + 0.25, upper[:2] - 0.25), rng.uniform(1.1, 1.9)])
    labelled = [placed for placed in scene.objects if placed.annotated]
    if not labelled:
        raise ValueError(f"{scene.name} has no annotated object to look at")
    target = labelled[rng.integers(len(labelled))].translation + rng.uniform(-0.25, 0.25, 3)
    roll = rng.normal(0.0, 0.04)
    if np.linalg.norm(target - eye) < 1.2 or _inside_object(scene, eye, 0.2):
        return None
    return look_at(eye, target, roll)


def _propose_at_table(scene: Scene, rng: np.random.Generator) -> np.ndarray | None:
    """Eye 0.4-1.1 m from the objects, 15-60 degrees above them, within the room."""
    lower, upper = _bounds(scene)
    positions = np.stack([placed.translation for placed in scene.objects])
    target = positions.mean(axis=0) + rng.uniform(-0.06, 0.06, 3)
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(15.0, 60.0))
    level = np.cos(elevation)
    offset = np.array([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)])
    eye = target + rng.uniform(0.4, 1.1) * offset
    roll = rng.normal(0.0, 0.05)
    if (eye < lower + 0.1).any() or (eye > upper - 0.1).any() or _inside_object(scene, eye, 0.1):
        return None
    return look_at(eye, target, roll)


def _bounds(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the box around all surfaces: the room."""
    vertices = np.concatenate([surface.vertices for surface in scene.surfaces])
    return vertices.min(axis=0).astype(np.float64), vertices.max(axis=0).astype(np.float64)


def _inside_object(scene: Scene, eye: np.ndarray, margin: float) -> bool:
    """Whether the eye is in the world-aligned box of an object, grown by ``margin``."""
    for vertices in scene_geometry(scene).object_vertices:
        low, high = vertices.min(axis=0) - margin, vertices.max(axis=0) + margin
        if ((eye > low) & (eye < high)).all():
            return True
    return False
