"""Parametric CAD models: pure functions of a class and a variant number.

Every class has twelve variants that differ in structure and in continuous parameters. Variants
0-7 are for training, 8-11 never occur in training scenes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ..types import CadModel
from . import cars, devices, distractors, people, seating, sleeping, storage, tables, vessels
from .builder import ModelBuilder

CATEGORIES: dict[str, tuple[str, ...]] = {
    "rooms": (
        "bathtub",
        "bed",
        "bin",
        "bookcase",
        "cabinet",
        "chair",
        "display",
        "sofa",
        "table",
    ),
    "tabletop": ("bottle", "bowl", "camera", "can", "laptop", "mug"),
    "street": ("car", "pedestrian", "cyclist"),
}
"""Annotated classes of each kind of scene, in the order of their ids."""

TRAIN_VARIANTS: tuple[int, ...] = tuple(range(8))
UNSEEN_VARIANTS: tuple[int, ...] = tuple(range(8, 12))

_SHAPES: dict[str, Callable[[ModelBuilder, int, np.random.Generator], None]] = {
    "bathtub": sleeping.bathtub,
    "bed": sleeping.bed,
    "bin": storage.bin_,
    "bookcase": storage.bookcase,
    "cabinet": storage.cabinet,
    "chair": seating.chair,
    "display": devices.display,
    "sofa": seating.sofa,
    "table": tables.table,
    "bottle": vessels.bottle,
    "bowl": vessels.bowl,
    "camera": devices.camera,
    "can": vessels.can,
    "laptop": devices.laptop,
    "mug": vessels.mug,
    "ball": distractors.ball_,
    "book_stack": distractors.book_stack,
    "carton": distractors.carton,
    "floor_lamp": distractors.floor_lamp,
    "plant": distractors.plant,
    "tissue_box": distractors.tissue_box,
    # A model draws its numbers by its place in this table: append, never insert.
    "car": cars.car,
    "pedestrian": people.pedestrian,
    "cyclist": people.cyclist,
}

FLOOR_DISTRACTORS: tuple[str, ...] = ("ball", "carton", "floor_lamp", "plant")
TABLE_DISTRACTORS: tuple[str, ...] = ("ball", "book_stack", "carton", "tissue_box")


@lru_cache(maxsize=512)
def build_model(category: str, variant: int) -> CadModel:
    """Build one model.

    Args:
        category: a name in :data:`CATEGORIES` or one of the distractors.
        variant: 0-11.

    Returns:
        The model; cached, so its arrays are read-only.

    Raises:
        ValueError: unknown class or variant.
    """
    if category not in _SHAPES:
        raise ValueError(f"unknown category {category!r}; known: {', '.join(sorted(_SHAPES))}")
    variants = len(TRAIN_VARIANTS) + len(UNSEEN_VARIANTS)
    if not 0 <= variant < variants:
        raise ValueError(f"variant of {category} is {variant}; expected 0 to {variants - 1}")
    rng = np.random.default_rng([list(_SHAPES).index(category), variant, 2718])
    builder = ModelBuilder()
    _SHAPES[category](builder, variant, rng)
    return builder.finish(category, variant)
