"""Bird's-eye-view grids, planar poses and the exact warp."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.geometry.bev import (
    BevGrid,
    compose_poses,
    ego_motion_vectors,
    pose_vector_to_matrix,
    relative_pose,
    transform_points,
    warp_bev,
)

GRID = BevGrid(x_min=-4.0, y_min=-8.0, resolution=0.5, height=16, width=32)
NUMBER = st.floats(-20, 20)
POSE = st.tuples(NUMBER, NUMBER, st.floats(-3.1, 3.1))


def test_cells_of_the_usual_map() -> None:
    grid = BevGrid.centred(200, 200, 0.5)
    assert grid == BevGrid(-50.0, -50.0, 0.5, 200, 200)
    corners = np.array([[0.0, 0.0], [199.0, 199.0]])
    assert grid.cells_to_metres(corners).tolist() == [[-49.75, -49.75], [49.75, 49.75]]
    assert grid.metres_to_cells(np.array([0.0, -50.0])).tolist() == [99.5, -0.5]
    # Normalised boxes have x along the columns.
    assert GRID.metres_to_normalised(np.array([-4.0, 8.0])).tolist() == [1.0, 0.0]
    assert GRID.cell_centres()[1, 2].tolist() == [-3.25, -6.75]


@settings(max_examples=20)
@given(st.tuples(NUMBER, NUMBER))
def test_positions_go_there_and_back(point: tuple[float, float]) -> None:
    for values in (np.array(point), torch.tensor(point, dtype=torch.float64)):
        for there, back in (
            (GRID.metres_to_cells, GRID.cells_to_metres),
            (GRID.metres_to_normalised, GRID.normalised_to_metres),
        ):
            np.testing.assert_allclose(np.asarray(back(there(values))), point, atol=1e-9)
    x, y = point
    assert bool(GRID.inside(np.array(point))) == (-4 <= x < 4 and -8 <= y < 8)


@settings(max_examples=20)
@given(POSE, POSE)
def test_relative_pose_undoes_composition(outer: tuple, inner: tuple) -> None:
    frame, pose = np.array(outer), np.array(inner)
    np.testing.assert_allclose(relative_pose(frame, compose_poses(frame, pose)), pose, atol=1e-9)
    point = np.array([1.5, -2.0])
    np.testing.assert_allclose(
        transform_points(compose_poses(frame, pose), point),
        transform_points(frame, transform_points(pose, point)),
        atol=1e-9,
    )


def test_motion_vectors_map_a_frame_to_the_next() -> None:
    poses = np.array([[1.0, 2.0, 0.3], [2.0, 2.5, 0.5], [4.0, 2.0, -3.0], [4.5, 2.0, 3.1]])
    vectors = ego_motion_vectors(poses)
    assert vectors.dtype == np.float32 and (vectors[-1] == 0).all()
    local = np.array([3.0, -1.0])
    for time in range(3):
        matrix = pose_vector_to_matrix(vectors[time].astype(np.float64))
        moved = (matrix @ np.array([*local, 0.0, 1.0]))[:2]
        world = transform_points(poses[time], local)
        np.testing.assert_allclose(transform_points(poses[time + 1], moved), world, atol=1e-5)
    assert np.abs(vectors[:, 5]).max() <= math.pi


def test_a_standing_agent_stays_on_its_cell() -> None:
    """Ego motions of whole cells, sideways too, on a map that is not square."""
    ego = np.array([[0.0, 0.0, 0.0], [1.0, 0.5, 0.0], [1.5, -1.0, 0.0]])
    maps = torch.zeros(3, 1, GRID.height, GRID.width, dtype=torch.int32)
    for time, pose in enumerate(ego):
        place = relative_pose(pose, np.array([0.75, 2.25, 0.0]))[:2]
        row, column = GRID.metres_to_cells(place).round().astype(int)
        maps[time, 0, row, column] = 7
    src_from_dst = torch.from_numpy(relative_pose(ego, ego[-1:]))
    for mode, values in (("nearest", maps), ("bilinear", maps.double())):
        aligned = warp_bev(values, src_from_dst, GRID, mode=mode)
        assert torch.allclose(aligned.double(), maps[-1:].double().expand(3, -1, -1, -1))


def test_warp_and_back_restores_a_smooth_map() -> None:
    grid = BevGrid(-15.0, -10.0, 0.5, 60, 40)
    x, y = np.moveaxis(grid.cell_centres(), -1, 0)
    smooth = torch.from_numpy(np.cos(0.4 * x) * np.sin(0.3 * y))[None, None]
    there = torch.tensor([[0.7, -0.9, 0.4]], dtype=torch.float64)
    back = relative_pose(there, torch.zeros(1, 3, dtype=torch.float64))
    restored = warp_bev(warp_bev(smooth, there, grid), back, grid)
    error = (restored - smooth)[..., 15:45, 10:30].abs().max()
    assert error < 0.02


def test_composed_warps_of_whole_cells() -> None:
    maps = torch.randint(0, 2**31 - 1, (1, 2, 16, 32), generator=torch.Generator().manual_seed(0))
    one = torch.tensor([[1.0, -1.5, 0.0]], dtype=torch.float64)
    two = torch.tensor([[-0.5, 2.0, math.pi / 2]], dtype=torch.float64)
    grid = BevGrid(-8.0, -8.0, 0.5, 32, 32)
    maps = torch.nn.functional.pad(maps, (0, 0, 8, 8))
    twice = warp_bev(warp_bev(maps, one, grid, "nearest"), two, grid, "nearest")
    once = warp_bev(maps, compose_poses(one, two), grid, "nearest")
    inside = warp_bev(warp_bev(torch.ones_like(maps), one, grid, "nearest"), two, grid, "nearest")
    assert inside.sum() > 1000
    assert (twice == once * inside).all(), "ids beyond 2^24 are kept"


def test_nothing_comes_from_outside_and_errors() -> None:
    far = torch.tensor([[1e6, 0.0, 0.0]], dtype=torch.float64)
    maps = torch.ones(1, 1, 16, 32)
    for mode in ("nearest", "bilinear"):
        assert warp_bev(maps, far, GRID, mode).abs().sum() == 0
    with pytest.raises(ValueError, match="do not fit a grid of 16 x 32"):
        warp_bev(maps.transpose(2, 3), far, GRID)
    with pytest.raises(ValueError, match="mode is 'cubic'"):
        warp_bev(maps, far, GRID, "cubic")
    with pytest.raises(ValueError, match="has no cells"):
        BevGrid(0.0, 0.0, 0.5, 0, 4)
    with pytest.raises(ValueError, match="has no cells"):
        BevGrid(0.0, 0.0, math.nan, 4, 4)


def test_gradients_reach_the_features() -> None:
    maps = torch.zeros(1, 1, 16, 32, requires_grad=True)
    pose = torch.tensor([[0.3, 0.2, 0.1]], dtype=torch.float64)
    warp_bev(maps, pose, GRID).sum().backward()
    assert maps.grad is not None and maps.grad.isfinite().all() and maps.grad.abs().sum() > 100
