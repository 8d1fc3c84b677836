"""Roads of the traffic simulator, and the routes that vehicles follow on them.

A road is straight or an arc. Positions on it are (s, lateral): metres along the centre line from
its middle, and metres to the left of it. Traffic keeps to the right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LANE_WIDTH = 3.5
MAX_CURVATURE = 0.02
ROUTE_LENGTH = 100
"""Metres of a route, which has one point a metre."""

_CROSSING_CLEARANCE = 4.0  # metres between the kerb of the crossing road and the start of a turn
_FARTHEST_TURN = 45.0


@dataclass(frozen=True)
class Road:
    """A road of the world.

    Attributes:
        x, y, heading: of the middle of its centre line.
        curvature: 1/m, positive to the left.
        lanes: numbers of lanes along the heading (to the right of the centre line) and against it.
    """

    x: float
    y: float
    heading: float
    curvature: float
    lanes: tuple[int, int]

    @property
    def edges(self) -> tuple[float, float]:
        """Lateral positions of the right and the left edge, metres."""
        return -LANE_WIDTH * self.lanes[0], LANE_WIDTH * self.lanes[1]

    @property
    def reach(self) -> float:
        """Length of the arc on each side of the middle; beyond, the road goes on straight."""
        return 0.5 * math.pi / max(abs(self.curvature), 1e-3)

    def positions(self, s: np.ndarray, lateral: float | np.ndarray) -> np.ndarray:
        """World (x, y) (..., 2) of places on the road."""
        on_arc = np.clip(s, -self.reach, self.reach)
        middle = self.heading + 0.5 * self.curvature * on_arc
        chord = on_arc * np.sinc(0.5 * self.curvature * on_arc / np.pi)
        heading = self.heading + self.curvature * on_arc
        beyond = s - on_arc
        x = self.x + chord * np.cos(middle) + beyond * np.cos(heading) - lateral * np.sin(heading)
        y = self.y + chord * np.sin(middle) + beyond * np.sin(heading) + lateral * np.cos(heading)
        return np.stack(np.broadcast_arrays(x, y), axis=-1)

    def headings(self, s: np.ndarray) -> np.ndarray:
        """Heading of the road at s."""
        return self.heading + self.curvature * np.clip(s, -self.reach, self.reach)

    def laterals(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Lateral position of points of the world, float32; infinite behind the centre of the arc.

        The distance to a circle in a form that also holds for straight roads.
        """
        cos, sin = np.float32(math.cos(self.heading)), np.float32(math.sin(self.heading))
        x, y = x - np.float32(self.x), y - np.float32(self.y)
        along, left = cos * x + sin * y, cos * y - sin * x
        curvature = np.float32(self.curvature)
        bent = curvature * (along * along + left * left) - 2 * left
        root = np.sqrt(np.maximum(1 + curvature * bent, 0))
        return np.where(curvature * left < 1, -bent / (1 + root), np.float32(np.inf))


@dataclass(frozen=True)
class Lane:
    """A lane: its road, its direction (+1 along the road's heading) and number from the centre."""

    road: int
    direction: int
    number: int

    @property
    def lateral(self) -> float:
        """Of its centre line, in the road's frame."""
        return -self.direction * (self.number + 0.5) * LANE_WIDTH


@dataclass(frozen=True)
class Crossing:
    """Where the middle of road ``other`` lies on road 0, at ``s``."""

    s: float
    other: int


@dataclass(frozen=True)
class RoadGraph:
    """All roads and crossings."""

    roads: tuple[Road, ...]
    crossings: tuple[Crossing, ...]

    def lanes(self) -> list[Lane]:
        """All lanes."""
        return [
            Lane(index, direction, number)
            for index, road in enumerate(self.roads)
            for direction, count in zip((1, -1), road.lanes, strict=True)
            for number in range(count)
        ]

    def turns(self, lane: Lane, s: float) -> list[tuple[float, Lane, float]]:
        """What may be turned into from a place ahead on a lane.

        Returns:
            (metres to the crossing, lane that is entered, its s at the crossing) of the nearest
            crossing ahead, in both directions of the other road.
        """
        options = []
        for crossing in self.crossings:
            places = {0: crossing.s, crossing.other: 0.0}
            if lane.road not in places:
                continue
            distance = lane.direction * (places[lane.road] - s)
            road = crossing.other if lane.road == 0 else 0
            if self._clearance(road) + 2 < distance < _FARTHEST_TURN:
                options.append((distance, road, places[road]))
        if not options:
            return []
        distance, road, place = min(options)
        return [
            (
                distance,
                Lane(road, direction, self.roads[road].lanes[0 if direction > 0 else 1] - 1),
                place,
            )
            for direction in (1, -1)
        ]

    def _clearance(self, road: int) -> float:
        return max(self.roads[road].lanes) * LANE_WIDTH + _CROSSING_CLEARANCE

    def straight(self, lane: Lane, s: float) -> np.ndarray:
        """Route (ROUTE_LENGTH + 1, 2) along a lane from s on, one point a metre."""
        along = s + lane.direction * np.arange(ROUTE_LENGTH + 1.0)
        return self.roads[lane.road].positions(along, lane.lateral)

    def turning(
        self, lane: Lane, s: float, distance: float, entered: Lane, place: float
    ) -> np.ndarray:
        """Route (ROUTE_LENGTH + 1, 2) that leaves a lane at a crossing; see :meth:`turns`."""
        before = distance - self._clearance(entered.road)
        first = self.straight(lane, s)[: int(before) + 1]
        after = place + entered.direction * self._clearance(lane.road)
        last = self.straight(entered, after)
        leave, enter = first[-1] - first[-2], last[1] - last[0]
        handle = 0.4 * float(np.linalg.norm(last[0] - first[-1]))
        control = np.stack(
            [first[-1], first[-1] + handle * leave, last[0] - handle * enter, last[0]]
        )
        t = np.linspace(0.0, 1.0, 24)[1:-1, None]
        weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
        curve = sum(weight * point for weight, point in zip(weights, control, strict=True))
        return resample(np.concatenate([first, curve, last]))


def resample(points: np.ndarray) -> np.ndarray:
    """A polyline (N, 2) at one point a metre, cut to (ROUTE_LENGTH + 1, 2)."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.arange(ROUTE_LENGTH + 1.0)
    return np.stack([np.interp(wanted, length, axis) for axis in points.T], axis=-1)


def sample_roads(rng: np.random.Generator) -> RoadGraph:
    """One to three roads; the first runs through the origin, others cross it or keep apart."""
    roads = [_sample_road(rng, 0.0, 0.0, rng.uniform(-np.pi, np.pi))]
    crossings: list[Crossing] = []
    for _ in range(int(rng.integers(0, 3))):
        main = roads[0]
        s = float(rng.uniform(-15.0, 60.0))
        heading = float(main.headings(np.array(s)))
        if not crossings or (abs(crossings[0].s - s) > 30.0 and rng.random() < 0.5):
            if rng.random() < 0.75:
                x, y = main.positions(np.array(s), 0.0).tolist()
                angle = rng.choice([-1.0, 1.0]) * rng.uniform(np.pi / 3, 2 * np.pi / 3)
                crossings.append(Crossing(s, len(roads)))
                roads.append(_sample_road(rng, x, y, heading + angle))
                continue
        apart = float(rng.choice([-1.0, 1.0]) * rng.uniform(25.0, 40.0))
        x, y = main.positions(np.array(s), apart).tolist()
        roads.append(_sample_road(rng, x, y, heading + rng.normal(0.0, 0.1)))
    return RoadGraph(tuple(roads), tuple(crossings))


def _sample_road(rng: np.random.Generator, x: float, y: float, heading: float) -> Road:
    curvature = 0.0 if rng.random() < 0.5 else rng.uniform(-MAX_CURVATURE, MAX_CURVATURE)
    total = int(rng.integers(2, 5))
    return Road(x, y, float(heading), float(curvature), ((total + 1) // 2, total // 2))


def road_channels(
    roads: Sequence[Road], x: np.ndarray, y: np.ndarray, line_width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where the ground is drivable and where lanes end.

    Args:
        roads: of the world.
        x, y: (...) float32 points of the world.
        line_width: of the drawn lines, metres.

    Returns:
        drivable, lines: (...) bool.
    """
    drivable, lines = np.zeros(x.shape, bool), np.zeros(x.shape, bool)
    for road in roads:
        right, left = road.edges
        lateral = road.laterals(x, y)
        drivable |= (lateral >= right) & (lateral < left)
        # Lines lie at whole numbers of lanes.
        position = lateral / np.float32(LANE_WIDTH)
        with np.errstate(invalid="ignore"):
            near = np.abs(position - np.round(position)) < 0.5 * line_width / LANE_WIDTH
        lines |= near & (lateral > right - line_width) & (lateral < left + line_width)
    return drivable, lines
