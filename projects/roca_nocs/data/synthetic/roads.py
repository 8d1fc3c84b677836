"""What a street consists of: lanes and pavements, their surfaces, houses, trees, sky and sun."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .layout import Footprint
from .materials import random_color, role_material
from .primitives import Mesh, ball, box, cylinder, translate
from .types import Lighting, Material, Surface

# World x right, y ahead, z up; a road has s to its right and d along it. Metres.
_LANE = 3.4
_PARKING = 2.2
_PAVEMENT = 2.8
_HORIZON = 95.0
_SIDE = 170.0
_SKY = 60.0


@dataclass(frozen=True)
class Road:
    """A straight road, or an open square.

    Attributes:
        heading: radians of the road's direction to the left of world y.
        lateral: metres from the middle of the own lane to the camera, to the right.
        slope: of the ground along world y.
        parking: whether cars park along both kerbs.
        square: an open place where everybody goes everywhere.
    """

    heading: float
    lateral: float
    slope: float
    parking: bool
    square: bool

    @property
    def along(self) -> float:
        """Angle of the driving direction of the own lane, from world x towards world y."""
        return math.pi / 2.0 + self.heading

    @property
    def kerbs(self) -> tuple[float, float]:
        """s of the left and the right kerb."""
        parking = _PARKING if self.parking else 0.0
        return -1.5 * _LANE - parking, 0.5 * _LANE + parking

    def world(self, s: float, d: float) -> np.ndarray:
        """(2,) world x and y of a place on the road."""
        cosine, sine = math.cos(self.heading), math.sin(self.heading)
        s = s - self.lateral
        return np.array([s * cosine - d * sine, s * sine + d * cosine])

    def rise(self, to: np.ndarray, start: np.ndarray) -> float:
        """Difference in height of the ground between two places (2,)."""
        return self.slope * float(to[1] - start[1])

    def lane(
        self, rng: np.random.Generator, category: str, depth: float
    ) -> tuple[np.ndarray, float]:
        """Where an object of a class goes, and which way it looks.

        Args:
            rng: source of the choices.
            category: ``"car"``, ``"pedestrian"`` or ``"cyclist"``.
            depth: metres along the road.

        Returns:
            World place (2,) and the angle of the heading, from world x towards world y.
        """
        left, right = self.kerbs
        choice = rng.random()
        ahead, back = self.along, self.along + math.pi
        across = self.along + math.pi / 2.0 * float(rng.choice((-1.0, 1.0)))
        if category == "car":
            turned = rng.normal(0.0, 0.05)
            if self.parking and choice < 0.5:
                own = bool(rng.random() < 0.5)
                s = right - 0.5 * _PARKING if own else left + 0.5 * _PARKING
                # Some park against the direction of their side.
                angle = ahead if own == bool(rng.random() < 0.8) else back
            elif choice < 0.88:
                own = bool(rng.random() < 0.5)
                s, angle = (0.0, ahead) if own else (-_LANE, back)
                s += rng.normal(0.0, 0.2)
            else:  # at a crossing
                s, angle, turned = rng.uniform(left, right), across, rng.normal(0.0, 0.2)
        elif category == "cyclist":
            turned = rng.normal(0.0, 0.12)
            own = bool(rng.random() < 0.55)
            s, angle = (0.5 * _LANE - 0.5, ahead) if own else (-1.5 * _LANE + 0.5, back)
            if choice < 0.2:
                s, angle = rng.uniform(left, right), across
        else:
            turned = rng.normal(0.0, 0.3)
            if choice < 0.25:
                s, angle = rng.uniform(left, right), across
            else:
                own = bool(rng.random() < 0.5)
                edge, outward = (right, 1.0) if own else (left, -1.0)
                s = edge + outward * rng.uniform(0.5, _PAVEMENT - 0.4)
                angle = ahead if rng.random() < 0.5 else back
        return self.world(float(s), depth), float(angle + turned)


def sample_sun(rng: np.random.Generator) -> Lighting:
    """A sun behind or beside the camera, so near that shadows are sharp, and a bright sky."""
    azimuth, elevation = rng.uniform(-1.35, 1.35), rng.uniform(0.5, 1.2)
    distance = 400.0
    level = math.cos(elevation)
    away = np.array([level * math.sin(azimuth), -level * math.cos(azimuth), math.sin(elevation)])
    strength = rng.uniform(0.25, 0.75)
    sky = np.array([*rng.uniform(-0.4, 0.4, 2), 1.0])
    return Lighting(
        point_position=distance * away,
        point_power=float(strength * distance**2),
        direction=sky / np.linalg.norm(sky),
        directional_power=float(rng.uniform(0.2, 0.35)),
        ambient=float(rng.uniform(0.48, 0.65)),
        exposure=float(rng.uniform(0.85, 1.15)),
    )


def street_surfaces(
    rng: np.random.Generator, road: Road, taken: Sequence[Footprint]
) -> tuple[Surface, ...]:
    """Ground, markings, pavements, houses, trees and the sky.

    Args:
        rng: source of colours and places.
        road: the street.
        taken: places where nothing may stand.
    """
    sky_color = np.array([0.72, 0.84, 1.0]) * rng.uniform(0.8, 1.05) + rng.normal(0.0, 0.03, 3)
    asphalt = np.full(3, rng.uniform(0.24, 0.42)) + rng.normal(0.0, 0.01, 3)
    edge = _HORIZON - 0.5
    surfaces = [
        _slab((-_SIDE, -15.0), (_SIDE, edge), 0.0, Material(_clip(asphalt), "asphalt")),
        Surface(
            np.array(
                [(x, _HORIZON, z) for x, z in _rectangle((-_SIDE, -20.0), (_SIDE, _SKY))],
                dtype=np.float32,
            ),
            np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32),
            Material(_clip(sky_color)),
        ),
    ]
    parts = _square_parts(rng) if road.square else _road_parts(rng, road)
    parts += _trees(rng, road, taken)
    surfaces += parts if road.square else [_turned(part, road) for part in parts]
    sloped = []
    for number, surface in enumerate(surfaces):
        vertices = surface.vertices.copy()
        if number != 1:  # the sky stays upright
            vertices[:, 2] += np.float32(road.slope) * vertices[:, 1]
        sloped.append(Surface(vertices, surface.faces, surface.material))
    return tuple(sloped)


def _road_parts(rng: np.random.Generator, road: Road) -> list[Surface]:
    """In road coordinates: markings, kerbs, pavements, verges and houses on both sides."""
    left, right = road.kerbs
    end = _HORIZON - 8.0
    paint = Material(_clip(np.full(3, rng.uniform(0.75, 0.95))))
    paving = _clip(np.full(3, rng.uniform(0.45, 0.7)) + rng.normal(0.0, 0.03, 3))
    pavement = Material(paving, "tiles", float(rng.uniform(0.4, 0.8)))
    kerb = Material(_clip(np.full(3, rng.uniform(0.55, 0.8))))
    grass = np.array([0.32, 0.45, 0.2]) * rng.uniform(0.7, 1.2)
    verge = Material(_clip(grass + rng.normal(0.0, 0.03, 3)), "asphalt", 2.0)
    first = rng.uniform(0.0, 6.0)
    parts = [
        _slab((-0.5 * _LANE - 0.07, d), (-0.5 * _LANE + 0.07, d + 3.0), 0.004, paint)
        for d in np.arange(first, end, 9.0)
    ]
    if road.parking:
        for s in (0.5 * _LANE, -1.5 * _LANE):
            parts.append(_slab((s - 0.05, -5.0), (s + 0.05, end), 0.004, paint))
    for edge, outward in ((left, -1.0), (right, 1.0)):
        sides = sorted((edge, edge + outward * 0.18))
        parts.append(_block((sides[0], -5.0, 0.0), (sides[1], end, 0.1), kerb))
        sides = sorted((edge + outward * 0.18, edge + outward * _PAVEMENT))
        parts.append(_slab((sides[0], -5.0), (sides[1], end), 0.006, pavement))
        sides = sorted((edge + outward * _PAVEMENT, outward * _SIDE))
        parts.append(_slab((sides[0], -5.0), (sides[1], end), 0.005, verge))
        d = rng.uniform(2.0, 14.0)
        while d < end - 20.0:
            length, depth = rng.uniform(7.0, 18.0), rng.uniform(7.0, 11.0)
            near = edge + outward * (_PAVEMENT + rng.uniform(0.6, 5.0))
            sides = sorted((near, near + outward * depth))
            if rng.random() < 0.75:
                parts += _house(rng, (sides[0], d), (sides[1], d + length))
            d += length + rng.uniform(0.5, 9.0)
    return parts


def _square_parts(rng: np.random.Generator) -> list[Surface]:
    """In world coordinates: a paved place with houses at its far end."""
    paving = _clip(np.full(3, rng.uniform(0.4, 0.65)) + rng.normal(0.0, 0.03, 3))
    parts = []
    if rng.random() < 0.6:
        pavement = Material(paving, "tiles", float(rng.uniform(0.25, 0.6)))
        parts.append(_slab((-_SIDE, -10.0), (_SIDE, _HORIZON - 1.0), 0.004, pavement))
    x = -90.0
    while x < 90.0:
        width = rng.uniform(10.0, 24.0)
        y = rng.uniform(76.0, 84.0)
        parts += _house(rng, (x, y), (x + width, y + 8.0))
        x += width + rng.uniform(0.0, 8.0)
    return parts


def _house(
    rng: np.random.Generator, low: tuple[float, float], high: tuple[float, float]
) -> list[Surface]:
    """Walls with windows, and a darker roof on top."""
    height = rng.uniform(5.0, 15.0)
    color = random_color(rng, (0.5, 0.95))
    wall = Material(_clip(0.4 * color + 0.6 * color.mean()), "facade", float(rng.uniform(0.8, 1.2)))
    roof = Material(_clip(np.array([0.42, 0.26, 0.2]) * rng.uniform(0.6, 1.2)))
    return [
        _block((*low, 0.0), (*high, height), wall),
        _block(
            (low[0] - 0.3, low[1] - 0.3, height), (high[0] + 0.3, high[1] + 0.3, height + 0.6), roof
        ),
    ]


def _trees(rng: np.random.Generator, road: Road, taken: Sequence[Footprint]) -> list[Surface]:
    """Trees on the pavements, or anywhere on a square, away from everybody."""
    parts = []
    left, right = road.kerbs
    for _ in range(int(rng.integers(0, 7))):
        d = rng.uniform(9.0, 70.0)
        if road.square:
            s = rng.uniform(-1.0, 1.0) * d
            place = np.array([s, d])
        else:
            own = bool(rng.random() < 0.5)
            s = right + 0.6 if own else left - 0.6
            place = road.world(s, d)
        trunk = Footprint(place, np.array([0.4, 0.4]), 0.0)
        if any(trunk.overlaps(other, 0.5) for other in taken):
            continue
        height, radius = rng.uniform(2.2, 3.2), rng.uniform(1.0, 1.8)
        bark, leaves = role_material("wood", rng), role_material("leaf", rng)
        parts.append(_upright(cylinder(0.14, 0.0, height + 0.5, segments=8), (s, d), bark))
        crown = ball(radius, (0.0, height + 0.7 * radius, 0.0), segments=10)
        parts.append(_upright(crown, (s, d), leaves))
    return parts


def _slab(
    low: tuple[float, float], high: tuple[float, float], height: float, material: Material
) -> Surface:
    """A horizontal rectangle."""
    corners = np.array([(x, y, height) for x, y in _rectangle(low, high)], dtype=np.float32)
    return Surface(corners, np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32), material)


def _rectangle(low: tuple[float, float], high: tuple[float, float]) -> list[tuple[float, float]]:
    return [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]


def _block(
    low: tuple[float, float, float], high: tuple[float, float, float], material: Material
) -> Surface:
    mesh = box(low, high)
    return Surface(mesh.vertices.astype(np.float32), mesh.faces, material)


def _upright(mesh: Mesh, place: tuple[float, float], material: Material) -> Surface:
    """A mesh with y up, stood at a place of the ground."""
    x, y, z = mesh.vertices.T
    vertices = np.stack([x, -z, y], axis=-1)
    moved = translate(Mesh(vertices, mesh.faces), (*place, 0.0))
    return Surface(moved.vertices.astype(np.float32), moved.faces, material)


def _turned(surface: Surface, road: Road) -> Surface:
    """From road coordinates to the world."""
    cosine, sine = math.cos(road.heading), math.sin(road.heading)
    s, d, z = surface.vertices.astype(np.float64).T
    s = s - road.lateral
    vertices = np.stack([s * cosine - d * sine, s * sine + d * cosine, z], axis=-1)
    return Surface(vertices.astype(np.float32), surface.faces, surface.material)


def _clip(color: np.ndarray) -> np.ndarray:
    return np.clip(color, 0.02, 1.0).astype(np.float32)
