"""Pedestrians and cyclists: they face -z and stand on y = 0. Lengths in metres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..primitives import (
    Mesh,
    Point,
    ball,
    band,
    box,
    cylinder,
    lathe,
    loft,
    outline,
    rotate,
    translate,
    tube,
)
from .builder import ModelBuilder

# Gait, clothes and extra of each pedestrian; 8-11 combine the same families anew.
_PEDESTRIANS = (
    ("stand", "trousers", ""),
    ("walk", "trousers", "backpack"),
    ("stride", "trousers", ""),
    ("walk", "skirt", ""),
    ("stand", "coat", "bag"),
    ("walk", "shorts", "cap"),
    ("stride", "trousers", "backpack"),
    ("stand", "skirt", "bag"),
    ("walk", "coat", ""),
    ("stride", "shorts", "backpack"),
    ("stand", "trousers", "cap"),
    ("walk", "trousers", "bag"),
)
_SWING = {"stand": 3.0, "walk": 14.0, "stride": 21.0}

# Frame, lean of the rider in degrees, and extra of each cyclist.
_CYCLISTS = (
    ("diamond", 22.0, ""),
    ("step", 8.0, "basket"),
    ("diamond", 45.0, ""),
    ("step", 12.0, "child seat"),
    ("diamond", 20.0, "backpack"),
    ("step", 15.0, ""),
    ("diamond", 38.0, "backpack"),
    ("step", 6.0, "bags"),
    ("diamond", 14.0, "basket"),
    ("step", 10.0, "backpack"),
    ("diamond", 32.0, "bags"),
    ("diamond", 25.0, "child seat"),
)


def pedestrian(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A person on foot, standing or in mid-step."""
    gait, clothes, extra = _PEDESTRIANS[variant]
    height = rng.uniform(1.55, 1.9)
    swing = _SWING[gait] * (1.0 if rng.random() < 0.5 else -1.0)
    hip, shoulder = 0.52 * height, 0.82 * height
    girth = rng.uniform(0.9, 1.15)
    for side in (-1.0, 1.0):
        x, turn = side * 0.09 * girth, side * swing
        _leg(builder, x, hip, turn, "skin" if clothes in ("skirt", "shorts") else "trousers", girth)
        shift = side * (0.215 * girth)
        _arm(builder, shift, shoulder - 0.03, 0.4 * height, -1.1 * turn, "jacket", girth)
    profile = [(0.13, hip - 0.03), (0.165, hip + 0.05), (0.15, hip + 0.18)]
    profile += [(0.19, shoulder - 0.14), (0.2, shoulder - 0.03), (0.08, shoulder + 0.04)]
    torso = [(girth * radius, y) for radius, y in profile]
    builder.add("jacket", lathe(torso, segments=14, depth_ratio=0.62, exponent=2.6))
    if clothes == "skirt":
        skirt = [(0.25, 0.3 * height), (0.19, hip), (0.16, hip + 0.14)]
        builder.add("trousers", lathe([(girth * r, y) for r, y in skirt], depth_ratio=0.8))
    elif clothes == "coat":
        coat = [(0.23, 0.26 * height), (0.2, hip), (0.18, hip + 0.2)]
        builder.add("jacket", lathe([(girth * r, y) for r, y in coat], depth_ratio=0.75))
    elif clothes == "shorts":
        for side in (-1.0, 1.0):
            shorts = cylinder(0.1 * girth, -0.3, 0.02, segments=10)
            shorts = translate(rotate(shorts, 0, side * swing), (side * 0.09 * girth, hip, 0.0))
            builder.add("trousers", shorts)
    _head(builder, (0.0, shoulder + 0.04, 0.0), 0.18 * height - 0.05, extra == "cap")
    if extra == "backpack":
        builder.add(
            "bag",
            box((-0.16, hip + 0.08, 0.09 * girth), (0.16, shoulder - 0.02, 0.09 * girth + 0.19)),
        )
    elif extra == "bag":
        low = (0.22 * girth, 0.3 * height, -0.15)
        builder.add("bag", box(low, (0.22 * girth + 0.11, 0.46 * height, 0.17)))


def _leg(
    builder: ModelBuilder, x: float, hip: float, swing: float, part: str, girth: float
) -> None:
    """A straight leg turned about the hip by ``swing`` degrees, with a shoe that points ahead."""
    profile = [(0.05, -hip + 0.06), (0.062, -0.62 * hip), (0.058, -0.5 * hip), (0.09, -0.05)]
    leg = lathe([*((girth * r, y) for r, y in profile), (0.085 * girth, 0.0)], segments=10)
    leg = rotate(leg, 0, swing)
    # What a swung leg lacks in height keeps the hip where it is: both feet touch the ground.
    reach = -leg.vertices[:, 1].min()
    leg.vertices[:, 1] *= (hip - 0.06) / reach
    builder.add(part, translate(leg, (x, hip, 0.0)))
    angle = np.deg2rad(swing)
    ankle = -np.tan(angle) * (hip - 0.06) if abs(swing) > 5.0 else 0.0
    builder.add("shoe", box((x - 0.05, 0.0, ankle - 0.19), (x + 0.05, 0.1, ankle + 0.08)))


def _arm(
    builder: ModelBuilder,
    x: float,
    shoulder: float,
    length: float,
    swing: float,
    part: str,
    girth: float,
) -> None:
    """Upper arm and forearm, bent forward at the elbow, and a hand."""
    outward = np.sign(x) * 0.04
    upper, angle = 0.46 * length, np.deg2rad(swing)
    elbow = np.array([x + outward, shoulder - upper * np.cos(angle), -upper * np.sin(angle)])
    bent = angle + np.deg2rad(12.0 + 0.5 * abs(swing))
    lower = 0.44 * length
    wrist = _moved(elbow, 0.3 * outward, -lower * np.cos(bent), -lower * np.sin(bent))
    builder.add(part, tube([(x, shoulder, 0.0), elbow, wrist], 0.047 * girth, segments=7))
    builder.add("skin", ball(0.05, wrist, segments=6))


def _head(builder: ModelBuilder, neck: Point, size: float, cap: bool) -> None:
    """A head of ``size`` metres from the neck up: the face is in front, hair behind and above."""
    base = np.asarray(neck, dtype=np.float64)
    radius = 0.42 * size
    centre = _moved(base, 0.0, size - 1.18 * radius, -0.01)
    builder.add("skin", tube([base - (0.0, 0.05, 0.0), centre], 0.055, segments=8))
    skull = ball(1.0, (0.0, 0.0, 0.0), segments=10)
    builder.add("skin", _ellipsoid(skull, centre, (0.78 * radius, radius, 0.92 * radius)))
    back = _moved(centre, 0.0, 0.16 * radius, 0.24 * radius)
    builder.add("hair", _ellipsoid(skull, back, (0.86 * radius, 1.0 * radius, 0.9 * radius)))
    if cap:
        brim = _moved(centre, 0.0, 0.5 * radius, 0.0)
        half = 0.8 * radius
        crown = lathe(
            [(0.95 * radius, 0.0), (0.85 * radius, 0.55 * radius), (0.3 * radius, 0.7 * radius)]
        )
        builder.add("cap", translate(crown, brim))
        visor = box((-half, -0.02, -2.0 * radius), (half, 0.02, 0.0))
        builder.add("cap", translate(visor, brim))


def _moved(point: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    return point + np.array([x, y, z])


def _ellipsoid(sphere: Mesh, centre: np.ndarray, radii: Sequence[float]) -> Mesh:
    return Mesh(sphere.vertices * np.asarray(radii) + centre, sphere.faces)


def cyclist(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A person on a moving bicycle."""
    frame, lean, extra = _CYCLISTS[variant]
    radius = rng.uniform(0.32, 0.35)
    base = rng.uniform(0.98, 1.08)
    front, rear = -0.55 * base, 0.45 * base
    for z in (front, rear):
        tyre = rotate(band(radius - 0.045, radius, -0.022, 0.022, segments=24), 2, 90.0)
        builder.add("tyre", translate(tyre, (0.0, radius, z)))
        hub = rotate(cylinder(0.035, -0.05, 0.05, segments=8), 2, 90.0)
        builder.add("metal", translate(hub, (0.0, radius, z)))
        for angle in (0.3, 1.35, 2.4):
            spoke = np.array([0.0, np.sin(angle), np.cos(angle)]) * (radius - 0.03)
            centre = np.array([0.0, radius, z])
            builder.add("metal", tube([centre - spoke, centre + spoke], 0.006, segments=4))
    seat = np.array([0.0, rng.uniform(0.92, 1.0), 0.26 * base])
    crank = np.array([0.0, radius - 0.05, 0.06 * base])
    bars = np.array([0.0, seat[1] + (0.16 if lean < 18.0 else 0.02), front + 0.2])
    _bicycle(builder, frame, radius, front, rear, seat, crank, bars)
    hip = _moved(seat, 0.0, 0.1, -0.02)
    _rider(builder, hip, crank, bars, lean, rng)
    _load(builder, extra, hip, lean, radius, front, rear)


def _bicycle(
    builder: ModelBuilder,
    frame: str,
    radius: float,
    front: float,
    rear: float,
    seat: np.ndarray,
    crank: np.ndarray,
    bars: np.ndarray,
) -> None:
    head = np.array([0.0, bars[1] - 0.12, bars[2] - 0.03])
    low_head = head - (0.0, 0.14, 0.03)
    top = seat - (0.0, 0.14, 0.03) if frame == "diamond" else _moved(crank, 0.0, 0.22, 0.09)
    for path in ([seat, crank], [low_head, crank], [head, top]):
        builder.add("frame", tube(path, 0.026, segments=6))
    for x in (-0.06, 0.06):
        axle = np.array([x, radius, rear])
        builder.add("frame", tube([_moved(crank, x * 0.5, 0.0, 0.0), axle], 0.014, segments=5))
        builder.add("frame", tube([_moved(seat, x * 0.3, -0.16, 0.0), axle], 0.014, segments=5))
        fork = np.array([x, radius, front])
        builder.add("frame", tube([_moved(low_head, x * 0.6, 0.0, 0.0), fork], 0.017, segments=5))
    builder.add("frame", tube([low_head, head, bars], 0.02, segments=6))
    grip = [
        _moved(bars, x, 0.0, z) for x, z in ((-0.28, 0.12), (-0.14, 0.0), (0.14, 0.0), (0.28, 0.12))
    ]
    builder.add("metal", tube(grip, 0.018, segments=6))
    builder.box(
        "saddle", (-0.08, 0.08), (seat[1], seat[1] + 0.06), (seat[2] - 0.14, seat[2] + 0.12)
    )
    lamp = (bars[2] - 0.14, bars[2] - 0.06)
    builder.box("headlight", (-0.05, 0.05), (bars[1] - 0.12, bars[1] - 0.02), lamp)
    tail = (rear - 0.02, rear + 0.06)
    builder.box("tail_light", (-0.05, 0.05), (2 * radius + 0.02, 2 * radius + 0.12), tail)
    guard = box((-0.035, 2 * radius, rear - 0.2), (0.035, 2 * radius + 0.02, rear + 0.1))
    builder.add("frame", guard)


def _rider(
    builder: ModelBuilder,
    hip: np.ndarray,
    crank: np.ndarray,
    bars: np.ndarray,
    lean: float,
    rng: np.random.Generator,
) -> None:
    """Torso leaning forward by ``lean`` degrees, hands on the bars, one pedal down."""
    angle, length = np.deg2rad(lean), rng.uniform(0.48, 0.56)
    along = np.array([0.0, np.cos(angle), -np.sin(angle)])
    rings = []
    for share, half_x, half_z in (
        (-0.1, 0.13, 0.1),
        (0.1, 0.16, 0.12),
        (0.75, 0.2, 0.12),
        (1.0, 0.1, 0.07),
    ):
        ring = rotate(Mesh(outline(half_x, half_z, 0.0, 12), np.zeros((0, 3), np.int32)), 0, -lean)
        rings.append(ring.vertices + hip + along * (share * length))
    builder.add("jacket", loft(rings))
    neck = hip + along * (length + 0.02)
    _head(builder, _moved(neck, 0.0, 0.0, -0.03), 0.27, False)
    helmet = _ellipsoid(ball(1.0, (0.0, 0.0, 0.0), segments=10), neck, (0.115, 0.085, 0.15))
    builder.add("helmet", translate(helmet, (0.0, 0.235, -0.04)))
    for side in (-1.0, 1.0):
        shoulder = hip + along * (0.88 * length) + (side * 0.19, 0.0, 0.0)
        hand = _moved(bars, side * 0.25, 0.03, 0.1)
        elbow = (shoulder + hand) / 2.0 + (side * 0.05, -0.1, 0.05)
        builder.add("jacket", tube([shoulder, elbow, hand], 0.046, segments=7))
        builder.add("skin", ball(0.05, hand, segments=6))
        pedal = _moved(crank, side * 0.11, -side * 0.16, side * 0.03)
        joint = _moved(hip, side * 0.09, -0.03, 0.0)
        # The higher the pedal the farther the knee is bent, and then it points ahead.
        bend = 0.16 + (0.14 if side < 0 else 0.0)
        knee = (joint + pedal) / 2.0 + (side * 0.03, 0.08, -bend)
        builder.add(
            "trousers", tube([joint, knee, _moved(pedal, 0.0, 0.08, 0.02)], 0.07, segments=8)
        )
        builder.add("shoe", box(_moved(pedal, -0.045, 0.01, -0.16), _moved(pedal, 0.045, 0.1, 0.1)))


def _load(
    builder: ModelBuilder,
    extra: str,
    hip: np.ndarray,
    lean: float,
    radius: float,
    front: float,
    rear: float,
) -> None:
    top = 2 * radius
    if extra == "basket":
        builder.box("bag", (-0.18, 0.18), (top + 0.08, top + 0.32), (front - 0.2, front + 0.1))
    elif extra == "child seat":
        builder.box("bag", (-0.15, 0.15), (top + 0.06, top + 0.14), (rear - 0.22, rear + 0.12))
        builder.box("bag", (-0.15, 0.15), (top + 0.1, top + 0.52), (rear + 0.07, rear + 0.13))
    elif extra == "bags":
        for side in (-1.0, 1.0):
            x = sorted((side * 0.06, side * 0.19))
            builder.box("bag", (x[0], x[1]), (radius, top + 0.04), (rear - 0.17, rear + 0.17))
    elif extra == "backpack":
        pack = box((-0.15, 0.1, 0.1), (0.15, 0.48, 0.27))
        builder.add("bag", translate(rotate(pack, 0, -lean), hip))
