"""The traffic simulator: determinism, dynamics, rays, rasters, and what happens in its clips."""

from dataclasses import replace

import numpy as np
import pytest

from roca_nocs.data.bev_clip import BevClip, BevMeta, clip_files
from roca_nocs.data.bev_raster import box_corners, draw_boxes, draw_boxes_fiery
from roca_nocs.data.bev_visibility import visibility_classes, visible_cells
from roca_nocs.data.synthetic.traffic import (
    CHANNELS,
    labelled_agents,
    traffic_clip,
    traffic_meta,
)
from roca_nocs.data.synthetic.traffic_agents import (
    SIZES,
    TIME_STEP,
    sample_traffic,
    simulate,
)
from roca_nocs.data.synthetic.traffic_roads import (
    LANE_WIDTH,
    Crossing,
    Lane,
    Road,
    RoadGraph,
    road_channels,
    sample_roads,
)
from roca_nocs.geometry.bev import BevGrid, relative_pose

META = traffic_meta(96, 96)
NUM_CLIPS = 30


@pytest.fixture(scope="module")
def clips() -> list[BevClip]:
    return [traffic_clip(META, 0, "train", index) for index in range(NUM_CLIPS)]


def test_a_clip_depends_on_its_seed_only(clips: list[BevClip]) -> None:
    again = traffic_clip(META, 0, "train", 7)
    assert clip_files(again, META.classes) == clip_files(clips[7], META.classes)
    for other in (traffic_clip(META, 1, "train", 7), traffic_clip(META, 0, "val", 7)):
        assert (other.raster != again.raster).any()


def test_channels(clips: list[BevClip]) -> None:
    for clip in clips:
        assert clip.raster.shape == (7, len(CHANNELS), 96, 96)
        assert set(np.unique(clip.raster)) <= {0, 255}
        # Occupied, free and unknown cells make up the raster.
        assert (clip.raster[:, :3].astype(int).sum(axis=1) == 255).all()
        assert (clip.raster[:, 3] > 0).any(), "the ego vehicle drives on a road"
    seen = np.concatenate([clip.raster[:3, 0][clip.instance[:3] > 0] for clip in clips])
    assert 0.5 < seen.mean() / 255 < 0.95, "jitter, occlusion and misses hide some cells"


def test_labels(clips: list[BevClip]) -> None:
    vehicle = {each.id for each in META.classes if each.is_vehicle}
    for clip in clips:
        assert ((clip.instance > 0) == clip.segmentation).all()
        assert ((clip.instance > 0) == (clip.visibility > 0)).all()
        shown = np.unique(clip.instance)[1:]
        labels = dict(zip(clip.agents.ids.tolist(), clip.agents.labels.tolist(), strict=True))
        assert {labels[number] for number in shown.tolist()} <= vehicle
    with_vru = [traffic_clip(META, 0, "train", index, include_vru=True) for index in range(8)]
    extra = sum(
        int((one.instance > 0).sum() - (other.instance > 0).sum())
        for one, other in zip(with_vru, clips, strict=False)
    )
    assert extra > 0


def test_births_and_deaths(clips: list[BevClip]) -> None:
    """In frames of their own, which agents do not leave by the motion of the ego vehicle alone."""
    present = META.time_receptive_field - 1
    counts = np.zeros(2)
    for clip in clips:
        frames = [set(np.unique(ids).tolist()) - {0} for ids in clip.instance[present:]]
        counts += bool(set().union(*frames[1:]) - frames[0]), bool(frames[0] - frames[-1])
    assert (counts >= 0.15 * NUM_CLIPS).all(), counts


def test_numbers_of_agents(clips: list[BevClip]) -> None:
    counts = np.array([len(clip.agents.ids) for clip in clips])
    assert counts.max() <= 25 and counts.min() >= 3 and counts.mean() > 10
    moved = [clip.agents.poses[-1, :, :2] - clip.agents.poses[0, :, :2] for clip in clips]
    still = np.concatenate([np.hypot(*each.T) for each in moved]) < 1e-9
    assert 0.15 < still.mean() < 0.35, "a quarter is parked"


def test_agents_start_apart_and_drive_like_bicycles() -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        traffic = sample_traffic(rng, sample_roads(rng))
        boxes = np.column_stack([traffic.poses[:, :2], traffic.sizes, traffic.poses[:, 2:]])
        around = BevGrid.centred(440, 440, 0.5)
        ids = np.arange(1, len(boxes) + 1)
        together = draw_boxes(boxes, ids, np.zeros(len(ids), int), 1, around)
        apart = draw_boxes(boxes, ids, ids - 1, len(ids), around)
        assert (together > 0).sum() == (apart > 0).sum(), "initial overlap"
        poses, velocities = simulate(traffic, rng, 7, 0.5)
        again, _ = simulate(traffic, np.random.default_rng(0), 1, 0.5)
        np.testing.assert_array_equal(again[0], traffic.poses)
        speed = np.hypot(*np.moveaxis(velocities, -1, 0))
        assert (speed >= 0).all() and (speed <= 14.5).all()
        assert (np.abs(np.diff(speed, axis=0)) <= 0.5 * 8.0 + 1e-9).all()
        parked = traffic.desired == 0
        assert (poses[:, parked] == poses[0, parked]).all()
        heading = np.stack([np.cos(poses[..., 2]), np.sin(poses[..., 2])], axis=-1)
        np.testing.assert_allclose(velocities, speed[..., None] * heading, atol=1e-12)
        step = np.hypot(*np.moveaxis(np.diff(poses[..., :2], axis=0), -1, 0))
        assert (step <= 0.5 * np.maximum(speed[1:], speed[:-1]) + 0.5).all()


def test_followers_brake_and_keep_their_lane() -> None:
    road = Road(0.0, 0.0, 0.3, 0.01, (1, 1))
    graph = RoadGraph((road,), ())
    rng = np.random.default_rng(1)
    sample = sample_traffic(rng, graph)
    lane = Lane(0, 1, 0)
    routes = np.stack([graph.straight(lane, 0.0), graph.straight(lane, 25.0)])
    start = np.stack([routes[:, 0, 0], routes[:, 0, 1], road.headings(np.array([0.0, 25.0]))])
    traffic = replace(
        sample,
        labels=np.zeros(2, int),
        sizes=np.tile(SIZES[0], (2, 1)),
        routes=routes,
        poses=start.T.copy(),
        speeds=np.array([12.0, 0.0]),
        desired=np.array([12.0, 0.0]),
        offsets=np.zeros(2),
        changes=np.full((2, 2), np.nan),
    )
    poses, velocities = simulate(traffic, rng, 13, 0.5)
    gap = np.hypot(*(poses[:, 1, :2] - poses[:, 0, :2]).T) - SIZES[0, 0]
    assert gap.min() > 0.5 and np.hypot(*velocities[-1, 0]) < 1.0
    lateral = road.laterals(*poses[:, 0, :2].T.astype(np.float32))
    assert np.abs(lateral - lane.lateral).max() < 0.3
    assert TIME_STEP == 0.05


def test_positions_on_roads_and_their_laterals_agree() -> None:
    for curvature in (0.0, 1e-6, 0.013, -0.02):
        road = Road(3.0, -2.0, 0.7, curvature, (2, 1))
        s, lateral = np.meshgrid(np.linspace(-60, 60, 25), [-6.9, 0.1, 3.6])
        x, y = np.moveaxis(road.positions(s, lateral), -1, 0).astype(np.float32)
        np.testing.assert_allclose(road.laterals(x, y), lateral, atol=2e-3)
        drivable, lines = road_channels([road], x, y, 0.5)
        assert drivable[0].all() and drivable[1].all() and not drivable[2].any()
        assert lines.all()
        assert not road_channels([road], *(x[:1], y[:1] - 40.0), 0.5)[1].all()


def test_turns_lead_into_the_crossing_road() -> None:
    roads = (Road(0.0, 0.0, 0.0, 0.0, (1, 1)), Road(30.0, 0.0, np.pi / 2, 0.0, (1, 1)))
    graph = RoadGraph(roads, (Crossing(30.0, 1),))
    lane = Lane(0, 1, 0)
    turns = graph.turns(lane, 0.0)
    assert [entered.direction for _, entered, _ in turns] == [1, -1]
    ends = []
    for turn in turns:
        route = graph.turning(lane, 0.0, *turn)
        steps = np.hypot(*np.diff(route, axis=0).T)
        assert steps.min() > 0.9 and steps.max() < 1.001
        assert np.abs(np.diff(np.unwrap(np.arctan2(*np.diff(route, axis=0).T)))).max() < 0.4
        ends.append(route[-1])
    # Left along the road's heading on its right lane, right against it.
    np.testing.assert_allclose(np.array(ends)[:, 0], [30 + LANE_WIDTH / 2, 30 - LANE_WIDTH / 2])
    assert ends[0][1] > 20 and ends[1][1] < -20
    assert graph.turns(lane, 40.0) == []


def test_rays_see_past_their_own_agent_only() -> None:
    grid = BevGrid.centred(40, 40, 0.5)
    ids = np.zeros((1, 40, 40), np.int32)
    ids[0, 26:28, 18:22] = 1  # ahead
    ids[0, 32:34, 19:21] = 2  # behind it
    ids[0, 10:12, 20:22] = 3  # to the rear
    visible = visible_cells(ids, grid)[0]
    assert visible[ids[0] == 1].all() and visible[ids[0] == 3].all()
    assert not visible[ids[0] == 2].any()
    assert visible[20:26, 20].all() and not visible[28:, 20].any()
    assert visible[20, :].all()
    assert visibility_classes(ids, 4, grid).tolist() == [[4, 1, 4, 0]]
    assert visible_cells(ids * 0, grid).all()


def test_agents_are_labelled_from_when_they_can_be_known() -> None:
    visibility = np.array([[1, 1, 2, 0], [1, 2, 1, 0], [1, 1, 0, 1], [4, 1, 0, 0]], np.uint8)
    expected = [[0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 0]]
    assert labelled_agents(visibility, 2).astype(int).tolist() == expected


GRID = BevGrid(0.0, 0.0, 1.0, 8, 8)


def draw(*boxes: tuple[float, ...]) -> np.ndarray:
    values = np.array(boxes)
    return draw_boxes(values, np.arange(1, len(values) + 1), np.zeros(len(values), int), 1, GRID)[0]


def test_raster_rule() -> None:
    # Centres of cells lie at halves: 1.5 is inside, 4.5 at the open end is not.
    drawn = draw((3.0, 3.0, 3.0, 2.0, 0.0))
    assert np.argwhere(drawn).tolist() == [[r, c] for r in (1, 2, 3) for c in (2, 3)]
    # Turned by a right angle, length runs along the columns.
    assert (draw((3.0, 3.0, 3.2, 1.8, np.pi / 2)) == draw((3.0, 3.0, 3.2, 1.8, 0.0)).T).all()
    # A box without a centre claims its cell; outside the raster it claims none.
    assert np.argwhere(draw((5.1, 2.2, 0.1, 0.1, 0.3))).tolist() == [[5, 2]]
    assert not draw((-0.4, 2.2, 0.1, 0.1, 0.3)).any()
    # The smaller wins, whatever the order.
    big, small = (4.0, 4.0, 6.0, 6.0, 0.0), (4.0, 4.0, 2.0, 2.0, 0.0)
    assert draw(big, small)[4, 4] == 2 and draw(small, big)[4, 4] == 1
    assert not draw_boxes(np.zeros((0, 5)), np.zeros(0), np.zeros(0, int), 2, GRID).any()


def test_fiery_raster_is_half_a_cell_wider() -> None:
    box = np.array([(4.0, 4.0, 2.0, 2.0, 0.0)])
    drawn = draw_boxes_fiery(box, np.array([5]), np.array([1]), 2, GRID)
    assert not drawn[0].any()
    assert np.argwhere(drawn[1] == 5).tolist() == [[r, c] for r in (3, 4, 5) for c in (3, 4, 5)]
    corners = box_corners(np.array([(1.0, 2.0, 4.0, 2.0, np.pi / 2)]))[0]
    assert {tuple(corner) for corner in np.round(corners, 9).tolist()} == {
        (0.0, 0.0),
        (0.0, 4.0),
        (2.0, 0.0),
        (2.0, 4.0),
    }


def test_labels_follow_the_listed_poses(clips: list[BevClip]) -> None:
    meta: BevMeta = META
    clip = next(clip for clip in clips if (clip.instance[4] > 0).any())
    number = int(np.unique(clip.instance[4])[1])
    row = int(np.flatnonzero(clip.agents.ids == number)[0])
    seen = relative_pose(clip.ego_pose[4], clip.agents.poses[4, row])
    box = np.array([[*seen[:2], *clip.agents.sizes[row], seen[2]]])
    alone = draw_boxes(box, np.array([number]), np.array([0]), 1, meta.grid)[0]
    mask = clip.instance[4] == number
    assert (alone[mask] == number).all()
