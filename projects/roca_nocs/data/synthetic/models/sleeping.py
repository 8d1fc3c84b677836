"""Beds and bathtubs: head board and wall side at +z. Lengths in metres."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..primitives import box, cushion, cylinder, loft, outline, tube
from .builder import ModelBuilder

# Head board, base, foot board and cover of each bed variant.
_BEDS = (
    ("solid", "legs", False, "blanket"),
    ("solid", "box", False, "blanket"),
    ("slats", "legs", True, "blanket"),
    ("none", "box", False, "runner"),
    ("padded", "box", False, "blanket"),
    ("bars", "legs", True, "runner"),
    ("solid", "drawers", False, "none"),
    ("padded", "legs", False, "runner"),
    ("slats", "box", False, "blanket"),
    ("solid", "legs", True, "runner"),
    ("padded", "drawers", False, "blanket"),
    ("bars", "legs", False, "none"),
)

# Body, foot and tap of each bathtub variant.
_BATHTUBS = (
    ("oval", "skirt", "end"),
    ("box", "skirt", "end"),
    ("oval", "claws", "floor"),
    ("apron", "skirt", "side"),
    ("box", "claws", "side"),
    ("slipper", "skirt", "none"),
    ("apron", "skirt", "end"),
    ("slipper", "claws", "floor"),
    ("oval", "skirt", "side"),
    ("box", "skirt", "none"),
    ("apron", "skirt", "none"),
    ("slipper", "claws", "none"),
)


def bed(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A single or double bed."""
    head, base, foot_board, cover = _BEDS[variant]
    width = rng.uniform(0.95, 1.25) if variant % 2 else rng.uniform(1.35, 1.8)
    length = rng.uniform(1.9, 2.1)
    top, head_top = rng.uniform(0.4, 0.55), rng.uniform(0.8, 1.1)
    half, deep = width / 2, length / 2
    thick = rng.uniform(0.16, 0.22)
    builder.add(
        "mattress",
        cushion((-half + 0.02, top - thick, -deep + 0.02), (half - 0.02, top, deep), exponent=9.0),
    )
    rail = top - thick + 0.03
    bottom = 0.02 if base != "legs" else rail - rng.uniform(0.1, 0.16)
    builder.box("frame", (-half, half), (bottom, rail), (-deep, deep))
    if base == "drawers":
        for x in (-half, half):
            for z in (-deep * 0.62, -deep * 0.02):
                front = (x - 0.012, x + 0.012)
                builder.box("drawer", front, (0.06, rail - 0.03), (z, z + deep * 0.5))
    legs = 0.035 if base == "legs" else 0.05
    for x in (-half + legs, half - legs):
        for z in (-deep + legs, deep - legs):
            builder.box("leg", (x - legs, x + legs), (0.0, bottom + 0.02), (z - legs, z + legs))
    _head_board(builder, head, half, deep, head_top, rail)
    if foot_board:
        builder.box("frame", (-half, half), (bottom, top + 0.08), (-deep - 0.05, -deep))
    pillows = 1 if width < 1.3 else 2
    step = 2 * half / pillows
    for index in range(pillows):
        centre = -half + step * (index + 0.5)
        low = (centre - step * 0.42, top - 0.02, deep - 0.52)
        high = (centre + step * 0.42, top + rng.uniform(0.09, 0.14), deep - 0.08)
        builder.add("pillow", cushion(low, high, rounding=0.5, exponent=3.5))
    if cover != "none":
        share = rng.uniform(0.5, 0.68) if cover == "blanket" else rng.uniform(0.2, 0.3)
        start = -deep - 0.012
        end = start + share * length
        drop = rng.uniform(0.12, 0.3) if base == "box" else rng.uniform(0.06, 0.14)
        builder.box(
            "blanket", (-half - 0.012, half + 0.012), (top - drop, top + 0.025), (start, end)
        )


def _head_board(
    builder: ModelBuilder, head: str, half: float, deep: float, top: float, rail: float
) -> None:
    if head == "none":
        return
    z = (deep, deep + 0.06)
    if head == "solid":
        builder.box("head_board", (-half, half), (0.0, top), z)
    elif head == "padded":
        panels = 3
        edges = np.linspace(-half - 0.03, half + 0.03, panels + 1)
        for left, right in pairwise(edges):
            low = (left + 0.004, 0.1, deep)
            builder.add("head_board", cushion(low, (right - 0.004, top, deep + 0.1), rounding=0.1))
    else:
        for x in (-half, half - 0.06):
            builder.box("head_board", (x, x + 0.06), (0.0, top), z)
        builder.box("head_board", (-half, half), (top - 0.1, top - 0.03), z)
        if head == "slats":
            for y in np.linspace(rail, top - 0.2, 3):
                builder.box("head_board", (-half, half), (y, y + 0.07), (deep + 0.01, deep + 0.05))
        else:
            for x in np.linspace(-half, half, 9)[1:-1]:
                builder.box("head_board", (x - 0.012, x + 0.012), (rail, top - 0.05), z)


def bathtub(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A bathtub with its long side at the wall."""
    body, foot, tap = _BATHTUBS[variant]
    half, deep = rng.uniform(1.4, 1.8) / 2, rng.uniform(0.65, 0.85) / 2
    height = rng.uniform(0.47, 0.62)
    raised = rng.uniform(0.09, 0.14) if foot == "claws" else 0.0
    _tub(builder, body, half, deep, raised, height, rng)
    if foot == "claws":
        for x in (-half * 0.55, half * 0.55):
            for z in (-deep * 0.55, deep * 0.55):
                path = [(x * 1.12, 0.0, z * 1.15), (x * 1.1, 0.07, z * 1.1), (x, raised + 0.1, z)]
                builder.add("foot", tube(path, 0.03, segments=6))
    if tap == "end":
        _tap(builder, (half - 0.03, height, 0.0), (-1.0, 0.0), 0.14)
    elif tap == "side":
        _tap(builder, (0.0, height, deep - 0.03), (0.0, -1.0), 0.14)
    elif tap == "floor":
        builder.add("tap", tube([(0, 0, deep + 0.05), (0, height + 0.05, deep + 0.05)], 0.02))
        _tap(builder, (0.0, height, deep + 0.05), (0.0, -1.0), 0.2)


def _tub(
    builder: ModelBuilder,
    body: str,
    half: float,
    deep: float,
    raised: float,
    height: float,
    rng: np.random.Generator,
) -> None:
    """The body, as one skin that goes up outside and down inside."""
    outer = {"oval": 2.2, "slipper": 2.4, "box": 12.0, "apron": 14.0}[body]
    inner = {"oval": 2.2, "slipper": 2.4, "box": 6.0, "apron": 2.4}[body]
    draw = {"oval": 0.8, "slipper": 0.72, "box": 0.97, "apron": 1.0}[body]
    wall = rng.uniform(0.05, 0.075)
    segments = 28
    outside = [
        outline(half * draw, deep * draw, raised, segments, outer),
        outline(
            half * (0.3 + 0.7 * draw), deep * (0.3 + 0.7 * draw), height * 0.5, segments, outer
        ),
        outline(half, deep, height, segments, outer),
    ]
    floor = raised + 0.09
    inside = [
        outline(half - wall, deep - wall, height, segments, inner),
        outline(half - wall * 1.6, deep - wall * 1.4, height * 0.55, segments, inner),
        outline((half - wall) * 0.75, (deep - wall) * 0.72, floor, segments, inner),
    ]
    if body == "slipper":
        for ring in (outside[2], inside[0]):  # one end rises, for the shoulders
            ring[:, 1] += 0.14 * np.clip(-ring[:, 0] / half, 0.0, 1.0) ** 2
    builder.add("tub", loft([*outside, *inside]))
    drain = cylinder(0.03, floor - 0.01, floor + 0.006, segments=10)
    drain.vertices[:] += ((half - wall) * 0.5, 0.0, 0.0)
    builder.add("tap", drain)


def _tap(
    builder: ModelBuilder,
    position: tuple[float, float, float],
    direction: tuple[float, float],
    reach: float,
) -> None:
    x, y, z = position
    ahead = (x + direction[0] * reach, z + direction[1] * reach)
    path = [(x, y - 0.03, z), (x, y + 0.12, z), ((x + ahead[0]) / 2, y + 0.16, (z + ahead[1]) / 2)]
    builder.add("tap", tube([*path, (ahead[0], y + 0.1, ahead[1])], 0.02))
    across = (0.08 * abs(direction[1]), 0.08 * abs(direction[0]))
    for side in (-1, 1):
        low = (x + side * across[0] - 0.025, y - 0.02, z + side * across[1] - 0.025)
        high = (x + side * across[0] + 0.025, y + 0.05, z + side * across[1] + 0.025)
        builder.add("tap", box(low, high))
