"""Clutter: objects that are drawn and occlude but belong to no class. Lengths in metres."""

from __future__ import annotations

import numpy as np

from ..primitives import ball, band, box, cushion, cylinder, lathe, rotate, tapered_box, translate
from .builder import ModelBuilder


def ball_(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A ball, some with a belt."""
    radius = rng.uniform(0.09, 0.14)
    builder.add("body", ball(radius, (0.0, radius, 0.0), segments=20))
    if variant % 2:
        belt = band(radius * 0.9, radius * 1.01, radius * 0.92, radius * 1.08, segments=20)
        builder.add("band", belt)


def book_stack(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """Books lying on each other."""
    bottom = 0.0
    for index in range(2 + variant % 4):
        half, deep = rng.uniform(0.07, 0.09), rng.uniform(0.1, 0.125)
        top = bottom + rng.uniform(0.015, 0.04)
        book = box((-half, bottom, -deep), (half, top, deep))
        builder.add(f"book_{index}", rotate(book, 1, rng.uniform(-18.0, 18.0)))
        bottom = top


def carton(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A cardboard box, closed or with its flaps up."""
    half, height, deep = rng.uniform(0.12, 0.24), rng.uniform(0.16, 0.34), rng.uniform(0.1, 0.18)
    builder.box("body", (-half, half), (0.0, height), (-deep, deep))
    if variant % 2:
        builder.box("band", (-half - 0.001, half + 0.001), (-0.0, height + 0.001), (-0.025, 0.025))
        return
    for side in (-1, 1):
        flap = box((-half, height - 0.004, 0.0), (half, height, deep * 0.9))
        flap = rotate(flap, 0, -rng.uniform(20.0, 60.0), (0.0, height, 0.0))
        flap.vertices[:, 2] += deep
        builder.add("body", rotate(flap, 1, 0.0 if side > 0 else 180.0))


def floor_lamp(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A standing lamp."""
    height, radius = rng.uniform(1.3, 1.65), rng.uniform(0.15, 0.22)
    builder.add("pole", cylinder(0.14, 0.0, 0.025, segments=20), cylinder(0.014, 0.0, height))
    narrow = radius * (0.6 if variant % 2 else 1.0)
    bottom = height - rng.uniform(0.2, 0.3)
    shade = [(radius, bottom), (narrow, height), (narrow - 0.01, height), (radius - 0.01, bottom)]
    builder.add("shade", lathe(shade, segments=24, loop=True))


def plant(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """Leaves in a pot."""
    radius, height = rng.uniform(0.12, 0.17), rng.uniform(0.2, 0.3)
    pot = [
        (radius * 0.7, 0.0),
        (radius, height),
        (radius * 0.88, height),
        (radius * 0.8, 0.85 * height),
    ]
    builder.add("pot", lathe(pot, segments=20))
    for index in range(9 + variant % 5):
        length = rng.uniform(0.3, 0.6)
        leaf = tapered_box((-0.03, 0.0, -0.006), (0.03, length, 0.006), 0.3, 0.5)
        leaf = rotate(rotate(leaf, 0, rng.uniform(8.0, 48.0)), 1, 137.5 * index)
        builder.add("leaf", translate(leaf, (0.0, height * 0.8, 0.0)))


def tissue_box(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A box with a tissue sticking out."""
    half, height, deep = rng.uniform(0.09, 0.13), rng.uniform(0.05, 0.12), rng.uniform(0.05, 0.065)
    if variant % 2:
        builder.add("body", cushion((-half, 0.0, -deep), (half, height, deep), rounding=0.1))
    else:
        builder.box("body", (-half, half), (0.0, height), (-deep, deep))
    tissue = tapered_box(
        (-half * 0.4, height - 0.002, -0.012), (half * 0.4, height + 0.045, 0.012), 0.5, 1.6
    )
    builder.add("tissue", rotate(tissue, 1, rng.uniform(-12.0, 12.0)))
