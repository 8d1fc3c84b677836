"""Bottles, bowls, cans and mugs: lathes around the y axis. Lengths in metres."""

from __future__ import annotations

import numpy as np

from ..primitives import band, lathe, translate, tube
from .builder import ModelBuilder

_BOTTLES = (
    "wine",
    "soda",
    "flask",
    "cream",
    "sport",
    "beer",
    "jug",
    "waist",
    "soda",
    "wine",
    "cream",
    "flask",
)

_BOWLS = (
    "half sphere",
    "cone",
    "cup",
    "flat",
    "footed",
    "half sphere",
    "flared",
    "straight",
    "footed",
    "cone",
    "flat",
    "half sphere",
)

_CANS = (
    "soda",
    "soup",
    "tuna",
    "spray",
    "slim",
    "paint",
    "ribbed",
    "coffee",
    "soda",
    "ribbed",
    "soup",
    "slim",
)

_MUGS = (
    ("straight", "c"),
    ("tapered", "c"),
    ("barrel", "c"),
    ("straight", "square"),
    ("flared", "ear"),
    ("tapered", "square"),
    ("barrel", "ear"),
    ("low", "c"),
    ("straight", "ear"),
    ("flared", "c"),
    ("tapered", "ear"),
    ("barrel", "square"),
)

# (radius, height) of the outer side in shares of the largest radius and the full height. The last
# two pairs are the cap, which is a part of its own.
_BOTTLE_PROFILES = {
    "wine": [(1, 0), (1, 0.6), (0.85, 0.68), (0.4, 0.76), (0.36, 0.9), (0.4, 0.88), (0.4, 1)],
    "soda": [(0.85, 0), (1, 0.06), (1, 0.62), (0.75, 0.76), (0.38, 0.9), (0.44, 0.9), (0.44, 1)],
    "flask": [(0.9, 0), (1, 0.1), (1, 0.3), (0.62, 0.55), (0.4, 0.7), (0.55, 0.72), (0.55, 1)],
    "cream": [(1, 0), (1, 0.7), (0.93, 0.74), (0.6, 0.76), (0.55, 0.8), (0.72, 0.78), (0.72, 1)],
    "sport": [(0.9, 0), (1, 0.04), (1, 0.75), (0.9, 0.8), (0.8, 0.82), (0.92, 0.8), (0.5, 1)],
    "beer": [(1, 0), (1, 0.48), (0.9, 0.56), (0.5, 0.68), (0.4, 0.93), (0.44, 0.93), (0.44, 1)],
    "jug": [(0.8, 0), (1, 0.2), (1, 0.5), (0.8, 0.7), (0.42, 0.82), (0.55, 0.84), (0.55, 1)],
    "waist": [(1, 0), (1, 0.22), (0.78, 0.4), (1, 0.6), (0.45, 0.84), (0.5, 0.85), (0.5, 1)],
}

_BOWL_PROFILES = {
    "half sphere": [(0.35, 0), (0.66, 0.16), (0.88, 0.48), (1, 1)],
    "cone": [(0.4, 0), (0.5, 0.1), (0.75, 0.55), (1, 1)],
    "cup": [(0.55, 0), (0.8, 0.12), (0.95, 0.4), (1, 1)],
    "flat": [(0.62, 0), (0.75, 0.1), (0.82, 0.55), (1, 1)],
    "footed": [(0.42, 0), (0.38, 0.16), (0.8, 0.42), (1, 1)],
    "flared": [(0.42, 0), (0.62, 0.2), (0.72, 0.6), (1, 1)],
    "straight": [(0.85, 0), (0.95, 0.08), (0.97, 0.5), (1, 1)],
}

_CAN_PROFILES = {
    "soda": [(0.78, 0), (1, 0.07), (1, 0.9), (0.82, 1), (0.78, 1), (0.74, 0.975)],
    "slim": [(0.8, 0), (1, 0.05), (1, 0.88), (0.8, 0.97), (0.8, 1), (0.72, 0.98)],
    "soup": [(1.02, 0), (1.02, 0.02), (1, 0.03), (1, 0.97), (1.02, 1), (0.97, 1), (0.95, 0.97)],
    "tuna": [(0.9, 0), (1, 0.1), (1, 0.88), (1.03, 0.92), (1.03, 1), (0.95, 1), (0.93, 0.9)],
    "spray": [(1, 0), (1, 0.72), (0.85, 0.78), (0.55, 0.8), (0.55, 1), (0.45, 1)],
    "paint": [(1, 0), (1, 0.92), (1.04, 0.93), (1.04, 0.97), (0.9, 1), (0.85, 0.96)],
    "ribbed": [
        (1, 0),
        (1, 0.2),
        (0.95, 0.28),
        (1, 0.36),
        (0.95, 0.5),
        (1, 0.64),
        (1, 1),
        (0.95, 1),
    ],
    "coffee": [(1, 0), (1, 0.82), (1.05, 0.82), (1.05, 1), (0.9, 1), (0.88, 0.98)],
}

_MUG_PROFILES = {
    "straight": [(0.96, 0), (1, 0.04), (1, 1)],
    "tapered": [(0.7, 0), (0.78, 0.1), (1, 1)],
    "barrel": [(0.75, 0), (1, 0.4), (0.92, 0.8), (0.94, 1)],
    "flared": [(0.6, 0), (0.78, 0.2), (0.82, 0.6), (1, 1)],
    "low": [(0.6, 0), (0.9, 0.22), (1, 1)],
}


def bottle(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A closed bottle with a cap and a label."""
    style = _BOTTLES[variant]
    height = rng.uniform(0.15, 0.3)
    slim = 0.17 if style in ("wine", "beer", "soda", "sport") else 0.24
    radius = height * slim * rng.uniform(0.85, 1.15)
    profile = [(radius * r, height * y) for r, y in _BOTTLE_PROFILES[style]]
    builder.add("body", lathe(profile[:-2], segments=28))
    low, high = profile[-2:]
    builder.add("cap", lathe([low, high], segments=28))
    if style not in ("waist", "jug"):
        start, end = (0.22, 0.5) if style != "flask" else (0.12, 0.28)
        ring = band(radius * 0.98, radius * 1.004, height * start, height * end)
        builder.add("label", ring)


def bowl(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """An open bowl."""
    style = _BOWLS[variant]
    radius = rng.uniform(0.05, 0.09)
    height = radius * rng.uniform(0.75, 1.1) * (0.6 if style == "flat" else 1.0)
    outside = [(radius * r, height * y) for r, y in _BOWL_PROFILES[style]]
    wall, floor = radius * rng.uniform(0.04, 0.08), height * 0.14
    inside = [(r - wall, max(y, floor)) for r, y in reversed(outside)]
    builder.add("body", lathe([*outside, *inside], segments=32))
    if variant % 3 == 0:
        edge = (radius - wall * 1.3, radius * 1.012, height * 0.93, height * 1.005)
        builder.add("rim", band(*edge, segments=32))


def can(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A metal can or canister."""
    style = _CANS[variant]
    height = rng.uniform(0.09, 0.17)
    share = {"tuna": 0.62, "paint": 0.5, "coffee": 0.42, "soup": 0.36, "slim": 0.19}
    radius = height * share.get(style, 0.27) * rng.uniform(0.92, 1.08)
    if style == "tuna":
        height, radius = height * 0.6, radius * 0.6
    profile = [(radius * r, height * y) for r, y in _CAN_PROFILES[style]]
    builder.add("metal", lathe(profile, segments=28))
    low, high = (0.14, 0.84) if style not in ("spray", "coffee") else (0.06, 0.68)
    builder.add("label", band(radius * 0.9, radius * 1.004, height * low, height * high))


def mug(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A mug with its handle at +x."""
    style, handle = _MUGS[variant]
    height = rng.uniform(0.08, 0.115)
    radius = height * rng.uniform(0.4, 0.5)
    if style == "low":
        height, radius = height * 0.75, radius * 1.15
    outside = [(radius * r, height * y) for r, y in _MUG_PROFILES[style]]
    wall = radius * rng.uniform(0.07, 0.11)
    inside = [(r - wall, max(y, height * 0.08)) for r, y in reversed(outside)]
    builder.add("body", lathe([*outside, *inside], segments=28))
    reach, half = radius * rng.uniform(0.6, 0.85), height * rng.uniform(0.26, 0.34)
    if handle == "c":
        angle = np.linspace(-0.5, 0.5, 9) * np.pi
        path = np.stack([reach * np.cos(angle), half * np.sin(angle), np.zeros(9)], axis=-1)
    elif handle == "ear":
        angle = np.linspace(-0.5, 0.5, 9) * np.pi
        bulge = reach * np.cos(angle) * (1.0 + 0.35 * np.sin(angle))
        path = np.stack([bulge, half * np.sin(angle), np.zeros(9)], axis=-1)
    else:
        corner = [(0, -1), (0.8, -1), (1, -0.8), (1, 0.8), (0.8, 1), (0, 1)]
        path = np.array([(reach * x, half * y, 0.0) for x, y in corner])
    # The ends sink into the wall, whose radius varies along the height.
    levels = np.array([y for _, y in outside])
    around = np.interp(path[[0, -1], 1] + height * 0.52, levels, [r for r, _ in outside])
    path[:, 0] += np.interp(path[:, 1], path[[0, -1], 1], around) - wall * 0.6
    grip = tube(path, radius * rng.uniform(0.1, 0.15), segments=8)
    builder.add("handle", translate(grip, (0.0, height * 0.52, 0.0)))
