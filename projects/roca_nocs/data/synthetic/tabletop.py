"""Small objects on a table in a room: a pure function of (seed, split, index)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .layout import Footprint, as_surfaces, footprint, place, sample_scale, top_height
from .models import CATEGORIES, TABLE_DISTRACTORS, build_model
from .rooms import ROOM_HEIGHT, RoomPlanner, scene_seed, usable_top
from .shell import room_shell, sample_lighting
from .types import PlacedObject, Scene

EMPTY_EVERY = 20
"""One scene in so many shows distractors only."""


def sample_tabletop(seed: int, split: str, index: int, variants: Sequence[int]) -> Scene:
    """Set a table.

    Args:
        seed: of the dataset.
        split: name of the split; different names give different scenes.
        index: number of the scene within the split.
        variants: of the CAD models to choose from.

    Returns:
        A scene whose table and furniture are surfaces (background). Its objects are 3-7 annotated
        ones, scaled equally along all axes, and 1-3 distractors; scenes 3, 23, 43, ... of a split
        hold distractors only.
    """
    entropy = scene_seed("tabletop", seed, split, index)
    rng = np.random.default_rng(entropy)
    extent = rng.uniform(3.5, 6.0, 2)
    planner = RoomPlanner(rng, extent, variants)
    table = None
    while table is None:
        table = planner.add_free(build_model("table", int(rng.choice(planner.variants))))
    top = usable_top(table)
    planner.furnish(int(rng.integers(3, 7)))
    annotated = 0 if index % EMPTY_EVERY == 3 else int(rng.integers(3, 8))
    kinds = [(str(rng.choice(CATEGORIES["tabletop"])), True) for _ in range(annotated)]
    distractors = int(rng.integers(1, 4))
    kinds += [(str(rng.choice(TABLE_DISTRACTORS)), False) for _ in range(distractors)]
    objects = _set_table(rng, planner.variants, top, top_height(table), kinds)
    background = (*planner.objects, *planner.clutter)
    furniture = [surface for placed in background for surface in as_surfaces(placed)]
    return Scene(
        name=f"tabletop-{split}-{index:05d}",
        objects=tuple(objects),
        surfaces=(*room_shell(rng, extent, ROOM_HEIGHT), *furniture),
        lighting=sample_lighting(rng, extent, ROOM_HEIGHT),
        seed=entropy,
    )


def _set_table(
    rng: np.random.Generator,
    variants: Sequence[int],
    top: Footprint,
    height: float,
    kinds: Sequence[tuple[str, bool]],
) -> list[PlacedObject]:
    """Stand objects of the given kinds around one spot of the table, without contact."""
    spot = top.centre + rng.uniform(-0.4, 0.4, 2) * top.half @ top.axes()
    taken: list[Footprint] = []
    objects = []
    for category, annotated in kinds:
        model = build_model(category, int(rng.choice(variants)))
        # Cartons and balls are made for the floor; on a table they are of hand size.
        factor = rng.uniform(0.35, 0.6) if category in ("ball", "carton") else 1.0
        scale = sample_scale(model, rng, uniform=True, factor=factor)
        for attempt in range(30):
            spread = 0.08 + 0.012 * attempt
            centre = spot + rng.normal(0.0, spread, 2)
            area = footprint(model, scale, centre, rng.uniform(-np.pi, np.pi))
            if not top.contains(area):
                continue
            if any(area.overlaps(other, 0.015) for other in taken):
                continue
            taken.append(area)
            objects.append(place(model, scale, area, height, rng, annotated=annotated))
            break
    return objects
