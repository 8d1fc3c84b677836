"""Agents of the traffic simulator: where they start, and how they move.

Vehicles are kinematic bicycles that follow a route by pure pursuit and keep their distance by the
intelligent-driver model (Treiber et al., 2000). Row 0 of every array is the ego vehicle, which
drives by the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..bev_clip import AgentClass
from .layout import Footprint
from .traffic_roads import LANE_WIDTH, ROUTE_LENGTH, Lane, Road, RoadGraph

CLASSES = (
    AgentClass(0, "car", True),
    AgentClass(1, "truck", True),
    AgentClass(2, "bus", True),
    AgentClass(3, "cycle", True),
    AgentClass(4, "pedestrian", False),
)
SIZES = np.array([(4.6, 1.9), (8.0, 2.5), (11.0, 2.6), (1.8, 0.7), (0.7, 0.7)])
"""Mean length and width of each class, metres; agents spread by 8 %."""

TIME_STEP = 0.05
_STEPS_PER_CONTROL = 2
_SHARES = (0.66, 0.1, 0.06, 0.09, 0.09)
_SIZE_SPREAD = 0.08
_PARKED_SHARE = 0.25
_SPEEDS = ((5.0, 14.0), (5.0, 12.0), (5.0, 11.0), (3.0, 6.5), (0.6, 1.8))
_TURNING_SPEED = 6.0
_HEADWAY, _ACCELERATION, _BRAKING, _MIN_GAP = 1.5, 1.5, 2.0, 2.0
_HARDEST_BRAKING = 8.0
_LANE_CHANGE_RATE = 0.05
_MAX_STEERING = 0.6
_SPREAD = 80.0  # metres of road before and behind the ego vehicle on which agents start
_ATTEMPTS = 12
_CAR, _CYCLE, _PEDESTRIAN = 0, 3, 4


@dataclass
class Traffic:
    """N agents, the ego vehicle first.

    Attributes:
        labels: (N,) class ids.
        sizes: (N, 2) length and width, metres.
        routes: (N, ROUTE_LENGTH + 1, 2) points of the world, a metre apart.
        poses: (N, 3) x, y, yaw.
        speeds: (N,) m/s.
        desired: (N,) speed on a free road; 0 = parked.
        offsets: (N,) lateral distance kept from the route, to the left.
        changes: (N, 2) offsets of the lanes to the left and right, NaN where there is none.
    """

    labels: np.ndarray
    sizes: np.ndarray
    routes: np.ndarray
    poses: np.ndarray
    speeds: np.ndarray
    desired: np.ndarray
    offsets: np.ndarray
    changes: np.ndarray


@dataclass(frozen=True)
class _Start:
    """How one agent begins."""

    label: int
    size: np.ndarray
    route: np.ndarray
    pose: np.ndarray
    speed: float
    desired: float
    offset: float
    changes: tuple[float, float]


def sample_traffic(rng: np.random.Generator, graph: RoadGraph) -> Traffic:
    """The ego vehicle on the first road and 5 to 25 agents (fewer if no more fit) around it."""
    s = float(rng.uniform(-10.0, 10.0))
    lane = Lane(0, 1, int(rng.integers(graph.roads[0].lanes[0])))
    starts = [_vehicle(rng, graph, _CAR, lane, s)]
    taken = [_footprint(starts[0])]
    for _ in range(int(rng.integers(5, 26))):
        label = int(rng.choice(len(CLASSES), p=_SHARES))
        parked = label not in (_CYCLE, _PEDESTRIAN) and rng.random() < _PARKED_SHARE * 1.2
        for _ in range(_ATTEMPTS):
            start = _sample_start(rng, graph, label, parked, s)
            place = _footprint(start)
            if not any(_near(place, each) and place.overlaps(each, 0.5) for each in taken):
                starts.append(start)
                taken.append(place)
                break
    return Traffic(
        labels=np.array([each.label for each in starts]),
        sizes=np.stack([each.size for each in starts]),
        routes=np.stack([each.route for each in starts]),
        poses=np.stack([each.pose for each in starts]),
        speeds=np.array([each.speed for each in starts]),
        desired=np.array([each.desired for each in starts]),
        offsets=np.array([each.offset for each in starts]),
        changes=np.array([each.changes for each in starts]),
    )


def _footprint(start: _Start) -> Footprint:
    return Footprint(start.pose[:2], 0.5 * start.size, float(start.pose[2]))


def _near(one: Footprint, other: Footprint) -> bool:
    """Whether two footprints are so near that they may overlap."""
    apart = np.abs(one.centre - other.centre).max()
    return bool(apart < one.half.sum() + other.half.sum() + 0.5)


def _sample_start(
    rng: np.random.Generator, graph: RoadGraph, label: int, parked: bool, ego_s: float
) -> _Start:
    lanes = graph.lanes()
    lane = lanes[int(rng.integers(len(lanes)))]
    s = float(rng.uniform(-_SPREAD, _SPREAD)) + (ego_s if lane.road == 0 else 0.0)
    road = graph.roads[lane.road]
    if parked:
        return _parked(rng, road, label, lane.direction, s)
    if label == _PEDESTRIAN:
        return _pedestrian(rng, road, lane.direction, s)
    if label == _CYCLE:
        lane = Lane(lane.road, lane.direction, road.lanes[0 if lane.direction > 0 else 1] - 1)
    return _vehicle(rng, graph, label, lane, s)


def _vehicle(
    rng: np.random.Generator, graph: RoadGraph, label: int, lane: Lane, s: float
) -> _Start:
    route, turned = graph.straight(lane, s), False
    turns = graph.turns(lane, s)
    # Straight on and either turn are equally likely.
    choice = int(rng.integers(len(turns) + 1))
    if choice:
        route, turned = graph.turning(lane, s, *turns[choice - 1]), True
    desired = float(rng.uniform(*_SPEEDS[label]))
    desired = min(desired, _TURNING_SPEED) if turned else desired
    count = graph.roads[lane.road].lanes[0 if lane.direction > 0 else 1]
    inner, outer = lane.number > 0, lane.number + 1 < count
    free = not turned and label != _CYCLE
    changes = (
        LANE_WIDTH if inner and free else np.nan,
        -LANE_WIDTH if outer and free else np.nan,
    )
    # Cycles keep to the right edge of the lane.
    offset = -1.0 if label == _CYCLE else float(rng.normal(0.0, 0.1))
    speed = desired * float(rng.uniform(0.6, 1.0))
    return _along(rng, label, route, speed, desired, offset, changes)


def _along(
    rng: np.random.Generator,
    label: int,
    route: np.ndarray,
    speed: float,
    desired: float,
    offset: float,
    changes: tuple[float, float] = (np.nan, np.nan),
) -> _Start:
    """An agent at the beginning of a route."""
    step = route[1] - route[0]
    yaw = np.arctan2(step[1], step[0])
    x, y = route[0] + offset * np.array([-np.sin(yaw), np.cos(yaw)])
    size = SIZES[label] * np.clip(1 + _SIZE_SPREAD * rng.normal(size=2), 0.75, 1.25)
    return _Start(label, size, route, np.array([x, y, yaw]), speed, desired, offset, changes)


def _parked(rng: np.random.Generator, road: Road, label: int, direction: int, s: float) -> _Start:
    edge = road.edges[0 if direction > 0 else 1]
    lateral = edge - direction * (0.5 * SIZES[label, 1] + 0.35)
    along = s + direction * np.arange(ROUTE_LENGTH + 1.0)
    return _along(rng, label, road.positions(along, lateral), 0.0, 0.0, 0.0)


def _pedestrian(rng: np.random.Generator, road: Road, direction: int, s: float) -> _Start:
    edge = road.edges[0 if direction > 0 else 1]
    lateral = edge - direction * float(rng.uniform(0.6, 3.0))
    origin = road.positions(np.array(s), lateral)
    # Most walk along the road, the others across it.
    turn = float(rng.choice([0.0, np.pi, 0.5 * np.pi * direction], p=[0.4, 0.4, 0.2]))
    heading = float(road.headings(np.array(s))) + turn + float(rng.normal(0.0, 0.1))
    along = np.arange(ROUTE_LENGTH + 1.0)[:, None]
    route = origin + along * np.array([np.cos(heading), np.sin(heading)])
    speed = float(rng.uniform(*_SPEEDS[_PEDESTRIAN]))
    return _along(rng, _PEDESTRIAN, route, speed, speed, 0.0)


def simulate(
    traffic: Traffic, rng: np.random.Generator, num_frames: int, frame_dt: float
) -> tuple[np.ndarray, np.ndarray]:
    """Let the agents move.

    Args:
        traffic: how they start; stays as it is.
        rng: source of the lane changes.
        num_frames: number of frames, the start being the first.
        frame_dt: seconds between frames, a multiple of 0.05.

    Returns:
        poses: (num_frames, N, 3) of the world.
        velocities: (num_frames, N, 2), m/s.
    """
    steps = round(frame_dt / TIME_STEP)
    total = (num_frames - 1) * steps
    wishes = rng.random((total // _STEPS_PER_CONTROL + 1, len(traffic.labels)))
    position, yaw = traffic.poses[:, :2].copy(), traffic.poses[:, 2].copy()
    speed, progress = traffic.speeds.copy(), np.zeros(len(yaw))
    offset, changes = traffic.offsets.copy(), traffic.changes.copy()
    wheelbase = 0.6 * traffic.sizes[:, 0]
    poses, velocities = [], []
    acceleration = steering = np.zeros(len(yaw))
    for step in range(total + 1):
        direction = np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
        if step % steps == 0:
            poses.append(np.column_stack([position, yaw]))
            velocities.append(speed[:, None] * direction)
        if step % _STEPS_PER_CONTROL == 0:
            place, tangent = _on_route(traffic.routes, progress)
            progress = progress + ((position - place) * tangent).sum(axis=-1)
            _change_lanes(wishes[step // _STEPS_PER_CONTROL], offset, changes)
            steering = _pursue(traffic, position, yaw, speed, progress, offset, wheelbase)
            acceleration = _follow(traffic, position, direction, speed, progress, offset)
        position = position + TIME_STEP * speed[:, None] * direction
        yaw = yaw + TIME_STEP * speed * np.tan(steering) / wheelbase
        speed = np.maximum(speed + TIME_STEP * acceleration, 0.0)
    return np.stack(poses), np.stack(velocities)


def _on_route(routes: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and tangents (N, ..., 2) at s (N, ...) metres; routes go on straight at both ends."""
    index = np.minimum(np.maximum(s.astype(np.int64), 0), ROUTE_LENGTH - 1)
    row = np.arange(len(routes)).reshape(-1, *[1] * (s.ndim - 1))
    point = routes[row, index]
    tangent = routes[row, index + 1] - point
    return point + (s - index)[..., None] * tangent, tangent


def _change_lanes(wishes: np.ndarray, offset: np.ndarray, changes: np.ndarray) -> None:
    """Let some agents take the offset of another lane, once each; in place."""
    probability = _LANE_CHANGE_RATE * TIME_STEP * _STEPS_PER_CONTROL
    going = (wishes < probability) & np.isfinite(changes).any(axis=-1)
    # The wish also tells the side where there are two.
    left = np.isfinite(changes[:, 0]) & ((wishes < 0.5 * probability) | np.isnan(changes[:, 1]))
    offset[going] += np.where(left, changes[:, 0], changes[:, 1])[going]
    changes[going] = np.nan


def _pursue(
    traffic: Traffic,
    position: np.ndarray,
    yaw: np.ndarray,
    speed: np.ndarray,
    progress: np.ndarray,
    offset: np.ndarray,
    wheelbase: np.ndarray,
) -> np.ndarray:
    """Steering angles (N,) of pure pursuit."""
    ahead = 3.0 + 0.9 * speed
    point, tangent = _on_route(traffic.routes, progress + ahead)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=-1)
    to_point = point + offset[:, None] * normal - position
    bearing = np.arctan2(to_point[:, 1], to_point[:, 0]) - yaw
    distance = np.maximum(np.hypot(*to_point.T), 1.0)
    steering = np.arctan(2 * wheelbase * np.sin(bearing) / distance)
    return np.clip(steering, -_MAX_STEERING, _MAX_STEERING)


def _follow(
    traffic: Traffic,
    position: np.ndarray,
    direction: np.ndarray,
    speed: np.ndarray,
    progress: np.ndarray,
    offset: np.ndarray,
) -> np.ndarray:
    """Accelerations (N,) of the intelligent-driver model behind the nearest agent on the route."""
    apart = position - position[:, None]
    along = (apart * direction[:, None]).sum(axis=-1)
    point, tangent = _on_route(traffic.routes, progress[:, None] + along)
    # Distance from the route, left positive, at the places of all others.
    away = position - point
    beside = away[..., 1] * tangent[..., 0] - away[..., 0] * tangent[..., 1]
    clearance = 0.5 * (traffic.sizes[:, 1] + traffic.sizes[:, None, 1]) + 0.3
    lengths = 0.5 * (traffic.sizes[:, 0] + traffic.sizes[:, None, 0])
    in_way = (along > 0) & (along < 50) & (np.abs(beside - offset[:, None]) < clearance)
    gaps = np.where(in_way, along - lengths, np.inf)
    leader = gaps.argmin(axis=1)
    gap = np.maximum(gaps[np.arange(len(gaps)), leader], 0.1)
    leader_speed = speed[leader] * (direction[leader] * direction).sum(axis=-1)
    approach = speed * (speed - leader_speed) / (2 * np.sqrt(_ACCELERATION * _BRAKING))
    wanted = _MIN_GAP + np.maximum(speed * _HEADWAY + approach, 0.0)
    desired = np.maximum(traffic.desired, 0.1)
    change = _ACCELERATION * (1 - (speed / desired) ** 4 - (wanted / gap) ** 2)
    return np.where(traffic.desired > 0, np.maximum(change, -_HARDEST_BRAKING), 0.0)
