"""Tracks of several clips in one table: layout, survival, false tracks, ego motion, identities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.geometry.bev import BevGrid, relative_pose
from roca_nocs.modeling.tracking.ego_motion import carry_centres
from roca_nocs.modeling.tracking.fp_insertion import (
    false_positive_rows,
    random_drop,
    surviving,
)
from roca_nocs.modeling.tracking.memory_fusion import warp_maps
from roca_nocs.modeling.tracking.propagation import TrackPropagation
from roca_nocs.modeling.tracking.query_interaction import QueryInteraction
from roca_nocs.modeling.tracking.runtime_tracker import RuntimeTracker
from roca_nocs.modeling.tracking.track_state import (
    PaddedLayout,
    TrackState,
    concatenate,
    detect_queries,
)

CHANNELS = 8
GRID = BevGrid.centred(20, 40, 0.5)


def make_state(clip: list[int], ids: list[int] | None = None, *, seed: int = 0) -> TrackState:
    generator = torch.Generator().manual_seed(seed)
    count = len(clip)
    boxes = torch.rand(count, 4, generator=generator) * 0.2 + 0.4
    return TrackState(
        clip=torch.tensor(clip, dtype=torch.int64),
        query=torch.randn(count, 2 * CHANNELS, generator=generator),
        reference=torch.randn(count, 2, generator=generator),
        ids=torch.tensor(list(range(count)) if ids is None else ids, dtype=torch.int64),
        iou=torch.full((count,), 0.9),
        score=torch.rand(count, generator=generator),
        disappear_time=torch.zeros(count, dtype=torch.int64),
        embedding=torch.randn(count, CHANNELS, generator=generator),
        boxes=boxes,
        logits=torch.zeros(count, 1),
    )


def interaction(seed: int = 0) -> QueryInteraction:
    torch.manual_seed(seed)
    return QueryInteraction(CHANNELS, 16, 2)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_padding_is_undone(counts: list[int]) -> None:
    clip = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    layout = PaddedLayout.of(clip, len(counts))
    values = torch.randn(len(clip), 3)
    assert layout.padding.shape == (len(counts), max(counts))
    assert (~layout.padding).sum(dim=1).tolist() == counts
    padded = layout.pad(values)
    assert torch.equal(layout.gather(padded), values)
    assert padded[layout.padding].abs().sum() == 0


def test_detect_queries_come_first_in_every_clip() -> None:
    query, reference = torch.randn(2, 3, 2 * CHANNELS), torch.randn(2, 3, 2)
    tracks = make_state([0, 1, 1], [7, 8, 9])
    both = concatenate(detect_queries(query, reference, 1), tracks)
    assert both.clip.tolist() == [0] * 4 + [1] * 5
    assert both.ids.tolist() == [-1, -1, -1, 7, -1, -1, -1, 8, 9]
    assert torch.equal(both.query[4:7], query[1])


def test_survival_keeps_tracks_without_target() -> None:
    """A stale IoU counts: what has no target now keeps that of its last frame."""
    ids, iou = torch.tensor([3, 4, -1, -2]), torch.tensor([0.51, 0.5, 0.9, 0.9])
    assert surviving(ids, iou).tolist() == [True, False, False, False]


def test_random_drop_has_its_rate() -> None:
    torch.manual_seed(0)
    active = torch.ones(4000, dtype=torch.bool)
    assert abs(random_drop(active, 0.1).float().mean().item() - 0.9) < 0.02
    assert random_drop(active, 0.0).all() and not random_drop(active, 1.0).any()
    assert not random_drop(~active, 0.0).any()


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.integers(-1, 5), min_size=0, max_size=6), min_size=1, max_size=3),
    st.integers(0, 1000),
)
def test_false_tracks_of_clips_are_those_of_single_clips(ids: list[list[int]], seed: int) -> None:
    """All rows at once are the same as clip by clip, and never more than the chosen tracks."""
    flat = torch.tensor([each for clip in ids for each in clip], dtype=torch.int64)
    clip = torch.arange(len(ids)).repeat_interleave(torch.tensor([len(each) for each in ids]))
    boxes = torch.rand(len(flat), 4, generator=torch.Generator().manual_seed(seed))
    if len(flat) == 0:
        return
    active = flat >= 0
    together = false_positive_rows(active, flat, boxes, clip, 1.0)
    alone = []
    for number in range(len(ids)):
        rows = (clip == number).nonzero().flatten()
        if len(rows):
            found = false_positive_rows(
                active[rows], flat[rows], boxes[rows], torch.zeros_like(rows), 1.0
            )
            alone += rows[found].tolist()
            assert len(found) <= int(active[rows].sum())
    assert together.tolist() == alone
    assert (flat[together] < 0).all()


def test_interaction_stays_inside_of_clips() -> None:
    module = interaction()
    state = make_state([0, 0, 1, 2, 2, 2])
    together = module(state.query, state.embedding, state.clip)
    for number in range(3):
        rows = state.clip == number
        alone = module(state.query[rows], state.embedding[rows], torch.zeros(int(rows.sum())))
        torch.testing.assert_close(together[rows], alone, atol=1e-6, rtol=1e-5)


def test_interaction_without_tracks_keeps_its_parameters() -> None:
    module = interaction()
    empty = make_state([])
    new = module(empty.query, empty.embedding, empty.clip)
    assert new.shape == (0, 2 * CHANNELS)
    new.sum().backward()
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in trained.values())
    assert {n for n, p in module.named_parameters() if not p.requires_grad} == {
        "norm3.weight",
        "norm3.bias",
    }


def test_published_size_of_the_interaction() -> None:
    with torch.device("meta"):
        module = QueryInteraction(256, 1024, 8)
    assert sum(p.numel() for p in module.parameters()) == 1_842_432


@settings(max_examples=25)
@given(st.floats(-8, 8), st.floats(-3, 3), st.floats(-math.pi, math.pi), st.floats(0.3, 0.7))
def test_standing_object_stays_at_its_place(x: float, y: float, yaw: float, cx: float) -> None:
    """Carried to the next frame, the centre has the same position in the world."""
    pose = torch.tensor([[3.0, -2.0, 0.4]], dtype=torch.float64)
    step = torch.tensor([[0.1 * x, 0.1 * y, 0.02 * yaw]], dtype=torch.float64)
    next_pose = pose + step
    centre = torch.tensor([[cx, 0.5]], dtype=torch.float64)
    moved, near = carry_centres(centre, relative_pose(next_pose, pose), GRID)
    assert near.all()

    def in_world(pose: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        px, py = GRID.normalised_to_metres(centre).unbind(-1)
        cos, sin = pose[:, 2].cos(), pose[:, 2].sin()
        return torch.stack([cos * px - sin * py + pose[:, 0], sin * px + cos * py + pose[:, 1]])

    torch.testing.assert_close(
        in_world(next_pose, moved.sigmoid().double()), in_world(pose, centre), atol=1e-4, rtol=0
    )


def test_tracks_leave_the_raster() -> None:
    """Sideways by half a raster: what was at the left border is at the middle, the rest is out."""
    centres = torch.tensor([[0.0, 0.5], [0.5, 0.5], [0.54, 0.5], [0.6, 0.5]])
    motion = torch.tensor([[0.0, 10.0, 0.0]], dtype=torch.float64).expand(4, -1)
    moved, near = carry_centres(centres, motion, GRID)
    assert near.tolist() == [True, True, True, False]
    torch.testing.assert_close(
        moved.sigmoid()[:, 0], torch.tensor([0.5, 0.999, 0.999, 0.999]), atol=1e-6, rtol=0
    )


def test_training_keeps_a_track_outside_while_its_target_is_inside() -> None:
    module = TrackPropagation(interaction(), drop=0.0, fp_ratio=0.0).train()
    state = make_state([0, 0, 1], [4, 5, 4])
    pose = torch.zeros(2, 3, dtype=torch.float64)
    next_pose = pose + torch.tensor([500.0, 0.0, 0.0])
    ids, clip = torch.tensor([4, 5]), torch.tensor([0, 1])
    tracks = module(state, pose, next_pose, GRID, ids, clip)
    assert (tracks.clip.tolist(), tracks.ids.tolist()) == ([0], [4])
    assert len(module.eval()(state, pose, next_pose, GRID)) == 0


@pytest.mark.parametrize("excluded", [False, True])
def test_propagation_adds_false_tracks(excluded: bool) -> None:
    module = TrackPropagation(interaction(), drop=0.0, fp_ratio=1.0, fp_id_excluded=excluded)
    state = make_state([0, 0, 0, 1, 1], [-1, 4, -1, -1, 6])
    pose = torch.zeros(2, 3, dtype=torch.float64)
    tracks = module.train()(state, pose, pose, GRID)
    assert tracks.clip.tolist() == [0, 0, 1, 1]
    false = -2 if excluded else -1
    assert tracks.ids.tolist() == [4, false, 6, false]
    assert module.eval()(state, pose, pose, GRID).ids.tolist() == [4, 6]


def test_motion_bias_moves_the_reference() -> None:
    module = TrackPropagation(interaction(), drop=0.0, fp_ratio=0.0, motion_bias=True).eval()
    assert module.displacement is not None
    state = make_state([0, 0])
    pose = torch.zeros(1, 3, dtype=torch.float64)
    before = module(state, pose, pose, GRID).reference.sigmoid()
    torch.testing.assert_close(before, state.boxes[:, :2], atol=1e-5, rtol=0)
    with torch.no_grad():
        module.displacement.bias.copy_(torch.tensor([0.1, -0.05]))
    after = module(state, pose, pose, GRID).reference
    shift = torch.tensor([0.1, -0.05]).expand(2, -1)
    torch.testing.assert_close(after.sigmoid() - before, shift, atol=1e-5, rtol=0)
    after.sum().backward()
    assert module.displacement.weight.grad is not None


def test_births_and_deaths() -> None:
    """Ids count up per clip in row order; a score between the thresholds changes nothing."""
    tracker = RuntimeTracker(miss_tolerance=2)
    clip = torch.tensor([0, 0, 1, 1])
    ids, time = torch.full((4,), -1), torch.zeros(4, dtype=torch.int64)
    next_id = torch.tensor([0, 5])
    scores = [[0.9, 0.8, 0.65, 0.7], [0.5, 0.65, 0.1, 0.5], [0.65, 0.9, 0.9, 0.5]]
    history = []
    for score in scores:
        ids, time, next_id = tracker.update(ids, torch.tensor(score), time, clip, next_id)
        history.append(ids.tolist())
    assert history == [[0, 1, -1, 5], [0, 1, -1, 5], [0, 1, 6, -1]]
    assert time.tolist() == [1, 0, 0, 2]
    assert next_id.tolist() == [2, 7]


def test_memory_follows_the_vehicle() -> None:
    """Forward by one cell of a level: its content moves one row towards the start."""
    maps = torch.randn(1, 2, 10, 20)
    motion = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    moved = warp_maps(maps, motion, GRID)
    torch.testing.assert_close(moved[:, :, :-1], maps[:, :, 1:], atol=1e-5, rtol=0)
    assert moved[:, :, -1].abs().max() < 1e-5
