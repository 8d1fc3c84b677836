"""Furnished rooms: a pure function of (seed, split, index)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from .layout import Footprint, footprint, occupied, place, sample_scale, top_height, yaw_facing
from .models import FLOOR_DISTRACTORS, TABLE_DISTRACTORS, build_model
from .shell import room_shell, sample_lighting
from .types import CadModel, PlacedObject, Scene

ROOM_HEIGHT = 2.6

_WALL_CLASSES = ("bathtub", "bed", "bookcase", "cabinet", "sofa")
_WALL_SHARES = (0.21, 0.16, 0.24, 0.19, 0.20)
_LOW_CABINET = 1.1  # metres; higher ones carry no display


def scene_seed(kind: str, seed: int, split: str, index: int) -> tuple[int, ...]:
    """Entropy of one scene, from which all its random numbers derive.

    Raises:
        ValueError: a negative seed or index.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed {seed} and index {index} of a scene must not be negative")
    return (seed, zlib.crc32(f"{kind}/{split}".encode()), index)


def sample_room(seed: int, split: str, index: int, variants: Sequence[int]) -> Scene:
    """Furnish a room.

    Args:
        seed: of the dataset.
        split: name of the split; different names give different rooms.
        index: number of the scene within the split.
        variants: of the CAD models to choose from.

    Returns:
        A room of 3.5-6 m by 3.5-6 m by 2.6 m with 5-10 annotated objects (fewer if no more fit)
        and at most one unlabelled thing on the floor. The origin is the middle of the floor.
    """
    entropy = scene_seed("rooms", seed, split, index)
    rng = np.random.default_rng(entropy)
    extent = rng.uniform(3.5, 6.0, 2)
    planner = RoomPlanner(rng, extent, variants)
    planner.furnish(int(rng.integers(5, 11)))
    planner.scatter_clutter(int(rng.integers(0, 2)))
    return Scene(
        name=f"rooms-{split}-{index:05d}",
        objects=(*planner.objects, *planner.clutter),
        surfaces=room_shell(rng, extent, ROOM_HEIGHT),
        lighting=sample_lighting(rng, extent, ROOM_HEIGHT),
        seed=entropy,
    )


class RoomPlanner:
    """Puts furniture into an empty room, one piece at a time, by rejection.

    Args:
        rng: source of all choices.
        extent: (2,) size of the floor in metres; its middle is the origin.
        variants: of the CAD models to choose from.
    """

    def __init__(
        self, rng: np.random.Generator, extent: np.ndarray, variants: Sequence[int]
    ) -> None:
        self._rng = rng
        self._floor = Footprint(np.zeros(2), np.asarray(extent) / 2.0, 0.0)
        self.variants = tuple(int(variant) for variant in variants)
        if not self.variants:
            raise ValueError("variants is empty; expected numbers of CAD model variants")
        self._taken: list[Footprint] = []
        self.objects: list[PlacedObject] = []
        self.clutter: list[PlacedObject] = []

    def furnish(self, count: int) -> None:
        """Add about ``count`` annotated objects."""
        rng = self._rng
        walls = rng.choice(_WALL_CLASSES, size=int(rng.integers(3, 6)), p=_WALL_SHARES)
        cabinet_display = True
        for category in walls:
            model = self._draw(str(category))
            single = model.category in ("bed", "bathtub")
            if single and any(o.model.category == model.category for o in self.objects):
                continue
            placed = self.add_at_wall(model)
            if placed is None or model.category != "cabinet" or not cabinet_display:
                continue
            if top_height(placed) < _LOW_CABINET and rng.random() < 0.6:
                cabinet_display = self._add_display(placed) is None
        for _ in range(int(rng.integers(1, 3))):
            if len(self.objects) < count - 1:
                self._add_table_group(count)
        for _ in range(3 * count):
            if len(self.objects) >= count:
                break
            self.add_free(self._draw("bin" if rng.random() < 0.75 else "chair"))

    def add_at_wall(self, model: CadModel) -> PlacedObject | None:
        """Back to a wall with a gap of 1-6 cm, front into the room; None if nothing fits."""
        rng = self._rng
        scale = sample_scale(model, rng)
        for _ in range(12):
            side = int(rng.integers(4))
            inward = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])[side]
            along = np.array([-inward[1], inward[0]])
            area = footprint(model, scale, np.zeros(2), yaw_facing(inward))
            room = self._floor.half @ np.abs(along) - area.half[0] - 0.02
            if room <= 0.0:
                continue
            away = self._floor.half @ np.abs(inward) - area.half[1] - rng.uniform(0.01, 0.06)
            centre = -inward * away + along * rng.uniform(-room, room)
            placed = self._try(model, scale, Footprint(centre, area.half, area.yaw))
            if placed is not None:
                return placed
        return None

    def add_free(self, model: CadModel, *, annotated: bool = True) -> PlacedObject | None:
        """Anywhere on the floor, with any yaw; None if nothing fits."""
        scale = sample_scale(model, self._rng)
        for _ in range(12):
            yaw = self._rng.uniform(-np.pi, np.pi)
            reach = np.maximum(self._floor.half - 0.3, 0.1)
            area = footprint(model, scale, self._rng.uniform(-reach, reach), yaw)
            placed = self._try(model, scale, area, annotated=annotated)
            if placed is not None:
                return placed
        return None

    def scatter_clutter(self, count: int) -> None:
        """Add unlabelled things on the floor."""
        for _ in range(count):
            model = self._draw(str(self._rng.choice(FLOOR_DISTRACTORS)))
            self.add_free(model, annotated=False)

    def _draw(self, category: str) -> CadModel:
        return build_model(category, self.variants[self._rng.integers(len(self.variants))])

    def _try(
        self, model: CadModel, scale: np.ndarray, area: Footprint, *, annotated: bool = True
    ) -> PlacedObject | None:
        """Stand a model on the floor if it collides with nothing."""
        if not self._floor.contains(area, 0.005):
            return None
        if any(area.overlaps(other, 0.02) for other in self._taken):
            return None
        placed = place(model, scale, area, 0.0, self._rng, annotated=annotated)
        self._taken.append(area)
        (self.objects if annotated else self.clutter).append(placed)
        return placed

    def _add_table_group(self, count: int) -> None:
        rng = self._rng
        table = self.add_free(self._draw("table"))
        if table is None:
            return
        area = occupied(table)
        if rng.random() < 0.5:
            self._add_display(table)
        elif rng.random() < 0.5:
            self._add_table_clutter(table)
        for _ in range(int(rng.integers(0, 4))):
            if len(self.objects) < count:
                self._add_chair(area)

    def _add_chair(self, table: Footprint) -> None:
        """A chair at a table, looking at it within 0.3 rad."""
        rng = self._rng
        model = self._draw("chair")
        scale = sample_scale(model, rng)
        for _ in range(8):
            axis, sign = int(rng.integers(2)), float(rng.choice((-1.0, 1.0)))
            outward = sign * table.axes()[axis]
            tangent = table.axes()[1 - axis]
            yaw = yaw_facing(-outward) + rng.uniform(-0.3, 0.3)
            half = footprint(model, scale, np.zeros(2), yaw).half
            slide = max(float(table.half[1 - axis] - half[0]), 0.0)
            distance = table.half[axis] + half[1] + rng.uniform(0.06, 0.25)
            centre = table.centre + outward * distance + tangent * rng.uniform(-slide, slide)
            if self._try(model, scale, Footprint(centre, half, yaw)) is not None:
                return

    def _add_display(self, support: PlacedObject) -> PlacedObject | None:
        """A display that stands wholly on a table or cabinet and looks along its depth."""
        rng = self._rng
        top = usable_top(support)
        forward = 0.0 if support.model.category == "cabinet" else np.pi * int(rng.integers(2))
        for _ in range(6):
            model = self._draw("display")
            scale = sample_scale(model, rng)
            placed = self._stand_on(support, top, model, scale, top.yaw + forward)
            if placed is not None:
                self.objects.append(placed)
                return placed
        return None

    def _add_table_clutter(self, support: PlacedObject) -> None:
        model = self._draw(str(self._rng.choice(TABLE_DISTRACTORS)))
        scale = sample_scale(model, self._rng, factor=0.7)
        yaw = self._rng.uniform(-np.pi, np.pi)
        top = usable_top(support)
        placed = self._stand_on(support, top, model, scale, yaw, annotated=False)
        if placed is not None:
            self.clutter.append(placed)

    def _stand_on(
        self,
        support: PlacedObject,
        top: Footprint,
        model: CadModel,
        scale: np.ndarray,
        yaw: float,
        *,
        annotated: bool = True,
    ) -> PlacedObject | None:
        area = footprint(model, scale, top.centre, yaw + self._rng.uniform(-0.2, 0.2))
        reach = np.maximum(top.half - area.half, 0.0)
        shift = self._rng.uniform(-reach, reach) @ top.axes()
        area = Footprint(top.centre + shift, area.half, area.yaw)
        if not top.contains(area):
            return None
        return place(model, scale, area, top_height(support), self._rng, annotated=annotated)


def usable_top(support: PlacedObject) -> Footprint:
    """The part of a top that is surely there: of round ones, the inscribed square."""
    area = occupied(support)
    plan = np.abs(support.model.vertices[:, [0, 2]])
    reaches_corner = (plan > 0.95 * plan.max(axis=0)).all(axis=1).any()
    shrink = 1.0 if reaches_corner else 0.7
    return Footprint(area.centre, area.half * shrink - 0.01, area.yaw)
