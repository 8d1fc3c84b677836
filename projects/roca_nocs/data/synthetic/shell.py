"""The empty room: floor, walls, ceiling, what hangs on them, and the lights."""

from __future__ import annotations

import numpy as np

from .materials import random_color
from .types import Lighting, Material, Surface

_FLOORS = (
    ("planks", (150, 112, 74)),
    ("planks", (176, 142, 104)),
    ("planks", (110, 82, 58)),
    ("tiles", (186, 184, 178)),
    ("tiles", (140, 132, 126)),
    ("carpet", (128, 122, 130)),
    ("carpet", (152, 140, 118)),
    ("carpet", (92, 98, 112)),
)


def room_shell(rng: np.random.Generator, extent: np.ndarray, height: float) -> tuple[Surface, ...]:
    """Floor, ceiling and four walls with skirting, a door, windows, pictures, at times a rug.

    Args:
        rng: source of colours and decoration.
        extent: (2,) size of the floor in metres; its middle is the origin.
        height: of the room.
    """
    half = np.asarray(extent, dtype=np.float64) / 2.0
    texture, base = _FLOORS[rng.integers(len(_FLOORS))]
    floor_color = np.asarray(base, dtype=np.float64) * rng.uniform(0.8, 1.15) + rng.normal(0, 10, 3)
    floor = Material(_clip(floor_color / 255.0), texture, float(rng.uniform(0.8, 1.3)))
    ceiling = Material(np.full(3, rng.uniform(0.82, 0.95), dtype=np.float32))
    surfaces = [
        _horizontal(np.zeros(2), half, 0.0, floor),
        _horizontal(np.zeros(2), half, height, ceiling),
    ]
    wall_color = random_color(rng, (0.75, 0.98))
    wall_color = _clip(0.35 * wall_color + 0.65 * wall_color.mean())
    wall_texture = "stripes" if rng.random() < 0.1 else "none"
    accent = int(rng.integers(16))  # one wall in four rooms has a colour of its own
    skirting = Material(_clip(np.full(3, rng.uniform(0.5, 0.95))))
    for side in range(4):
        color = wall_color
        if side == accent:
            color = random_color(rng, (0.5, 0.9))
            color = _clip(0.5 * color + 0.5 * color.mean())
        wall = Material(color, wall_texture, float(rng.uniform(0.6, 1.2)))
        full = (-half[side // 2 - 1], half[side // 2 - 1])
        surfaces.append(_vertical(side, half, 0.0, full, (0.0, height), wall))
        surfaces.append(_vertical(side, half, 0.012, full, (0.0, 0.08), skirting))
    for side in rng.permutation(4)[: int(rng.integers(1, 4))]:
        surfaces.extend(_decoration(rng, int(side), half))
    if rng.random() < 0.35:
        size = rng.uniform(0.5, 1.1, 2)
        centre = rng.uniform(-0.4, 0.4, 2) * half
        rug = Material(random_color(rng, (0.3, 0.8)), "carpet", float(rng.uniform(0.7, 1.4)))
        surfaces.append(_horizontal(centre, np.minimum(size, half - np.abs(centre)), 0.0008, rug))
    return tuple(surfaces)


def sample_lighting(rng: np.random.Generator, extent: np.ndarray, height: float) -> Lighting:
    """A lamp under the ceiling, a distant light from above and an ambient term."""
    reach = 0.3 * np.asarray(extent, dtype=np.float64)
    position = np.array([*rng.uniform(-reach, reach), height - rng.uniform(0.1, 0.3)])
    direction = np.array([*rng.uniform(-1.0, 1.0, 2), rng.uniform(0.5, 1.0)])
    return Lighting(
        point_position=position,
        point_power=float(rng.uniform(1.2, 2.2)),
        direction=direction / np.linalg.norm(direction),
        directional_power=float(rng.uniform(0.35, 0.55)),
        ambient=float(rng.uniform(0.45, 0.6)),
        exposure=float(rng.uniform(0.85, 1.15)),
    )


def _decoration(rng: np.random.Generator, side: int, half: np.ndarray) -> list[Surface]:
    """A door, a window or a picture on one wall: a frame and, a little in front, its filling."""
    kind = ("door", "window", "picture", "picture")[rng.integers(4)]
    width, low, tall = {
        "door": (0.85, 0.0, 2.0),
        "window": (rng.uniform(0.8, 1.5), rng.uniform(0.8, 1.0), rng.uniform(0.9, 1.2)),
        "picture": (rng.uniform(0.3, 0.9), rng.uniform(1.1, 1.5), rng.uniform(0.3, 0.7)),
    }[kind]
    room = half[side // 2 - 1] - width / 2 - 0.1
    centre = rng.uniform(-room, room)
    span, rise = (centre - width / 2, centre + width / 2), (low, low + tall)
    frame = Material(_clip(np.full(3, rng.uniform(0.15, 0.95))))
    if kind == "window":
        filling = Material(_clip(np.array([0.8, 0.9, 1.0]) * rng.uniform(0.75, 1.1)))
    else:
        filling = Material(random_color(rng, (0.3, 0.9)), "none" if kind == "door" else "speckle")
    edge = 0.05
    inner = (span[0] + edge, span[1] - edge), (max(rise[0] + edge, 0.0), rise[1] - edge)
    return [
        _vertical(side, half, 0.013, span, rise, frame),
        _vertical(side, half, 0.016, *inner, filling),
    ]


def _horizontal(centre: np.ndarray, half: np.ndarray, z: float, material: Material) -> Surface:
    signs = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    corners = np.column_stack([centre + signs * half, np.full(4, z)])
    return _quad(corners, material)


def _vertical(
    side: int,
    half: np.ndarray,
    offset: float,
    span: tuple[float, float],
    rise: tuple[float, float],
    material: Material,
) -> Surface:
    """A rectangle on a wall. Sides 0 and 1 lie at -x and +x, sides 2 and 3 at -y and +y."""
    axis, sign = side // 2, -1.0 if side % 2 == 0 else 1.0
    corners = np.empty((4, 3))
    corners[:, axis] = sign * (half[axis] - offset)
    corners[:, 1 - axis] = [span[0], span[1], span[1], span[0]]
    corners[:, 2] = [rise[0], rise[0], rise[1], rise[1]]
    return _quad(corners, material)


def _quad(corners: np.ndarray, material: Material) -> Surface:
    faces = np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32)
    return Surface(corners.astype(np.float32), faces, material)


def _clip(color: np.ndarray) -> np.ndarray:
    return np.clip(color, 0.02, 1.0).astype(np.float32)
