"""Bins, bookcases and cabinets: doors and book spines face -z. Lengths in metres."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..primitives import (
    band,
    box,
    cylinder,
    lathe,
    loft,
    outline,
    rotate,
    tapered_box,
    translate,
    tube,
)
from .builder import ModelBuilder

_BINS = (
    "cone",
    "box",
    "cone with lid",
    "pedal",
    "cone with rim",
    "swing",
    "rounded",
    "cylinder with lid",
    "cone with rim",
    "box",
    "pedal",
    "cone with lid",
)

# Sides, back panel, vertical dividers and number of shelves.
_BOOKCASES = (
    ("boards", True, 0, 4),
    ("boards", True, 1, 4),
    ("posts", False, 0, 4),
    ("boards", False, 0, 5),
    ("boards", True, 0, 6),
    ("posts", False, 0, 3),
    ("boards", True, 0, 3),
    ("boards", False, 2, 3),
    ("boards", True, 0, 5),
    ("posts", False, 0, 5),
    ("boards", True, 1, 5),
    ("boards", False, 1, 4),
)

# Rows and columns of fronts, kind of handle, support; rows count from the floor.
_CABINETS = (
    (1, 2, "bar", "plinth"),
    (3, 1, "bar", "plinth"),
    (2, 2, "knob", "legs"),
    (1, 3, "knob", "legs"),
    (3, 2, "bar", "plinth"),
    (1, 1, "bar", "legs"),
    (2, 3, "bar", "plinth"),
    (2, 1, "niche", "legs"),
    (2, 2, "bar", "plinth"),
    (3, 1, "knob", "legs"),
    (1, 2, "niche", "plinth"),
    (3, 3, "knob", "plinth"),
)


def bin_(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A waste bin."""
    style = _BINS[variant]
    radius, height = rng.uniform(0.12, 0.22), rng.uniform(0.28, 0.55)
    if style in ("box", "rounded", "swing"):
        ratio = 1.0 if style == "swing" else rng.uniform(0.6, 0.9)
        exponent = 5.0 if style == "rounded" else 30.0
        taper = rng.uniform(0.75, 0.95)
        height = max(height, 0.36)
        rings = [(taper, 0.0), (1.0, height), (0.93, height), (taper * 0.92, 0.02)]
        body = [outline(radius * r, radius * ratio * r, y, 32, exponent) for r, y in rings]
        builder.add("body", loft(body))
        if style == "swing":
            _swing_lid(builder, radius, height)
        return
    taper = rng.uniform(0.68, 0.85) if style.startswith("cone") else 1.0
    wall = 0.93
    profile = [(radius * taper, 0.0), (radius, height), (radius * wall, height)]
    builder.add("body", lathe([*profile, (radius * taper * wall, 0.02)], segments=28))
    if style == "cone with rim":
        builder.add("rim", band(radius, radius * 1.08, height - 0.01, height + 0.02))
    elif style.endswith("with lid"):
        rings = [(1.04, -0.02), (1.04, 0.015), (0.9, 0.05), (0.3, 0.06)]
        builder.add("lid", lathe([(radius * r, height + y) for r, y in rings], segments=28))
        knob = cylinder(radius * 0.15, height + 0.05, height + 0.09, segments=12)
        builder.add("rim", knob)
    elif style == "pedal":
        rings = [(1.02, -0.015), (1.02, 0.01), (0.8, 0.06), (0.4, 0.08)]
        builder.add("lid", lathe([(radius * r, height + y) for r, y in rings], segments=28))
        builder.box("rim", (-0.04, 0.04), (0.015, 0.03), (-radius - 0.07, -radius * 0.8))
        builder.box("rim", (-0.05, 0.05), (height - 0.05, height), (radius * 0.9, radius + 0.03))


def _swing_lid(builder: ModelBuilder, radius: float, height: float) -> None:
    hood = tapered_box((-radius, height, -radius), (radius, height + 0.16, radius), 1.0, 0.25)
    builder.add("lid", hood)
    flap = box((-radius * 0.7, -0.006, -radius * 0.62), (radius * 0.7, 0.006, radius * 0.62))
    slope = np.degrees(np.arctan2(0.16, radius * 0.75))
    for side in (-1, 1):
        tilted = rotate(flap, 0, side * slope)
        builder.add("rim", translate(tilted, (0.0, height + 0.082, side * radius * 0.63)))


def bookcase(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """Shelves, three quarters of them filled with books."""
    sides, back, dividers, shelves = _BOOKCASES[variant]
    half = rng.uniform(0.7, 1.3) / 2 if dividers else rng.uniform(0.6, 1.0) / 2
    deep = rng.uniform(0.26, 0.38) / 2
    height = rng.uniform(0.34, 0.42) * shelves + 0.1
    board = rng.uniform(0.018, 0.032)
    if sides == "boards":
        for x in (-half, half - board):
            builder.box("side", (x, x + board), (0.0, height), (-deep, deep))
    else:
        for x in (-half + 0.02, half - 0.02):
            for z in (-deep + 0.02, deep - 0.02):
                post = (x - 0.018, x + 0.018), (0.0, height + 0.02), (z - 0.018, z + 0.018)
                builder.box("side", *post)
        for z in (deep - 0.025,):
            path = [(-half, 0.1, z), (half, height - 0.1, z)]
            builder.add("side", tube(path, 0.006, segments=4))
    if back:
        builder.box("back", (-half, half), (0.04, height), (deep - 0.012, deep))
    levels = np.linspace(0.06, height - board, shelves + 1)
    for y in levels:
        builder.box("shelf", (-half, half), (y, y + board), (-deep + 0.004, deep - 0.004))
    columns = np.linspace(-half + board, half - board, dividers + 2)
    for x in columns[1:-1]:
        bounds = (-deep + 0.01, deep - 0.01)
        builder.box("side", (x - board / 2, x + board / 2), (levels[0], levels[-1]), bounds)
    for y, above in pairwise(levels):
        for left, right in pairwise(columns):
            if rng.random() < 0.75:
                space = (left + board, right - board), (y + board, above - 0.02)
                _books(builder, *space, deep, rng)


def _books(
    builder: ModelBuilder,
    x: tuple[float, float],
    y: tuple[float, float],
    deep: float,
    rng: np.random.Generator,
) -> None:
    fill = x[0] + (x[1] - x[0]) * rng.uniform(0.55, 1.0)
    left = x[0]
    while left < fill:
        right = min(left + rng.uniform(0.035, 0.085), x[1])
        if right - left < 0.02:
            break
        top = y[0] + (y[1] - y[0]) * rng.uniform(0.62, 0.92)
        front = -deep + rng.uniform(0.015, 0.06)
        part = f"book_{int(rng.integers(0, 6))}"
        builder.box(part, (left, right - 0.003), (y[0] - 0.004, top), (front, deep - 0.03))
        left = right


def cabinet(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A cabinet, chest of drawers or sideboard."""
    rows, columns, handle, support = _CABINETS[variant]
    half = np.clip(rng.uniform(0.4, 0.6) * columns + 0.05, 0.5, 1.4) / 2
    deep = rng.uniform(0.4, 0.6) / 2
    height = float(np.clip(rng.uniform(0.3, 0.42) * rows + 0.22, 0.6, 1.4))
    foot = rng.uniform(0.05, 0.08) if support == "plinth" else rng.uniform(0.1, 0.16)
    top = rng.uniform(0.02, 0.04)
    if support == "plinth":
        builder.box("leg", (-half + 0.02, half - 0.02), (0.0, foot), (-deep + 0.05, deep))
    else:
        for x in (-half + 0.05, half - 0.05):
            for z in (-deep + 0.05, deep - 0.05):
                path = [(x, 0.0, z), (x, foot + 0.01, z)]
                builder.add("leg", tube(path, 0.02, segments=8))
    over = rng.choice([0.0, 0.015])
    builder.box("top", (-half - over, half + over), (height - top, height), (-deep - over, deep))
    if handle == "niche":
        _open_body(builder, half, deep, foot, height - top)
    else:
        builder.box("body", (-half, half), (foot, height - top), (-deep + 0.02, deep))
    edges_x = np.linspace(-half, half, columns + 1)
    edges_y = np.linspace(foot, height - top, rows + 1)
    for row in range(rows):
        if handle == "niche" and row == rows - 1 and rows > 1:
            continue
        for column in range(columns):
            if handle == "niche" and rows == 1 and column == 0:
                continue
            x = (edges_x[column] + 0.006, edges_x[column + 1] - 0.006)
            y = (edges_y[row] + 0.006, edges_y[row + 1] - 0.006)
            builder.box("door", x, y, (-deep, -deep + 0.022))
            _handle(builder, handle, x, y, -deep, column < columns / 2)


def _open_body(builder: ModelBuilder, half: float, deep: float, low: float, high: float) -> None:
    """Boards around an open interior, with a shelf at half height."""
    board, front = 0.022, -deep + 0.02
    for x in (-half, half - board):
        builder.box("body", (x, x + board), (low, high), (front, deep))
    builder.box("body", (-half, half), (low, high), (deep - board, deep))
    builder.box("body", (-board / 2, board / 2), (low, high), (front, deep))
    for y in (low, (low + high) / 2 - board / 2):
        builder.box("body", (-half, half), (y, y + board), (front, deep))


def _handle(
    builder: ModelBuilder,
    kind: str,
    x: tuple[float, float],
    y: tuple[float, float],
    front: float,
    hinge_left: bool,
) -> None:
    wide = x[1] - x[0] > y[1] - y[0]
    middle_y = (y[0] + y[1]) / 2
    centre = (x[0] + x[1]) / 2
    if not wide:
        centre = x[1] - 0.05 if hinge_left else x[0] + 0.05
    if kind == "bar":
        reach_x, reach_y = (0.07, 0.008) if wide else (0.008, 0.07)
        bar = (centre - reach_x, centre + reach_x), (middle_y - reach_y, middle_y + reach_y)
        builder.box("handle", *bar, (front - 0.025, front + 0.002))
    else:
        size = 0.016
        knob = (centre - size, centre + size), (middle_y - size, middle_y + size)
        builder.box("handle", *knob, (front - 0.028, front + 0.002))
