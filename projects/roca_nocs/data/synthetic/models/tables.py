"""Tables and desks. Lengths in metres."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..primitives import box, cylinder, lathe, rotate, tube
from .builder import ModelBuilder

# Shape of the top and support of each variant.
_TABLES = (
    ("rectangle", "legs"),
    ("round", "pedestal"),
    ("rectangle", "panels"),
    ("rectangle", "trestle"),
    ("square", "legs"),
    ("rectangle", "desk"),
    ("round", "legs"),
    ("rectangle", "shelf"),
    ("round", "pedestal"),
    ("rectangle", "legs"),
    ("rectangle", "desk"),
    ("square", "pedestal"),
)


def table(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A dining, coffee or work table."""
    top, support = _TABLES[variant]
    height = rng.uniform(0.45, 0.55) if support == "shelf" else rng.uniform(0.68, 0.78)
    thick = rng.uniform(0.025, 0.045)
    under = height - thick
    if top == "round":
        half = deep = rng.uniform(0.4, 0.6)
        builder.add("top", cylinder(half, under, height, segments=32))
    else:
        half = rng.uniform(0.9, 1.8) / 2 if top == "rectangle" else rng.uniform(0.7, 0.95) / 2
        deep = rng.uniform(0.6, min(0.95, half * 1.7)) / 2 if top == "rectangle" else half
        builder.box("top", (-half, half), (under, height), (-deep, deep))
    if support == "pedestal":
        _pedestal(builder, top, half, under)
    elif support == "panels":
        for x in (-half + 0.04, half - 0.075):
            builder.box("panel", (x, x + 0.035), (0.0, under), (-deep + 0.03, deep - 0.03))
        builder.box("panel", (-half + 0.05, half - 0.05), (under * 0.45, under), (-0.012, 0.012))
    elif support == "trestle":
        _trestle(builder, half, deep, under)
    elif support == "desk":
        _desk(builder, half, deep, under, variant)
    else:
        _legs(builder, top, support, half, deep, under, rng)


def _pedestal(builder: ModelBuilder, top: str, half: float, under: float) -> None:
    builder.add("leg", cylinder(0.05, 0.02, under, segments=24))
    if top == "round":
        foot = [(half * 0.62, 0.0), (half * 0.62, 0.02), (0.09, 0.06), (0.06, 0.1)]
        builder.add("leg", lathe(foot, segments=32))
        return
    for turn in (0.0, 90.0):
        beam = box((-half * 0.72, 0.0, -0.04), (half * 0.72, 0.05, 0.04))
        builder.add("leg", rotate(beam, 1, turn))


def _trestle(builder: ModelBuilder, half: float, deep: float, under: float) -> None:
    for x in (-half * 0.78, half * 0.78):
        for side in (-1, 1):
            foot, head = side * deep * 0.9, side * deep * 0.25
            leg = box((x - 0.03, 0.0, -0.03), (x + 0.03, under, 0.03))
            leg.vertices[:4, 2] += foot
            leg.vertices[4:, 2] += head
            builder.add("leg", leg)
    y = under * 0.4
    builder.box("leg", (-half * 0.78, half * 0.78), (y - 0.025, y + 0.025), (-0.03, 0.03))


def _desk(builder: ModelBuilder, half: float, deep: float, under: float, variant: int) -> None:
    """A block of drawers on one side, legs or a panel on the other; the sitter's side is -z."""
    width = 0.38
    builder.box("drawers", (half - width, half - 0.02), (0.05, under), (-deep + 0.05, deep - 0.02))
    edges = np.linspace(0.07, under - 0.02, 4)
    for low, high in pairwise(edges):
        x = (half - width + 0.012, half - 0.032)
        builder.box("drawer", x, (low + 0.006, high - 0.006), (-deep + 0.03, -deep + 0.052))
        middle = (low + high) / 2
        bar = (half - width / 2 - 0.07, half - width / 2 + 0.05)
        builder.box("handle", bar, (middle - 0.008, middle + 0.008), (-deep + 0.01, -deep + 0.032))
    for z in (-deep + 0.08, deep - 0.06):
        builder.box("leg", (half - width + 0.02, half - 0.04), (0.0, 0.06), (z - 0.03, z + 0.03))
    if variant % 2:
        for z in (-deep + 0.05, deep - 0.05):
            path = [(-half + 0.05, 0.0, z), (-half + 0.05, under, z)]
            builder.add("leg", tube(path, 0.022, segments=8))
    else:
        builder.box("leg", (-half + 0.03, -half + 0.06), (0.0, under), (-deep + 0.03, deep - 0.03))


def _legs(
    builder: ModelBuilder,
    top: str,
    support: str,
    half: float,
    deep: float,
    under: float,
    rng: np.random.Generator,
) -> None:
    thick = rng.uniform(0.04, 0.075)
    inset = 0.62 if top == "round" else 0.0
    x, z = half * (1 - inset / 2) - thick, deep * (1 - inset / 2) - thick
    for sign_x in (-1, 1):
        for sign_z in (-1, 1):
            a, b = sign_x * x, sign_z * z
            if top == "round":
                foot = (a * 1.12, 0.0, b * 1.12)
                builder.add("leg", tube([foot, (a * 0.8, under, b * 0.8)], thick / 2))
            else:
                around = (
                    (a - thick / 2, a + thick / 2),
                    (0.0, under),
                    (b - thick / 2, b + thick / 2),
                )
                builder.box("leg", *around)
    if top == "round":
        return
    for sign in (-1, 1):
        low = under - 0.09
        builder.box("apron", (-x, x), (low, under), (sign * z - 0.01, sign * z + 0.01))
        builder.box("apron", (sign * x - 0.01, sign * x + 0.01), (low, under), (-z, z))
    if support == "shelf":
        y = under * 0.35
        builder.box("shelf", (-x, x), (y - 0.012, y + 0.012), (-z, z))
