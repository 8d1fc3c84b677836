"""Displays, laptops and cameras: screens and lenses face -z. Lengths in metres."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..primitives import Mesh, box, cushion, cylinder, lathe, rotate, tapered_box, translate, tube
from .builder import ModelBuilder

# Stand and body of each display variant.
_DISPLAYS = (
    ("plate", "flat"),
    ("feet", "flat"),
    ("round", "flat"),
    ("plate", "hump"),
    ("wide", "flat"),
    ("feet", "hump"),
    ("hoop", "flat"),
    ("round", "hump"),
    ("plate", "flat"),
    ("hoop", "hump"),
    ("feet", "flat"),
    ("round", "flat"),
)

# Body, lens and top of each camera variant.
_CAMERAS = (
    ("compact", "short", "flash"),
    ("reflex", "long", "prism"),
    ("rangefinder", "short", "window"),
    ("cube", "short", "button"),
    ("reflex", "short", "prism"),
    ("compact", "long", "dial"),
    ("instant", "short", "flash"),
    ("bridge", "long", "prism"),
    ("compact", "short", "dial"),
    ("reflex", "long", "prism"),
    ("rangefinder", "long", "window"),
    ("instant", "short", "window"),
)

_LAPTOPS = (
    ("thin", "wide"),
    ("thick", "wide"),
    ("wedge", "wide"),
    ("thin", "square"),
    ("thick", "square"),
    ("wedge", "square"),
    ("thin", "trackpoint"),
    ("thick", "numpad"),
    ("wedge", "wide"),
    ("thin", "square"),
    ("thick", "trackpoint"),
    ("thin", "numpad"),
)


def display(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A monitor or television."""
    stand, body = _DISPLAYS[variant]
    half = rng.uniform(0.45, 1.2) / 2
    height = 2 * half * rng.uniform(0.55, 0.65)
    raised = rng.uniform(0.06, 0.14)
    thick, bezel = rng.uniform(0.02, 0.05), rng.uniform(0.01, 0.025)
    front = -thick / 2
    builder.box("case", (-half, half), (raised, raised + height), (front, thick / 2))
    inner = (-half + bezel, half - bezel), (raised + 1.6 * bezel, raised + height - bezel)
    builder.box("screen", *inner, (front - 0.004, front + 0.006))
    # The electronics at the rear; they also tell the front from the back by shape alone.
    wide, tall, bulge = (0.6, 0.36, 0.06) if body == "hump" else (0.8, 0.2, 0.032)
    low, high = (
        (-half * wide, 0.0, -height * tall),
        (half * wide, bulge * (0.6 + half), height * tall),
    )
    rear = rotate(tapered_box(low, high, 0.8, 0.8), 0, 90.0)
    builder.add("case", translate(rear, (0.0, raised + height * (0.1 + tall), thick / 2 - 0.002)))
    _display_stand(builder, stand, half, raised, height)


def _display_stand(
    builder: ModelBuilder, stand: str, half: float, raised: float, height: float
) -> None:
    base = 0.012
    if stand == "feet":
        for x in (-half * 0.62, half * 0.62):
            for z in (-0.1, 0.1):
                builder.add("stand", tube([(x, 0.006, z), (x, raised + 0.02, 0.0)], 0.009))
        return
    if stand == "hoop":
        reach = min(0.16, half * 0.6)
        path = [(-reach, 0.008, -0.1), (-reach, 0.008, 0.09), (reach, 0.008, 0.09)]
        builder.add("stand", tube([*path, (reach, 0.008, -0.1)], 0.008, segments=6))
        column = [(0.0, 0.008, 0.09), (0.0, raised + height * 0.3, 0.03)]
        builder.add("stand", tube(column, 0.014))
        return
    if stand == "round":
        builder.add("stand", cylinder(0.1, 0.0, base, segments=24))
    else:
        wide = half * (0.75 if stand == "wide" else 0.36)
        builder.box("stand", (-wide, wide), (0.0, base), (-0.1, 0.1))
    neck = 0.05 if stand == "wide" else 0.028
    builder.box("stand", (-neck, neck), (0.0, raised + height * 0.3), (0.005, 0.04))


def laptop(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """An open laptop; the hinge is at +z and the screen looks at the user at -z."""
    body, layout = _LAPTOPS[variant]
    half = rng.uniform(0.29, 0.38) / 2
    ratio = rng.uniform(0.62, 0.68) if layout != "square" else rng.uniform(0.7, 0.78)
    deep = half * ratio
    thick = rng.uniform(0.012, 0.018) if body != "thick" else rng.uniform(0.022, 0.03)
    low, high = (-half, 0.0, -deep), (half, thick, deep)
    slab = box(low, high)
    if body == "wedge":
        slab.vertices[[4, 7], 1] *= 0.45  # the two upper corners at the user's side
    builder.add("base", slab)
    _keyboard(builder, layout, half, deep, thick, body == "wedge")
    hinge = rng.uniform(80.0, 130.0)
    lid_thick = rng.uniform(0.005, 0.009)
    pivot = (0.0, thick, deep)
    # The lid is built closed (lying on the base, screen down) and then opened.
    lid = box((-half, thick, -deep), (half, thick + lid_thick, deep))
    edge = rng.uniform(0.008, 0.016)
    glass = box(
        (-half + edge, thick - 0.001, -deep + edge), (half - edge, thick + 0.002, deep - edge * 1.6)
    )
    builder.add("lid", rotate(lid, 0, hinge, pivot))
    builder.add("screen", rotate(glass, 0, hinge, pivot))
    bar = rotate(cylinder(0.006, -half * 0.8, half * 0.8, segments=8), 2, 90.0)
    builder.add("hinge", translate(bar, (0.0, thick, deep)))


def _keyboard(
    builder: ModelBuilder, layout: str, half: float, deep: float, thick: float, wedge: bool
) -> None:
    slope = thick * 0.55 / (2 * deep) if wedge else 0.0

    def inset(part: str, x: tuple[float, float], z: tuple[float, float], lift: float) -> None:
        slab = box((x[0], thick - 0.004, z[0]), (x[1], thick + lift, z[1]))
        slab.vertices[:, 1] += slope * (slab.vertices[:, 2] - deep)
        builder.add(part, slab)

    right = half * (0.9 if layout != "numpad" else 0.55)
    rows = np.linspace(-deep * 0.1, deep * 0.82, 5)
    for low, high in pairwise(rows):
        inset("keys", (-half * 0.9, right), (low + 0.002, high - 0.002), 0.002)
    if layout == "numpad":
        inset("keys", (half * 0.62, half * 0.9), (rows[0], rows[-1]), 0.002)
    if layout == "trackpoint":
        inset("point", (-0.004, 0.004), (deep * 0.33, deep * 0.33 + 0.008), 0.005)
    inset("pad", (-half * 0.3, half * 0.3), (-deep * 0.85, -deep * 0.25), 0.0008)


def camera(builder: ModelBuilder, variant: int, rng: np.random.Generator) -> None:
    """A photo camera."""
    body, lens, top = _CAMERAS[variant]
    width, height, depth = {
        "compact": (0.105, 0.065, 0.03),
        "reflex": (0.135, 0.09, 0.06),
        "rangefinder": (0.135, 0.078, 0.036),
        "cube": (0.065, 0.06, 0.05),
        "instant": (0.12, 0.105, 0.075),
        "bridge": (0.12, 0.08, 0.07),
    }[body] * rng.uniform(0.9, 1.1, 3)
    half, deep = width / 2, depth / 2
    if body in ("compact", "instant"):
        builder.add(
            "body", cushion((-half, 0, -deep), (half, height, deep), rounding=0.12, exponent=8.0)
        )
    else:
        builder.box("body", (-half, half), (0.0, height), (-deep, deep))
        builder.box(
            "band",
            (-half - 0.001, half + 0.001),
            (height * 0.15, height * 0.7),
            (-deep - 0.001, deep + 0.001),
        )
    if body in ("reflex", "bridge"):  # the grip, under the right hand of the photographer
        grip = (
            (-half - 0.004, 0.0, -deep - 0.022),
            (-half + width * 0.22, height * 0.94, -deep + 0.01),
        )
        builder.add("band", cushion(*grip, rounding=0.1))
    _lens(builder, lens, half, height, deep, rng)
    _camera_top(builder, top, half, height, deep)


def _lens(
    builder: ModelBuilder,
    lens: str,
    half: float,
    height: float,
    deep: float,
    rng: np.random.Generator,
) -> None:
    radius = height * rng.uniform(0.32, 0.42)
    reach = radius * (rng.uniform(1.6, 2.6) if lens == "long" else rng.uniform(0.5, 0.9))
    centre = (rng.uniform(-0.05, 0.2) * half, height * 0.46, -deep)

    def forward(mesh: Mesh) -> Mesh:
        return translate(rotate(mesh, 0, -90.0), centre)

    barrel = [(radius, -0.004), (radius, reach * 0.55), (radius * 0.9, reach * 0.6)]
    barrel += [(radius * 0.9, reach), (radius * 0.72, reach), (radius * 0.6, reach * 0.75)]
    builder.add("lens", forward(lathe(barrel, segments=24)))
    builder.add("glass", forward(cylinder(radius * 0.62, reach * 0.3, reach * 0.8, segments=16)))


def _camera_top(builder: ModelBuilder, top: str, half: float, height: float, deep: float) -> None:
    if top == "prism":
        low, high = (-half * 0.36, height - 0.002, -deep), (half * 0.36, height + 0.026, deep * 0.9)
        builder.add("body", tapered_box(low, high, 0.6, 0.8))
        builder.box(
            "glass",
            (-half * 0.18, half * 0.18),
            (height + 0.004, height + 0.016),
            (deep * 0.6, deep * 0.95),
        )
    elif top == "flash":
        low, high = (
            (half * 0.3, height - 0.002, -deep * 0.7),
            (half * 0.8, height + 0.014, deep * 0.5),
        )
        builder.add("flash", box(low, high))
    elif top == "window":
        x = (half * 0.35, half * 0.75)
        builder.box(
            "body", (x[0] - 0.004, x[1] + 0.004), (height - 0.002, height + 0.01), (-deep, deep)
        )
        builder.box("glass", x, (height * 0.84, height + 0.004), (-deep - 0.002, -deep + 0.004))
    elif top == "dial":
        dial = cylinder(min(half * 0.22, deep * 0.8), height - 0.002, height + 0.009, segments=16)
        builder.add("button", translate(dial, (half * 0.6, 0.0, 0.0)))
    button = cylinder(min(0.007, deep * 0.5), height - 0.002, height + 0.006, segments=12)
    builder.add("button", translate(button, (-half * 0.68, 0.0, 0.0)))
