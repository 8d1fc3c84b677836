"""Chairs and sofas: the back lies at +z, whoever sits looks towards -z. Lengths in metres."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..primitives import ball, box, cushion, cylinder, rotate, tapered_box, tube
from .builder import ModelBuilder

# Base, back and arm rests of each chair variant; 8-11 combine the same families anew.
_CHAIRS = (
    ("legs", "solid", False),
    ("pedestal", "solid", True),
    ("legs", "slats", False),
    ("round legs", "ladder", False),
    ("pedestal", "solid", False),
    ("legs", "solid", True),
    ("sled", "ladder", True),
    ("round legs", "shell", False),
    ("legs", "ladder", True),
    ("pedestal", "shell", True),
    ("round legs", "solid", False),
    ("legs", "shell", False),
)

# Seats, support, arm rests and extra of each sofa variant.
_SOFAS = (
    (3, "legs", True, ""),
    (2, "plinth", True, ""),
    (3, "plinth", True, "chaise"),
    (2, "legs", True, "pillows"),
    (3, "legs", False, ""),
    (3, "plinth", False, "pillows"),
    (2, "plinth", True, "headrest"),
    (3, "legs", True, "pillows"),
    (2, "legs", True, ""),
    (3, "plinth", True, "headrest"),
    (2, "legs", False, "pillows"),
    (3, "legs", True, "chaise"),
)


def chair(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A dining, kitchen or office chair."""
    base, back, arms = _CHAIRS[variant]
    width, depth = rng.uniform(0.42, 0.55, 2)
    seat = rng.uniform(0.42, 0.5)
    top = rng.uniform(0.8, 1.05)
    thickness = rng.uniform(0.04, 0.08)
    half, deep = width / 2, depth / 2
    if base == "pedestal" or back == "shell":
        builder.add("seat", cushion((-half, seat - thickness, -deep), (half, seat, deep)))
    else:
        builder.box("seat", (-half, half), (seat - thickness, seat), (-deep, deep))
    _chair_base(builder, base, half, deep, seat - thickness, rng)
    _chair_back(builder, back, half, deep, seat, top, rng)
    if arms:
        height = seat + rng.uniform(0.18, 0.25)
        for side in (-1, 1):
            x = side * half
            builder.box("arm", (x - 0.025, x + 0.025), (height - 0.03, height), (-deep * 0.7, deep))
            front = (-deep * 0.6, -deep * 0.6 + 0.035)
            builder.box(
                "arm_post", (x - 0.016, x + 0.016), (seat - thickness, height - 0.02), front
            )


def _chair_base(
    builder: ModelBuilder,
    base: str,
    half: float,
    deep: float,
    under: float,
    rng: np.random.Generator,
) -> None:
    if base == "pedestal":
        hub, reach = 0.1, max(half, deep) * rng.uniform(0.95, 1.1)
        builder.add("post", cylinder(0.03, hub, under, segments=12))
        for index in range(5):
            spoke = tapered_box((-0.022, 0.05, 0.0), (0.022, hub, reach), 0.7, 0.6)
            angle = 72.0 * index + 36.0
            builder.add("spoke", rotate(spoke, 1, angle))
            x, z = np.sin(np.deg2rad(angle)) * reach, np.cos(np.deg2rad(angle)) * reach
            builder.add("caster", ball(0.028, (x * 0.95, 0.028, z * 0.95), segments=6))
    elif base == "sled":
        for x in (-half + 0.02, half - 0.02):
            path = [(x, under, -deep + 0.05), (x, 0.015, -deep + 0.02), (x, 0.015, deep - 0.02)]
            builder.add("leg", tube([*path, (x, under, deep - 0.05)], 0.013, segments=6))
    else:
        thick = rng.uniform(0.032, 0.05)
        splay = rng.uniform(0.0, 0.04) if base == "legs" else rng.uniform(0.03, 0.07)
        for x in (-half + thick, half - thick):
            for z in (-deep + thick, deep - thick):
                foot = (x + np.sign(x) * splay, 0.0, z + np.sign(z) * splay)
                if base == "legs":
                    leg = box((-thick / 2, 0, -thick / 2), (thick / 2, under, thick / 2))
                    leg.vertices[:] += (x, 0.0, z)
                    leg.vertices[:4, [0, 2]] += (foot[0] - x, foot[2] - z)
                    builder.add("leg", leg)
                else:
                    builder.add("leg", tube([foot, (x, under, z)], thick / 2, segments=8))


def _chair_back(
    builder: ModelBuilder,
    back: str,
    half: float,
    deep: float,
    seat: float,
    top: float,
    rng: np.random.Generator,
) -> None:
    lean, thick = rng.uniform(4.0, 12.0), rng.uniform(0.025, 0.045)
    pivot = (0.0, seat, deep)
    z = (deep - thick, deep)
    low, high = (-half, seat - 0.02, z[0]), (half, top, z[1])
    if back == "solid":
        gap = rng.choice([0.0, 0.1])
        low = (-half, seat - 0.02 + gap, z[0])
        pieces = {"back": [tapered_box(low, high, rng.uniform(0.8, 1.0), 1.0)]}
        if gap > 0.0:
            post = box((-0.05, seat - 0.04, z[0]), (0.05, seat + gap + 0.02, z[1]))
            pieces["back_post"] = [post]
    elif back == "shell":
        shell = cushion((-half, -thick, -(top - seat) / 2), (half, thick, (top - seat) / 2))
        upright = rotate(shell, 0, 90.0)
        upright.vertices[:] += (0.0, (top + seat) / 2, deep - thick)
        pieces = {"back": [upright]}
    else:
        posts = [
            box((x - 0.018, seat - 0.02, z[0]), (x + 0.018, top, z[1]))
            for x in (-half + 0.018, half - 0.018)
        ]
        count = int(rng.integers(3, 5))
        if back == "slats":
            bars = [
                box((x - 0.02, seat, z[0] + 0.008), (x + 0.02, top - 0.04, z[1] - 0.008))
                for x in np.linspace(-half, half, count + 2)[1:-1]
            ]
            bars.append(box((-half, top - 0.07, z[0]), (half, top, z[1])))
        else:
            bars = [
                box((-half, y - 0.035, z[0] + 0.005), (half, y + 0.035, z[1] - 0.005))
                for y in np.linspace(seat + 0.14, top - 0.04, count)
            ]
        pieces = {"back_post": posts, "back": bars}
    for part, meshes in pieces.items():
        builder.add(part, *(rotate(mesh, 0, lean, pivot) for mesh in meshes))


def sofa(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A sofa or an armchair."""
    seats, support, arms, extra = _SOFAS[variant]
    width = rng.uniform(0.62, 0.74) * seats + rng.uniform(0.15, 0.3)
    depth, height = rng.uniform(0.8, 0.95), rng.uniform(0.7, 0.9)
    arm = rng.uniform(0.12, 0.25) if arms else 0.0
    seat = rng.uniform(0.38, 0.45)
    foot = rng.uniform(0.08, 0.14) if support == "legs" else 0.03
    half, deep, back = width / 2, depth / 2, 0.2
    builder.box("base", (-half, half), (foot, seat - 0.13), (-deep, deep))
    builder.box("back", (-half, half), (foot, height - 0.06), (deep - back * 0.6, deep))
    if arms:
        top = seat + rng.uniform(0.12, 0.2)
        for x in (-half, half - arm):
            builder.add("arm", cushion((x, foot, -deep), (x + arm, top, deep), rounding=0.12))
    _sofa_cushions(builder, seats, half - arm, deep, back, seat, height, rng)
    if support == "legs":
        for x in (-half + 0.08, half - 0.08):
            for z in (-deep + 0.08, deep - 0.08):
                builder.box("leg", (x - 0.03, x + 0.03), (0.0, foot + 0.01), (z - 0.03, z + 0.03))
    else:
        builder.box("leg", (-half + 0.04, half - 0.04), (0.0, foot), (-deep + 0.05, deep - 0.04))
    if extra == "chaise":
        step = 2 * (half - arm) / seats
        left, right = half - arm - step, half - arm
        front = (-deep - 0.6, -deep)
        builder.box("base", (left, right), (foot, seat - 0.13), front)
        builder.add("seat", cushion((left, seat - 0.15, front[0]), (right, seat, front[1] + 0.05)))
    elif extra == "pillows":
        for side in (-1, 1):
            pillow = cushion((-0.22, -0.07, -0.22), (0.22, 0.07, 0.22), rounding=0.5, exponent=3.5)
            pillow = rotate(rotate(pillow, 0, 68.0), 1, side * rng.uniform(5.0, 25.0))
            pillow.vertices[:] += (side * (half - arm - 0.26), seat + 0.2, deep - back - 0.12)
            builder.add("pillow", pillow)
    elif extra == "headrest":
        for x in np.linspace(-half, half, seats + 2)[1:-1]:
            low = (x - 0.2, height - 0.08, deep - 0.22)
            builder.add("headrest", cushion(low, (x + 0.2, height + 0.1, deep - 0.06)))


def _sofa_cushions(
    builder: ModelBuilder,
    seats: int,
    inner: float,
    deep: float,
    back: float,
    seat: float,
    height: float,
    rng: np.random.Generator,
) -> None:
    edges = np.linspace(-inner, inner, seats + 1)
    lean = rng.uniform(6.0, 12.0)
    for left, right in pairwise(edges):
        low = (left + 0.004, seat - 0.15, -deep - 0.01)
        builder.add("seat", cushion(low, (right - 0.004, seat, deep - back + 0.02)))
        low = (left + 0.006, seat - 0.03, deep - back - 0.02)
        rest = cushion(low, (right - 0.006, height, deep - back * 0.4), rounding=0.2)
        builder.add("back_cushion", rotate(rest, 0, lean, (0.0, seat, deep - back)))
