"""Tracks on simulated traffic, with true boxes and scores in the place of a decoder's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from roca_nocs.data.bev_clip import BevClip
from roca_nocs.data.synthetic.traffic import FRAME_DT, traffic_clip, traffic_meta
from roca_nocs.geometry.bev import relative_pose, transform_points
from roca_nocs.modeling.tracking.propagation import TrackPropagation
from roca_nocs.modeling.tracking.query_interaction import QueryInteraction
from roca_nocs.modeling.tracking.runtime_tracker import RuntimeTracker
from roca_nocs.modeling.tracking.track_state import TrackState, concatenate, detect_queries

META = traffic_meta(96, 96)
GRID = META.grid
CHANNELS, QUERIES, TOLERANCE = 8, 30, 2
SEEN, UNSEEN = 0.9, 0.1


@pytest.fixture(scope="module")
def clips() -> list[BevClip]:
    return [traffic_clip(META, 5, "val", index) for index in range(3)]


def centres_of(clip: BevClip, frame: int) -> dict[int, np.ndarray]:
    """Normalised centres, in the ego frame, of the agents in the labels of a frame."""
    poses = relative_pose(clip.ego_pose[frame], clip.agents.poses[frame])
    centres = GRID.metres_to_normalised(poses[:, :2])
    shown = np.isin(clip.agents.ids, clip.instance[frame]) & GRID.inside(poses[:, :2])
    return dict(zip(clip.agents.ids[shown].tolist(), centres[shown], strict=True))


def agents_of(state: TrackState) -> list[int]:
    """The agent of each row, which its embedding remembers; 0 for none."""
    return state.embedding[:, 0].round().int().tolist()


def inject(state: TrackState, shown: list[dict[int, np.ndarray]]) -> TrackState:
    """Rows as a perfect decoder leaves them: a track sees its agent, a free query a new one."""
    agents = agents_of(state)
    for number, centres in enumerate(shown):
        rows = [row for row, clip in enumerate(state.clip.tolist()) if clip == number]
        missing = sorted(centres.keys() - {agents[row] for row in rows})
        free = [row for row in rows if agents[row] == 0]
        for row, agent in zip(free, missing, strict=False):
            agents[row] = agent
    boxes = torch.full((len(state), 4), 0.05)
    score = torch.full((len(state), 1), UNSEEN)
    # A track without its agent is where it was expected.
    boxes[:, :2] = state.reference.sigmoid()
    for row, (agent, clip) in enumerate(zip(agents, state.clip.tolist(), strict=True)):
        if agent in shown[clip]:
            boxes[row, :2] = torch.from_numpy(shown[clip][agent])
            score[row] = SEEN
    embedding = state.embedding.clone()
    embedding[:, 0] = torch.tensor(agents)
    return state.decoded(embedding, boxes, score.logit())


@torch.no_grad()
def test_ids_births_and_deaths(clips: list[BevClip]) -> None:
    """An agent has one id while it is tracked; ids are new at births and end after two misses."""
    torch.manual_seed(0)
    propagation = TrackPropagation(QueryInteraction(CHANNELS, 16, 2)).eval()
    tracker = RuntimeTracker(miss_tolerance=TOLERANCE)
    next_id = torch.zeros(len(clips), dtype=torch.int64)
    poses = torch.from_numpy(np.stack([clip.ego_pose for clip in clips]))
    tracks: TrackState | None = None
    # Of each clip, the id and the missed frames of every agent with a track.
    expected: list[dict[int, tuple[int, int]]] = [{} for _ in clips]
    births, deaths, carried = 0, 0, 0
    for frame in range(META.num_frames):
        shown = [centres_of(clip, frame) for clip in clips]
        state = detect_queries(
            torch.randn(len(clips), QUERIES, 2 * CHANNELS), torch.randn(len(clips), QUERIES, 2), 1
        )
        state = inject(state if tracks is None else concatenate(state, tracks), shown)
        ids, time, after = tracker.update(
            state.ids, state.score, state.disappear_time, state.clip, next_id
        )
        state = state.replace(ids=ids, disappear_time=time)
        for number, known in enumerate(expected):
            first = int(next_id[number])
            new = [agent for agent in sorted(shown[number]) if agent not in known]
            for agent in list(known):
                track, missed = known[agent]
                known[agent] = (track, 0 if agent in shown[number] else missed + 1)
                if known[agent][1] == TOLERANCE:
                    del known[agent]
                    deaths += 1
            known |= {agent: (first + place, 0) for place, agent in enumerate(new)}
            births += len(new) * (frame > 0)
            assert int(after[number]) == first + len(new)
            rows = state.rows((state.clip == number) & (state.ids >= 0))
            found = zip(rows.ids.tolist(), rows.disappear_time.tolist(), strict=True)
            assert dict(zip(agents_of(rows), found, strict=True)) == known
        next_id = after
        if frame + 1 == META.num_frames:
            break
        tracks = propagation(state, poses[:, frame], poses[:, frame + 1], GRID)
        for number, (clip, known) in enumerate(zip(clips, expected, strict=True)):
            kept = tracks.rows(tracks.clip == number)
            places = dict(zip(agents_of(kept), kept.reference.sigmoid().numpy(), strict=True))
            motion = relative_pose(clip.ego_pose[frame + 1], clip.ego_pose[frame])
            before = state.rows((state.clip == number) & (state.ids >= 0))
            boxes = dict(zip(agents_of(before), before.boxes[:, :2].double().numpy(), strict=True))
            later = centres_of(clip, frame + 1)
            speed = np.linalg.norm(clip.agents.velocities[frame], axis=1)
            speeds = dict(zip(clip.agents.ids.tolist(), speed, strict=True))
            for agent in list(known):
                metres = transform_points(motion, GRID.normalised_to_metres(boxes[agent]))
                place = GRID.metres_to_normalised(metres)
                if (np.abs(place - 0.5) > 0.55).any():
                    assert agent not in places
                    del known[agent]
                    continue
                np.testing.assert_allclose(places[agent], place.clip(0.001, 0.999), atol=1e-4)
                if agent in later and agent in shown[number] and GRID.inside(metres):
                    # What the vehicle does is known exactly; the rest is the agent's own motion.
                    moved = GRID.normalised_to_metres(later[agent]) - metres
                    assert np.linalg.norm(moved) <= (speeds[agent] + 1.5) * FRAME_DT
                    carried += 1
            assert places.keys() == known.keys()
    assert births > 0 and deaths > 0 and carried > 30
