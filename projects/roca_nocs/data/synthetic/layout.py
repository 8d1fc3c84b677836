"""Placing models on supports: floor rectangles, overlap tests, poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .materials import sample_materials
from .types import CadModel, PlacedObject, Surface

# Model axes in the world at yaw 0: x stays, y (up) becomes z, the front -z becomes +y.
_UPRIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


@dataclass(frozen=True)
class Footprint:
    """A rectangle in the ground plane.

    Attributes:
        centre: (2,) metres.
        half: (2,) half extents along the local axes.
        yaw: radians from world x to the local x axis.
    """

    centre: np.ndarray
    half: np.ndarray
    yaw: float

    def corners(self, margin: float = 0.0) -> np.ndarray:
        """(4, 2) corners of the rectangle grown by ``margin`` on each side."""
        signs = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        return self.centre + (signs * (self.half + margin)) @ self.axes()

    def axes(self) -> np.ndarray:
        """(2, 2) local x and y axes, as rows."""
        cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[cosine, sine], [-sine, cosine]])

    def contains(self, other: Footprint, margin: float = 0.0) -> bool:
        """Whether ``other`` lies inside, at least ``margin`` from the edge."""
        local = (other.corners() - self.centre) @ self.axes().T
        return bool((np.abs(local) <= self.half - margin).all())

    def overlaps(self, other: Footprint, margin: float = 0.0) -> bool:
        """Whether two rectangles come closer than ``margin`` along every separating axis."""
        mine, theirs = self.corners(margin), other.corners()
        for axis in np.concatenate([self.axes(), other.axes()]):
            a, b = mine @ axis, theirs @ axis
            if a.max() <= b.min() or b.max() <= a.min():
                return False
        return True


def yaw_facing(direction: np.ndarray) -> float:
    """The yaw at which the front of a model (its -z) points along ``direction`` (x, y)."""
    return float(np.arctan2(-direction[0], direction[1]))


def sample_scale(
    model: CadModel, rng: np.random.Generator, *, uniform: bool = False, factor: float = 1.0
) -> np.ndarray:
    """Metres per model unit along each axis.

    Args:
        model: what to scale.
        rng: source of the 0.92-1.08 common and 0.95-1.05 per-axis factors.
        uniform: one factor for all axes, so that the pose is a similarity.
        factor: additional common factor.

    Returns:
        (3,) float64. The x and z factors are equal where the symmetry of the model demands it.
    """
    common = float(np.linalg.norm(model.size)) * rng.uniform(0.92, 1.08) * factor
    axes = np.ones(3) if uniform else rng.uniform(0.95, 1.05, 3)
    if model.symmetry in ("__SYM_ROTATE_UP_4", "__SYM_ROTATE_UP_INF"):
        axes[2] = axes[0]
    return common * axes


def footprint(model: CadModel, scale: np.ndarray, centre: np.ndarray, yaw: float) -> Footprint:
    """The rectangle that a model covers."""
    half = np.abs(model.vertices[:, [0, 2]]).max(axis=0) * scale[[0, 2]]
    return Footprint(np.asarray(centre, dtype=np.float64), half, yaw)


def occupied(placed: PlacedObject) -> Footprint:
    """The floor rectangle of an upright object."""
    front = -placed.rotation[:2, 2]
    return footprint(placed.model, placed.scale, placed.translation[:2], yaw_facing(front))


def place(
    model: CadModel,
    scale: np.ndarray,
    area: Footprint,
    support: float,
    rng: np.random.Generator,
    *,
    annotated: bool = True,
) -> PlacedObject:
    """Stand a model on a plane.

    Args:
        model: what to place.
        scale: (3,) metres per model unit.
        area: where, as made by :func:`footprint`.
        support: height of the plane in metres.
        rng: source of the materials.
        annotated: whether the object gets a label.
    """
    cosine, sine = np.cos(area.yaw), np.sin(area.yaw)
    turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    bottom = float(model.vertices[:, 1].min()) * scale[1]
    return PlacedObject(
        model=model,
        rotation=turn @ _UPRIGHT,
        scale=scale,
        translation=np.array([*area.centre, support - bottom]),
        materials=sample_materials(model, rng),
        annotated=annotated,
    )


def top_height(placed: PlacedObject) -> float:
    """World height of the highest point of an upright object."""
    return float(placed.translation[2] + placed.model.vertices[:, 1].max() * placed.scale[1])


def world_vertices(placed: PlacedObject) -> np.ndarray:
    """(V, 3) float64 vertices of a placed object in the world frame."""
    matrix = placed.rotation * placed.scale
    return placed.model.vertices.astype(np.float64) @ matrix.T + placed.translation


def as_surfaces(placed: PlacedObject) -> tuple[Surface, ...]:
    """Turn an object into background, one surface per part."""
    vertices = world_vertices(placed).astype(np.float32)
    return tuple(
        Surface(vertices, placed.model.faces[placed.model.face_parts == part], material)
        for part, material in enumerate(placed.materials)
    )
