"""Cars: the front looks towards -z, the wheels stand on y = 0. Lengths in metres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..primitives import Mesh, ball, box, cylinder, loft, rotate, tube
from .builder import ModelBuilder


@dataclass(frozen=True)
class _Body:
    """Proportions of a kind of car.

    Attributes:
        length, width, height: ranges in metres, of the body without mirrors.
        clearance: height of the sill above the ground.
        cowl, roof_start, roof_end, glass_end: shares of the length, from the front: lower edge of
            the windscreen, both ends of the roof, lower edge of the rear window.
        belt: share of the height, lower edge of the side windows.
        nose, tail: shares of the height of the belt, upper edges of front and rear.
    """

    length: tuple[float, float]
    width: tuple[float, float]
    height: tuple[float, float]
    clearance: float
    cowl: float
    roof_start: float
    roof_end: float
    glass_end: float
    belt: float
    nose: float
    tail: float


_BODIES = {
    "sedan": _Body(
        (4.3, 4.8), (1.72, 1.82), (1.4, 1.48), 0.2, 0.3, 0.43, 0.7, 0.84, 0.64, 0.72, 0.94
    ),
    "hatchback": _Body(
        (3.7, 4.1), (1.65, 1.78), (1.42, 1.52), 0.2, 0.27, 0.41, 0.87, 0.97, 0.62, 0.74, 0.96
    ),
    "compact": _Body(
        (3.2, 3.5), (1.5, 1.64), (1.48, 1.58), 0.2, 0.2, 0.36, 0.88, 0.98, 0.58, 0.8, 0.98
    ),
    "wagon": _Body(
        (4.4, 4.8), (1.74, 1.84), (1.44, 1.52), 0.2, 0.28, 0.41, 0.92, 0.99, 0.62, 0.74, 0.97
    ),
    "suv": _Body(
        (4.1, 4.6), (1.78, 1.9), (1.62, 1.76), 0.27, 0.27, 0.37, 0.9, 0.98, 0.64, 0.84, 0.98
    ),
    "van": _Body(
        (4.3, 4.8), (1.78, 1.9), (1.74, 1.8), 0.22, 0.12, 0.27, 0.97, 0.995, 0.58, 0.78, 0.99
    ),
    "coupe": _Body(
        (4.1, 4.5), (1.75, 1.84), (1.36, 1.42), 0.18, 0.35, 0.5, 0.63, 0.88, 0.66, 0.7, 0.92
    ),
    "pickup": _Body(
        (4.6, 4.8), (1.78, 1.88), (1.64, 1.76), 0.28, 0.29, 0.38, 0.54, 0.58, 0.62, 0.86, 0.9
    ),
}

# Body, lamps and extra of each variant; 8-11 combine the same families anew.
_CARS = (
    ("sedan", "wide", ""),
    ("hatchback", "round", ""),
    ("suv", "wide", "rails"),
    ("van", "tall", ""),
    ("wagon", "wide", "rails"),
    ("compact", "round", ""),
    ("pickup", "tall", ""),
    ("coupe", "wide", "spoiler"),
    ("sedan", "round", "sign"),
    ("hatchback", "wide", "spoiler"),
    ("suv", "round", ""),
    ("wagon", "tall", "box"),
)


def car(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A passenger car, van or pickup."""
    name, lamps, extra = _CARS[variant]
    body = _BODIES[name]
    length, width, height = (
        rng.uniform(*bounds) for bounds in (body.length, body.width, body.height)
    )
    half, front = width / 2.0, -length / 2.0
    belt = body.belt * height
    stations = [
        front + share * length
        for share in (body.cowl, body.roof_start, body.roof_end, body.glass_end)
    ]
    nose, tail = body.nose * belt, body.tail * belt
    _hull(builder, body.clearance, half, length, belt, nose, tail, stations)
    _cabin(builder, half, belt, height, stations)
    radius = rng.uniform(0.29, 0.33) + 0.25 * (body.clearance - 0.2)
    axles = (front + rng.uniform(0.17, 0.2) * length, -front - rng.uniform(0.17, 0.21) * length)
    _wheels(builder, half, radius, axles)
    _lamps(builder, lamps, half, -front, body.clearance, nose, tail)
    for side in (-1.0, 1.0):
        x = (side * (half - 0.02), side * (half + 0.05))
        builder.box(
            "mirror", (min(x), max(x)), (belt, belt + 0.13), (stations[0] + 0.2, stations[0] + 0.3)
        )
    _extras(builder, name, extra, half, height, belt, tail, stations, -front)


def _hull(
    builder: ModelBuilder,
    clearance: float,
    half: float,
    length: float,
    belt: float,
    nose: float,
    tail: float,
    stations: Sequence[float],
) -> None:
    """The painted lower body, and dark bumpers and sills that frame it."""
    front, rear = -length / 2.0, length / 2.0
    profile = np.array(
        [
            (front + 0.06, clearance),
            (front, clearance + 0.15),
            (front + 0.02, nose - 0.12),
            (front + 0.14, nose),
            (stations[0], belt),
            (stations[3], belt),
            (rear - 0.05, tail),
            (rear, tail - 0.12),
            (rear, clearance + 0.15),
            (rear - 0.06, clearance),
        ]
    )
    middle = (clearance + belt) / 2.0
    builder.add("body", _extruded(profile, half, middle))
    low, high = clearance - 0.04, clearance + 0.2
    builder.box("bumper", (-half * 0.94, half * 0.94), (low, high), (front - 0.03, front + 0.12))
    builder.box("bumper", (-half * 0.94, half * 0.94), (low, high), (rear - 0.12, rear + 0.03))
    sill = (front + 0.3 * length, rear - 0.3 * length)
    builder.box("bumper", (-half - 0.01, half + 0.01), (low, clearance + 0.1), sill)


def _extruded(profile: np.ndarray, half: float, middle: float) -> Mesh:
    """A side view pulled out along x, drawn in a little at both flanks.

    Args:
        profile: (N, 2) points (z, y), running from the lower front up and to the rear.
        half: half width.
        middle: height about which the flanks are drawn in.
    """
    rings = []
    for x, share in ((-half, 0.95), (-half * 0.93, 1.0), (half * 0.93, 1.0), (half, 0.95)):
        z = profile[:, 0] * (0.985 if share < 1.0 else 1.0)
        y = middle + (profile[:, 1] - middle) * share
        rings.append(np.stack([np.full(len(z), x), y, z], axis=-1))
    return loft(rings)


def _cabin(
    builder: ModelBuilder, half: float, belt: float, height: float, stations: Sequence[float]
) -> None:
    """Windows all around, a painted roof and the pillars between them."""
    cowl, roof_start, roof_end, glass_end = stations
    bottom = _rectangle(0.95 * half, cowl, glass_end, belt - 0.02)
    top = _rectangle(0.78 * half, roof_start, roof_end, height - 0.05)
    builder.add("window", loft([bottom, top]))
    edge = _rectangle(0.8 * half, roof_start - 0.03, roof_end + 0.03, height - 0.06)
    crown = _rectangle(0.72 * half, roof_start + 0.06, roof_end - 0.06, height)
    builder.add("roof", loft([edge, crown]))
    for lower, upper in zip(bottom, edge, strict=True):
        builder.add("pillar", tube([lower, upper], 0.04, segments=5))
    span = roof_end - roof_start
    posts = np.linspace(roof_start, roof_end, 2 + max(1, round(span / 1.1)))[1:-1]
    for side in (-1.0, 1.0):
        for z in posts:
            foot, head = (side * 0.95 * half, belt, z), (side * 0.79 * half, height - 0.06, z)
            builder.add("pillar", tube([foot, head], 0.035, segments=5))


def _rectangle(half: float, front: float, rear: float, height: float) -> np.ndarray:
    """(4, 3) corners in the plane y = height, counter-clockwise seen from above."""
    return np.array(
        [
            (-half, height, front),
            (-half, height, rear),
            (half, height, rear),
            (half, height, front),
        ]
    )


def _wheels(builder: ModelBuilder, half: float, radius: float, axles: Sequence[float]) -> None:
    for z in axles:
        for side in (-1.0, 1.0):
            for part, size, inner, outer in (
                ("wheel", radius, half - 0.22, half + 0.015),
                ("rim", 0.62 * radius, half - 0.05, half + 0.025),
            ):
                wheel = cylinder(size, inner, outer, segments=16)
                wheel = rotate(wheel, 2, -90.0 * side)
                wheel.vertices[:] += (0.0, radius, z)
                builder.add(part, wheel)


def _lamps(
    builder: ModelBuilder,
    lamps: str,
    half: float,
    end: float,
    clearance: float,
    nose: float,
    tail: float,
) -> None:
    """White in front, with a dark grille; red at the rear; plates at both ends."""
    high = nose - 0.1
    for side in (-1.0, 1.0):
        if lamps == "round":
            lamp = ball(0.11, (side * (half - 0.22), high - 0.08, -end + 0.02), segments=8)
            builder.add("headlight", lamp)
        else:
            x = sorted((side * (half - 0.06), side * (half - 0.5)))
            builder.box("headlight", (x[0], x[1]), (high - 0.14, high), (-end - 0.015, -end + 0.1))
        if lamps == "tall":
            x = sorted((side * (half - 0.03), side * (half - 0.2)))
            rise = (tail - 0.42, tail - 0.02)
        else:
            x = sorted((side * (half - 0.05), side * (half - 0.42)))
            rise = (tail - 0.26, tail - 0.08)
        builder.box("tail_light", (x[0], x[1]), rise, (end - 0.1, end + 0.015))
    builder.box("grille", (-0.4, 0.4), (clearance + 0.18, high - 0.02), (-end - 0.02, -end + 0.05))
    builder.box("plate", (-0.26, 0.26), (clearance + 0.2, clearance + 0.32), (-end - 0.035, -end))
    plate = (tail - 0.42, tail - 0.3)
    builder.box("plate", (-0.26, 0.26), plate, (end - 0.02, end + 0.012))


def _extras(
    builder: ModelBuilder,
    name: str,
    extra: str,
    half: float,
    height: float,
    belt: float,
    tail: float,
    stations: Sequence[float],
    end: float,
) -> None:
    _, roof_start, roof_end, glass_end = stations
    if name == "pickup":
        bed = (glass_end + 0.08, end - 0.06)
        builder.box("bed", (-half * 0.82, half * 0.82), (tail, tail + 0.012), bed)
        for side in (-1.0, 1.0):
            x = sorted((side * half * 0.84, side * half * 0.94))
            builder.box("body", (x[0], x[1]), (tail - 0.05, belt + 0.06), bed)
    if extra == "rails":
        y = height + 0.03
        for rail_x in (-0.68 * half, 0.68 * half):
            rail = [(rail_x, y, roof_start + 0.15), (rail_x, y, roof_end - 0.1)]
            builder.add("rail", tube(rail, 0.025, segments=6))
    elif extra == "spoiler":
        builder.box(
            "spoiler",
            (-0.75 * half, 0.75 * half),
            (tail + 0.1, tail + 0.14) if name == "coupe" else (height - 0.06, height - 0.02),
            (end - 0.3, end - 0.06) if name == "coupe" else (roof_end - 0.05, roof_end + 0.22),
        )
        if name == "coupe":
            for post_x in (-0.5 * half, 0.5 * half):
                builder.box(
                    "spoiler",
                    (post_x - 0.02, post_x + 0.02),
                    (tail - 0.04, tail + 0.12),
                    (end - 0.22, end - 0.14),
                )
    elif extra == "sign":
        z = roof_start + 0.3
        builder.box("sign", (-0.32, 0.32), (height - 0.01, height + 0.14), (z, z + 0.16))
    elif extra == "box":
        builder.add(
            "roof_box",
            box((-0.4, height + 0.02, roof_start + 0.1), (0.4, height + 0.32, roof_end - 0.3)),
        )
