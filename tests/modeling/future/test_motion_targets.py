"""Motions of annotated agents, in the coordinates in which masks move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.data.bev_raster import draw_boxes
from roca_nocs.geometry.bev import BevGrid
from roca_nocs.modeling.criteria import ClipCriterion, MixedMatcher
from roca_nocs.modeling.criteria.clip_loss import LossSums
from roca_nocs.modeling.criteria.clip_matching import FrameTargets
from roca_nocs.modeling.future.motion_targets import MotionTargets
from roca_nocs.modeling.future.rigid_rollout import move_rigidly

GRID = BevGrid.centred(80, 100, 0.5)
CPU = torch.device("cpu")


def frame(boxes: torch.Tensor, ids: list[int]) -> dict[str, torch.Tensor]:
    count = len(ids)
    return {
        "boxes": boxes,
        "labels": torch.zeros(count, dtype=torch.int64),
        "ids": torch.tensor(ids, dtype=torch.int64),
    }


def sample(ids: list[int], poses: np.ndarray) -> dict:
    agents = {"ids": torch.tensor(ids, dtype=torch.int64), "poses": torch.from_numpy(poses)}
    return {"grid": GRID, "clip_id": "one", "agents": agents}


@settings(max_examples=25)
@given(*(st.floats(-6, 6) for _ in range(4)), *(st.floats(-3.1, 3.1) for _ in range(2)))
def test_masks_move_to_where_the_agent_will_be(
    x: float, y: float, to_x: float, to_y: float, yaw: float, to_yaw: float
) -> None:
    """Moved by its target, the mask of the present covers the mask of the future."""
    poses = np.array([[[x, y, yaw]], [[to_x, to_y, to_yaw]]])
    boxes = np.array([[*p[0, :2], 9.0, 5.0, p[0, 2]] for p in poses])
    now, later = torch.from_numpy(draw_boxes(boxes, [1, 1], [0, 1], 2, GRID) > 0)
    row, column = GRID.metres_to_cells(poses[0, 0, :2])
    centre = torch.tensor([[(column + 0.5) / 100, (row + 0.5) / 80]], dtype=torch.float32)
    present = FrameTargets.of([frame(torch.cat([centre, centre], dim=1), [1])], CPU)
    targets = MotionTargets.of([sample([1], poses)], present, 1)
    motion = torch.cat([targets.moved[0, :, :2] / targets.sides, targets.moved[0, :, 2:]], dim=1)
    assert abs(float(motion[0, 2])) <= np.pi + 1e-5
    moved = move_rigidly(torch.where(now, 10.0, -10.0)[None], centre, motion)[0] > 0
    assert (moved & later).sum() / (moved | later).sum() > 0.8


def test_unknown_poses_and_clips_without_objects() -> None:
    """Objects are found by their id in their clip; what is not known is NaN and has no loss."""
    poses = np.zeros((3, 2, 3))
    poses[1:, 0, 0] = [1.0, 2.0]  # agent 5 drives along the rows
    poses[2, 1] = np.nan  # agent 9 leaves
    boxes = torch.tensor([[0.5, 0.5, 0.06, 0.1]] * 3)
    frames = [frame(boxes, [9, 5, 4]), frame(boxes[:0], [])]
    present = FrameTargets.of(frames, CPU)
    empty = sample([], np.zeros((3, 0, 3)))
    targets = MotionTargets.of([sample([5, 9], poses), empty], present, 2)
    nan = torch.nan
    expected = torch.tensor(
        [[[0, 0, 0], [0, 2, 0], [nan] * 3], [[nan] * 3, [0, 4, 0], [nan] * 3]],
        dtype=torch.float32,
    )
    torch.testing.assert_close(targets.moved, expected, equal_nan=True)
    torch.testing.assert_close(targets.reach, torch.full((3,), 5.0))  # of 6 x 8 cells
    criterion = ClipCriterion(matcher=MixedMatcher(), weight_motion=2.0, future_discount=0.5)
    sums = LossSums()
    motion = torch.zeros(3, 3, requires_grad=True)
    for number in (1, 2):
        moved = targets.moved[number - 1]
        criterion.motion(sums, f"_f{number}", motion, moved, targets.reach, number)
    losses = sums.losses(CPU)
    sum(losses.values()).backward()
    assert motion.grad is not None and motion.grad.isfinite().all()
    # 2 and 4 cells, less half of 0.4, of three known motions; weighted 2, 0.5 and 0.25.
    assert losses["loss_motion_f1"].item() == pytest.approx(2 * 0.5 * 1.8 / 3)
    assert losses["loss_motion_f2"].item() == pytest.approx(2 * 0.25 * 3.8 / 3)


def test_a_turn_counts_by_what_it_moves() -> None:
    criterion = ClipCriterion(matcher=MixedMatcher(), future_discount=1.0)
    wanted, reach = torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([6.0])
    sums = LossSums()
    criterion.motion(sums, "_f1", torch.zeros(1, 3), wanted, reach, 1)
    assert float(sums.losses(CPU)["loss_motion_f1"]) == pytest.approx(3.0 - 0.2)


def test_samples_without_or_with_too_few_poses_are_named() -> None:
    present = FrameTargets.of([frame(torch.zeros(0, 4), [])], CPU)
    with pytest.raises(KeyError, match="clip 'one' lacks the poses of 'agents'"):
        MotionTargets.of([{"grid": GRID, "clip_id": "one"}], present, 2)
    with pytest.raises(ValueError, match="clip 'one' has poses of 1 future steps, num_future is 2"):
        MotionTargets.of([sample([], np.zeros((2, 0, 3)))], present, 2)
