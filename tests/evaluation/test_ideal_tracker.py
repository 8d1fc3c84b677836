"""A tracker without mistakes: exact without noise, wrong by the noise with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from roca_nocs.data.bev_clip import BevAgents, BevClip
from roca_nocs.data.synthetic.traffic import traffic_clip, traffic_meta
from roca_nocs.evaluation.ideal_tracker import (
    Tracks,
    as_it_happens,
    drawn,
    ideal_tracks,
    round_the_bend,
    straight_on,
)

META = traffic_meta(96, 96)
OBSERVED, STEPS = META.time_receptive_field, META.n_future_frames
EVERYWHERE = np.ones((STEPS + 1, 96, 96), bool)


def exact(clip: BevClip) -> Tracks:
    rng = np.random.default_rng(0)
    return ideal_tracks(clip, OBSERVED, META.frame_dt, rng, missed=0.0, jitter=0.0)


def one_agent(poses: np.ndarray, velocity: tuple[float, float] = (3.0, 0.0)) -> BevClip:
    """A clip of an ego vehicle at rest and a car with poses (T + F, 3)."""
    clip = traffic_clip(META, 0, "train", 0)
    total = OBSERVED + STEPS
    instance = np.zeros((total, 96, 96), np.int32)
    instance[:, 40:50, 40:44] = 7
    agents = BevAgents(
        ids=np.array([7]),
        labels=np.array([0]),
        sizes=np.array([[4.0, 2.0]]),
        poses=poses[:, None].astype(float),
        velocities=np.broadcast_to(np.array(velocity), (total, 1, 2)),
        visibility=np.full((total, 1), 4, np.uint8),
    )
    return replace(clip, instance=instance, ego_pose=np.zeros((total, 3)), agents=agents)


def test_what_happens_is_the_annotation() -> None:
    """Of the agents in sight, in the present; agents that are not in sight are left out."""
    rows = 0
    for index in range(6):
        clip = traffic_clip(META, 0, "train", index)
        tracks = exact(clip)
        ids = drawn(tracks, as_it_happens(tracks), EVERYWHERE, META.grid)
        truth = clip.instance[OBSERVED - 1]
        np.testing.assert_array_equal(ids[0], np.where(np.isin(truth, tracks.ids), truth, 0))
        rows += len(tracks.ids)
    assert rows > 10


def test_straight_on_is_a_line_and_the_bend_a_circle() -> None:
    time = np.arange(-2, STEPS + 1) * META.frame_dt
    line = np.stack([3 * time, 0 * time, 0 * time], axis=-1)
    tracks = exact(one_agent(line))
    np.testing.assert_allclose(straight_on(tracks), as_it_happens(tracks), atol=1e-9)
    np.testing.assert_allclose(round_the_bend(tracks), as_it_happens(tracks), atol=1e-9)
    turn = 0.2  # a second; radius of 15 m
    circle = np.stack([15 * np.sin(turn * time), 15 - 15 * np.cos(turn * time), turn * time], -1)
    tracks = exact(one_agent(circle))
    np.testing.assert_allclose(round_the_bend(tracks), as_it_happens(tracks), atol=0.01)
    assert np.abs(straight_on(tracks) - as_it_happens(tracks))[-1].max() > 0.3


@pytest.mark.parametrize("standing", [False, True])
def test_noise(standing: bool) -> None:
    """A mean of three jitters, and their slope, which is half of the difference of the ends; what
    stands is known to stand."""
    poses = np.zeros((OBSERVED + STEPS, 3))
    clip = one_agent(poses, (0.0, 0.0) if standing else (3.0, 0.0))
    rng = np.random.default_rng(1)
    tracks = [
        ideal_tracks(clip, OBSERVED, META.frame_dt, rng, missed=0.0, jitter=0.1)
        for _ in range(2000)
    ]
    offsets = np.concatenate([each.offset for each in tracks])
    velocity = np.concatenate([each.velocity for each in tracks])
    np.testing.assert_allclose(offsets.std(axis=0), 0.1 / np.sqrt(3), rtol=0.1)
    expected = 0.0 if standing else 0.1 / np.sqrt(2)
    np.testing.assert_allclose(velocity.std(axis=0), expected, rtol=0.1)
    np.testing.assert_allclose(velocity.mean(axis=0), [0 if standing else 1.5, 0], atol=0.01)


@pytest.mark.parametrize("generous", [False, True])
def test_one_observation_tells_no_velocity(generous: bool) -> None:
    clip = one_agent(np.zeros((OBSERVED + STEPS, 3)))
    visibility = np.zeros((OBSERVED + STEPS, 1), np.uint8)
    visibility[OBSERVED - 1] = 4
    clip = replace(clip, agents=replace(clip.agents, visibility=visibility))
    rng = np.random.default_rng(0)
    noise = {"missed": 0.0, "jitter": 0.0, "generous": generous}
    tracks = ideal_tracks(clip, OBSERVED, META.frame_dt, rng, **noise)
    np.testing.assert_allclose(tracks.velocity, [[1.5 * generous, 0.0]])


def test_missed_in_all_frames_and_clips_without_agents() -> None:
    clip = one_agent(np.zeros((OBSERVED + STEPS, 3)))
    rng = np.random.default_rng(0)
    tracks = ideal_tracks(clip, OBSERVED, META.frame_dt, rng, missed=1.0, jitter=0.1)
    assert len(tracks.ids) == 0
    for move in (straight_on, round_the_bend, as_it_happens):
        assert not drawn(tracks, move(tracks), EVERYWHERE, META.grid).any()


def test_nothing_is_drawn_outside_of_what_is_covered() -> None:
    tracks = exact(one_agent(np.zeros((OBSERVED + STEPS, 3))))
    covered = EVERYWHERE.copy()
    covered[1:, 40:] = False
    ids = drawn(tracks, as_it_happens(tracks), covered, META.grid)
    assert (ids[0, 44:52, 46:50] == 7).all() and not ids[1:].any()
