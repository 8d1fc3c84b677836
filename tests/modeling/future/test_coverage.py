"""Where the rasters of the future will be, and results that end there."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling.tiny_future_detr import SIZE, build_future_detr, make_clip
from roca_nocs.geometry.bev import BevGrid, relative_pose, warp_bev
from roca_nocs.modeling.future.clip_results import ClipResults
from roca_nocs.modeling.future.coverage import covered_cells, extrapolate_poses

GRID = BevGrid.centred(12, 20, 0.5)
POSE = st.tuples(st.floats(-20, 20), st.floats(-20, 20), st.floats(-3, 3))
MOTION = st.tuples(st.floats(-2, 4), st.floats(-1, 1), st.floats(-0.4, 0.4))


def test_a_standing_vehicle_sees_the_same_cells() -> None:
    pose = torch.tensor([[3.0, -2.0, 0.7]], dtype=torch.float64)
    poses = extrapolate_poses(pose, pose, 3)
    torch.testing.assert_close(poses, pose[:, None].expand(1, 4, 3))
    assert covered_cells(poses, GRID).all()


def test_rows_behind_a_driving_vehicle_are_left() -> None:
    """One metre, two rows, a step: row 0 is the rearmost."""
    before, present = torch.zeros(1, 3).double(), torch.tensor([[0.0, 1.0, math.pi / 2]]).double()
    before[..., 2] = math.pi / 2
    covered = covered_cells(extrapolate_poses(before, present, 2), GRID)[0]
    for step, left in enumerate((0, 2, 4)):
        assert not covered[step, :left].any()
        assert covered[step, left:].all()


@given(POSE, MOTION)
def test_a_circle_is_driven_on(pose: tuple[float, ...], motion: tuple[float, ...]) -> None:
    """In the vehicle's frame every step is the same."""
    first = torch.tensor([pose], dtype=torch.float64)
    step = torch.tensor([motion], dtype=torch.float64)
    cos, sin = first[:, 2].cos(), first[:, 2].sin()
    x = first[:, 0] + cos * step[:, 0] - sin * step[:, 1]
    y = first[:, 1] + sin * step[:, 0] + cos * step[:, 1]
    second = torch.stack([x, y, first[:, 2] + step[:, 2]], dim=1)
    poses = extrapolate_poses(first, second, 4)[0]
    chord = (poses[1:, :2] - poses[:-1, :2]).norm(dim=1)
    torch.testing.assert_close(chord, chord[:1].expand(4), atol=1e-9, rtol=1e-9)
    turn = poses[1:, 2] - poses[:-1, 2]
    torch.testing.assert_close(turn, step[:, 2].expand(4), atol=1e-9, rtol=1e-9)


@given(POSE, MOTION)
def test_covered_is_what_a_warp_fills(pose: tuple[float, ...], motion: tuple[float, ...]) -> None:
    present = torch.tensor([pose], dtype=torch.float64)
    then = present + torch.tensor([motion], dtype=torch.float64)
    (covered,) = covered_cells(torch.stack([present, then], dim=1), GRID)
    ones = torch.ones(1, 1, GRID.height, GRID.width)
    filled = warp_bev(ones, relative_pose(then, present), GRID, "nearest")
    assert torch.equal(covered[1], filled[0, 0] > 0)
    assert covered[0].all()


def driven(clip: dict[str, Any], metres: float) -> dict[str, Any]:
    """The same clip from a vehicle that drives so far with every frame."""
    poses = torch.zeros(len(clip["ego_pose"]), 3, dtype=torch.float64)
    poses[:, 0] = metres * torch.arange(len(poses))
    return clip | {"ego_pose": poses}


def test_results_end_where_the_raster_will_end() -> None:
    model = build_future_detr(num_frames=2).eval()
    model.results = ClipResults(min_score=0.0, min_value=0.0, min_area=1)
    clip = driven(make_clip(labelled=False), 2.0)
    with torch.no_grad():
        (inside,) = model([clip])
        model.results = ClipResults(
            min_score=0.0, min_value=0.0, min_area=1, inside_future_raster=False
        )
        (anywhere,) = model([clip])
    rows = torch.arange(SIZE[0])
    for step in range(3):
        left = rows < 2.0 * step / clip["grid"].resolution
        assert not inside["instances"][step][left].any()
        assert torch.equal(inside["instances"][step][~left], anywhere["instances"][step][~left])
    assert anywhere["instances"][2][rows < 2].any()


def test_a_drive_frame_by_frame_knows_its_motion() -> None:
    model = build_future_detr().eval()
    clip = driven(make_clip(labelled=False), 1.5)
    with torch.no_grad():
        (whole,), _ = model.track([clip])
        stream = None
        for frame in range(len(clip["clip"])):
            part = {"clip": clip["clip"][frame : frame + 1], "ego_pose": clip["ego_pose"][frame:]}
            (last,), stream = model.track([clip | part], stream)
    assert torch.equal(whole["instances"], last["instances"])


@pytest.mark.parametrize("semantic", [True, False])
def test_losses_do_not_see_cells_that_are_not_covered(semantic: bool) -> None:
    """Whatever a step's labels say there; nothing covered is no loss and no NaN."""
    options = {} if semantic else {"num_semantic_classes": 0}
    model = build_future_detr(detector=options).train()
    clip = make_clip()
    covered = torch.ones(3, *SIZE, dtype=torch.bool)
    covered[1, 10:] = False
    covered[2] = False
    plain = model([clip])
    masked = model([clip | {"covered": covered}])
    changed = clip | {"covered": covered, "semantic": clip["semantic"].clone()}
    changed["semantic"][1, 10:] = 1 - changed["semantic"][1, 10:]
    again = model([changed])
    assert set(plain) == set(masked)
    for name, loss in masked.items():
        assert loss.isfinite()
        torch.testing.assert_close(again[name], loss)
    for name in ("mask", "dice", "semantic")[: 2 + semantic]:
        assert not torch.allclose(masked[f"loss_{name}_f1"], plain[f"loss_{name}_f1"])
        torch.testing.assert_close(masked[f"loss_{name}"], plain[f"loss_{name}"])
    sum(masked.values()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
