"""Streets with cars, pedestrians and cyclists: a pure function of (seed, split, index).

World: x right, y ahead, z up, metres; the camera stands above the origin and looks along y. The
ground climbs by a constant slope, while all objects stand upright, as labels with a heading and
nothing else demand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roca_nocs.data.published_cameras import KITTI_SIZE, kitti_intrinsics

from .cameras import look_at
from .layout import Footprint, footprint, place, sample_scale
from .models import CATEGORIES, build_model
from .roads import Road, sample_sun, street_surfaces
from .rooms import scene_seed
from .types import CadModel, PlacedObject, Scene, View

NEAREST, FARTHEST = 5.0, 45.0
"""Metres ahead of the camera between which the annotated objects stand."""

_CLASS_SHARES = (0.5, 0.27, 0.23)  # of CATEGORIES["street"]
_PERIOD = 25
_SPECIAL = {3: "empty", 8: "twins", 13: "beside", 18: "bin edges"}
_ATTEMPTS = 30


@dataclass(frozen=True)
class StreetCamera:
    """What differs from one image to the next.

    Attributes:
        focal: pixels of an image of KITTI's size.
        centre: principal point, pixels of an image of KITTI's size.
        height: metres above the ground.
        offset: (3,) metres, from the reference camera of the labels to this camera's frame:
            what is added to the coordinates in the former.
    """

    focal: float
    centre: tuple[float, float]
    height: float
    offset: np.ndarray


def street_camera(seed: Sequence[int]) -> StreetCamera:
    """The camera of a scene, given the scene's seed."""
    rng = np.random.default_rng([*seed, 1])
    return StreetCamera(
        focal=float(np.exp(rng.uniform(np.log(450.0), np.log(1100.0)))),
        centre=(
            float(KITTI_SIZE[1] / 2 + rng.uniform(-45.0, 45.0)),
            float(KITTI_SIZE[0] / 2 - rng.uniform(0.0, 30.0)),
        ),
        height=float(rng.uniform(1.5, 1.8)),
        offset=rng.uniform((0.04, -0.005, 0.0), (0.08, 0.005, 0.005)),
    )


def street_view(scene: Scene, size: tuple[int, int]) -> View:
    """The one view of a street, for images of (height, width)."""
    camera = street_camera(scene.seed)
    eye = np.array([0.0, 0.0, camera.height])
    pose = look_at(eye, eye + np.array([0.0, 1.0, 0.0]))
    return View(kitti_intrinsics(size, camera.focal, camera.centre), pose, size)


def sample_street(seed: int, split: str, index: int, variants: Sequence[int]) -> Scene:
    """Populate a street.

    Args:
        seed: of the dataset.
        split: name of the split; different names give different scenes.
        index: number of the scene within the split.
        variants: of the CAD models to choose from.

    Returns:
        A scene with 1-8 annotated objects (fewer if no more fit) and up to four unlabelled ones
        far away. Of 25 scenes one has no annotated object, one has two equal cars at different
        depth, one a car beside the camera that is partly behind it, and one has objects that are
        seen (``alpha`` of their labels) under multiples of 15 degrees: edges and centres of twelve
        bins, half turns included.
    """
    entropy = scene_seed("street", seed, split, index)
    rng = np.random.default_rng(entropy)
    camera = street_camera(entropy)
    special = _SPECIAL.get(index % _PERIOD, "")
    road = Road(
        heading=float(rng.normal(0.0, 0.06)),
        lateral=float(rng.uniform(-0.5, 0.5)),
        slope=float(rng.uniform(-0.012, 0.012)),
        parking=bool(rng.random() < 0.6),
        square=bool(rng.random() < 0.3 or special in ("twins", "bin edges")),
    )
    crowd = _Crowd(rng, road, camera, tuple(variants), on_bin_edges=special == "bin edges")
    if special == "twins":
        crowd.add_twins()
    elif special == "beside":
        crowd.add_beside()
    if special != "empty":
        crowd.populate(int(rng.integers(1, 9)))
    crowd.add_distant(int(rng.integers(0, 5)))
    return Scene(
        name=f"street-{split}-{index:05d}",
        objects=(*crowd.objects, *crowd.distant),
        surfaces=street_surfaces(rng, road, crowd.taken),
        lighting=sample_sun(rng),
        seed=entropy,
    )


class _Crowd:
    """Puts road users into a street, one at a time, by rejection."""

    def __init__(
        self,
        rng: np.random.Generator,
        road: Road,
        camera: StreetCamera,
        variants: tuple[int, ...],
        *,
        on_bin_edges: bool,
    ) -> None:
        if not variants:
            raise ValueError("variants is empty; expected numbers of CAD model variants")
        self._rng = rng
        self._road = road
        self._camera = camera
        self._variants = variants
        self._on_bin_edges = on_bin_edges
        # Farther away objects would be too low in the image to be labelled.
        self._farthest = min(FARTHEST, camera.focal / 16.0)
        self.taken = [Footprint(np.array([0.0, 1.0]), np.array([1.2, 2.5]), 0.0)]
        self.objects: list[PlacedObject] = []
        self.distant: list[PlacedObject] = []

    def populate(self, count: int) -> None:
        """Add annotated objects until there are ``count``, if they fit."""
        while len(self.objects) < count:
            category = str(self._rng.choice(CATEGORIES["street"], p=_CLASS_SHARES))
            if self._add(self._draw(category), NEAREST, self._farthest) is None:
                return

    def add_distant(self, count: int) -> None:
        """Add unlabelled objects beyond the annotated ones."""
        for _ in range(count):
            model = self._draw(str(self._rng.choice(CATEGORIES["street"], p=_CLASS_SHARES)))
            self._add(model, self._farthest + 8.0, 72.0, annotated=False)

    def add_beside(self) -> None:
        """A car of which a part lies behind the camera."""
        model, rng = self._draw("car"), self._rng
        side = float(rng.choice((-1.0, 1.0)))
        centre = np.array([side * rng.uniform(2.7, 3.4), rng.uniform(0.6, 1.8)])
        angle = self._road.along + (0.0 if side > 0.0 else math.pi)
        self._try(model, sample_scale(model, rng), centre, angle, annotated=True)

    def add_twins(self) -> None:
        """Two cars of the same model, size, colour and heading at different depth."""
        first = self._add(self._draw("car"), NEAREST, 0.5 * self._farthest)
        if first is None:
            return
        area = self.taken[-1]
        for _ in range(_ATTEMPTS):
            depth = self._rng.uniform(min(area.centre[1] + 7.0, self._farthest), self._farthest)
            centre = np.array([self._lateral(depth), depth])
            other = Footprint(centre, area.half, area.yaw)
            if self._is_free(other):
                shift = np.array([*(centre - area.centre), self._road.rise(centre, area.centre)])
                twin = PlacedObject(
                    first.model,
                    first.rotation,
                    first.scale,
                    first.translation + shift,
                    first.materials,
                )
                self.taken.append(other)
                self.objects.append(twin)
                return

    def _draw(self, category: str) -> CadModel:
        return build_model(category, self._variants[self._rng.integers(len(self._variants))])

    def _lateral(self, depth: float) -> float:
        """World x somewhere in the field of view, a little beyond its border at times."""
        column = self._rng.uniform(-0.04, 1.04) * KITTI_SIZE[1]
        return (column - self._camera.centre[0]) / self._camera.focal * depth

    def _add(
        self, model: CadModel, nearest: float, farthest: float, *, annotated: bool = True
    ) -> PlacedObject | None:
        """Somewhere where such an object goes, at this depth; None if nothing fits."""
        scale = sample_scale(model, self._rng)
        for _ in range(_ATTEMPTS):
            # Evenly over the logarithm: objects nearby are few but large in the image.
            depth = float(np.exp(self._rng.uniform(np.log(nearest), np.log(farthest))))
            if self._road.square:
                centre = np.array([self._lateral(depth), depth])
                angle = self._rng.uniform(-math.pi, math.pi)
            else:
                centre, angle = self._road.lane(self._rng, model.category, depth)
                column = self._camera.centre[0] + self._camera.focal * centre[0] / centre[1]
                if not -0.04 <= column / KITTI_SIZE[1] <= 1.04:
                    continue
            if self._on_bin_edges:
                alpha = math.pi / 12.0 * float(self._rng.integers(-12, 12))
                angle = self._angle_seen_under(alpha, centre)
            placed = self._try(model, scale, centre, angle, annotated=annotated)
            if placed is not None:
                return placed
        return None

    def _angle_seen_under(self, alpha: float, centre: np.ndarray) -> float:
        """World angle of the heading of an object at (2,) world x and y whose label says alpha."""
        # Labels are in the frame of the reference camera, and turn the other way.
        x, z = centre - self._camera.offset[[0, 2]]
        return -(alpha + math.atan2(x, z))

    def _try(
        self,
        model: CadModel,
        scale: np.ndarray,
        centre: np.ndarray,
        angle: float,
        *,
        annotated: bool,
    ) -> PlacedObject | None:
        """Stand a model on the ground if it collides with nothing.

        Args:
            model: what to place.
            scale: (3,) metres per model unit.
            centre: (2,) world x and y.
            angle: radians of the heading, from world x towards world y.
            annotated: whether it gets a label.
        """
        area = footprint(model, scale, centre, angle - math.pi / 2.0)
        if not self._is_free(area):
            return None
        height = self._road.slope * float(centre[1])
        placed = place(model, scale, area, height, self._rng, annotated=annotated)
        self.taken.append(area)
        (self.objects if annotated else self.distant).append(placed)
        return placed

    def _is_free(self, area: Footprint) -> bool:
        return not any(area.overlaps(other, 0.3) for other in self.taken)
