"""Associations of views of a plane, random choices within groups, agreement of poses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.geometry.failures import FailureReason
from roca_nocs.geometry.grouped_random import (
    rank_in_group,
    shuffle_within_groups,
    subset_of_groups,
)
from roca_nocs.geometry.multiview import Views, associate, ordered_pairs, pose_disagreement

HEIGHT, WIDTH, FOCAL = 12, 16, 20.0
PAIR = torch.tensor([[0, 1]])


def plane_views(depths: tuple[float, float], shift_pixels: int = 3) -> Views:
    """Two cameras before a plane; the second stands to the right, by whole pixels on the plane."""
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    poses[1, 0, 3] = shift_pixels * depths[0] / FOCAL
    intrinsics = torch.tensor([[FOCAL, 0, 7.5], [0, FOCAL, 5.5], [0, 0, 1]]).repeat(2, 1, 1)
    depth = torch.tensor(depths)[:, None, None].repeat(1, HEIGHT, WIDTH)
    return Views(depth, intrinsics, poses, torch.zeros(2, dtype=torch.int64))


def everywhere() -> torch.Tensor:
    return torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool)


def test_plane_moves_by_the_disparity() -> None:
    found = associate(plane_views((2.0, 2.0)), everywhere(), PAIR)
    assert found.reasons.tolist() == [FailureReason.OK]
    assert len(found.pairs) == HEIGHT * (WIDTH - 3)
    assert torch.equal(found.second, found.first - torch.tensor([0, 3]))


def test_both_directions_and_another_scene() -> None:
    views = plane_views((2.0, 2.0))
    both = associate(views, everywhere(), torch.tensor([[0, 1], [1, 0]]))
    forward, backward = both.pairs == 0, both.pairs == 1
    pairs = torch.cat([both.first, both.second], dim=1)
    mirrored = pairs[backward][:, [2, 3, 0, 1]]
    assert sorted(pairs[forward].tolist()) == sorted(mirrored.tolist())
    scenes = torch.tensor([0, 1, 0])
    assert ordered_pairs(scenes, 100).tolist() == [[0, 2], [2, 0]]
    assert len(ordered_pairs(torch.zeros(5, dtype=torch.int64), 7)) == 7


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("nothing in the second view", FailureReason.NO_DETECTIONS),
        ("no depth in the first view", FailureReason.NO_VALID_DEPTH),
        ("no depth in the second view", FailureReason.NO_VALID_DEPTH),
        ("far apart", FailureReason.NO_OVERLAP),
        ("behind the second camera", FailureReason.NO_OVERLAP),
        ("hidden", FailureReason.OCCLUDED),
    ],
)
def test_reasons(change: str, reason: FailureReason) -> None:
    views = plane_views((2.0, 2.0))
    foreground = everywhere()
    if change == "nothing in the second view":
        foreground[1] = False
    elif change == "no depth in the first view":
        views.depth[0] = 0
    elif change == "no depth in the second view":
        views.depth[1] = 0
    elif change == "far apart":
        views.camera_poses[1, 0, 3] = 50
    elif change == "behind the second camera":
        views.camera_poses[1, 2, 3] = 5
    else:
        views.depth[1] = 1.9
    found = associate(views, foreground, PAIR)
    assert found.reasons.tolist() == [reason]
    assert len(found.pairs) == len(found.first) == len(found.second) == 0


def test_surfaces_slightly_in_front_do_not_hide() -> None:
    views = plane_views((2.0, 1.99))
    assert len(associate(views, everywhere(), PAIR).pairs) > 0
    assert len(associate(views, everywhere(), PAIR, tolerance=0.005).pairs) == 0


def test_bounded_number_of_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    views = plane_views((2.0, 2.0))
    few = associate(views, everywhere(), PAIR, max_pixels=20, generator=generator)
    all_of_them = associate(views, everywhere(), PAIR)
    assert 0 < len(few.pairs) <= 20
    assert set(map(tuple, few.first.tolist())) <= set(map(tuple, all_of_them.first.tolist()))
    again = associate(
        views, everywhere(), PAIR, max_pixels=20, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(few.first, again.first)


def test_no_pairs_and_unknown_rule() -> None:
    none = associate(plane_views((2.0, 2.0)), everywhere(), PAIR[:0])
    assert len(none.pairs) == len(none.reasons) == 0
    with pytest.raises(ValueError, match="pixel_rule"):
        associate(plane_views((2.0, 2.0)), everywhere(), PAIR, pixel_rule="floor")  # type: ignore[arg-type]


@settings(max_examples=20)
@given(st.lists(st.integers(0, 6), max_size=60), st.integers(0, 5), st.integers(0, 2**31))
def test_choices_within_groups(numbers: list[int], most: int, seed: int) -> None:
    groups = torch.tensor(sorted(numbers), dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    order = shuffle_within_groups(groups, generator)
    assert sorted(order.tolist()) == list(range(len(groups)))
    assert torch.equal(groups[order], groups)
    ranks = rank_in_group(groups)
    expected = [numbers_before(groups.tolist(), i) for i in range(len(groups))]
    assert ranks.tolist() == expected
    chosen = subset_of_groups(groups, most, generator)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    kept = torch.bincount(groups[chosen], minlength=7)
    assert torch.equal(kept, torch.bincount(groups, minlength=7).clamp(max=most))


def numbers_before(groups: list[int], position: int) -> int:
    return groups[:position].count(groups[position])


def test_every_order_of_a_group_is_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.tensor([3, 3, 3, 9])
    drawn = {tuple(shuffle_within_groups(groups, generator).tolist()) for _ in range(200)}
    assert len(drawn) == 6


def test_pose_disagreement() -> None:
    views = plane_views((2.0, 2.0))
    world = torch.eye(4).repeat(3, 1, 1)
    world[:, 2, 3] = 2.0
    world[1, 0, 3] = 0.1  # the same object, seen 0.1 m off
    world[2, 0, 3] = 5.0  # an object that only the second view shows
    images = torch.tensor([0, 1, 1])
    to_camera = torch.linalg.inv(views.camera_poses).float()
    values, matched = pose_disagreement(to_camera[images] @ world, images, views)
    assert matched.tolist() == [[False, True], [True, False], [False, False]]
    torch.testing.assert_close(values, torch.tensor([[0, 0.1], [0.1, 0], [0, 0]]))
    apart = Views(views.depth, views.intrinsics, views.camera_poses, torch.tensor([0, 1]))
    assert not pose_disagreement(world, images, apart)[1].any()
    none = pose_disagreement(world[:0], images[:0], views)
    assert none[0].shape == none[1].shape == (0, 2)
