"""Exact overlap of oriented boxes: an independent oracle, invariances, degenerate boxes."""

import math

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry.box3d_cases import moved, random_boxes, solids
from roca_nocs.geometry import box3d_overlap
from roca_nocs.geometry.box3d_overlap import OrientedBoxes, elementwise_overlap, pairwise_overlap

seeds = st.integers(0, 10**6)
few = settings(max_examples=15, deadline=None)


def boxes_of(
    center: object, extents: object, rotation: torch.Tensor | None = None
) -> OrientedBoxes:
    center = torch.as_tensor(center, dtype=torch.float64).reshape(-1, 3)
    extents = torch.as_tensor(extents, dtype=torch.float64).expand(len(center), 3)
    rotation = torch.eye(3, dtype=torch.float64) if rotation is None else rotation
    return OrientedBoxes(center, extents, rotation.expand(len(center), 3, 3))


def close(ours: torch.Tensor, expected: torch.Tensor | float, atol: float = 1e-12) -> None:
    expected = torch.as_tensor(expected, dtype=ours.dtype).expand_as(ours)
    torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


def test_against_manifold() -> None:
    boxes, others = random_boxes(60, 0), random_boxes(60, 1)
    volume, iou = elementwise_overlap(boxes, others)
    expected = [(a ^ b).volume() for a, b in zip(solids(boxes), solids(others), strict=True)]
    expected = torch.tensor(expected, dtype=torch.float64)
    assert 10 < (expected > 0).sum() < 60
    close(volume, expected, atol=1e-9)
    union = boxes.extents.prod(dim=1) + others.extents.prod(dim=1) - expected
    close(iou, expected / union, atol=1e-9)


@few
@given(seeds, st.sampled_from([0.0, 0.2, 0.6]))
def test_symmetric_bounded_and_invariant_under_rigid_motion(seed: int, spread: float) -> None:
    boxes, others = random_boxes(30, seed, spread), random_boxes(30, seed + 1, spread)
    volume, iou = elementwise_overlap(boxes, others)
    assert (0 <= iou).all() and (iou <= 1).all()
    smaller = torch.minimum(boxes.extents.prod(dim=1), others.extents.prod(dim=1))
    assert (0 <= volume).all() and (volume <= smaller).all()
    for mine, swapped in zip((volume, iou), elementwise_overlap(others, boxes), strict=True):
        close(mine, swapped)
    motion = random_boxes(1, seed + 2, spread=100)
    again = elementwise_overlap(
        *(moved(each, motion.rotation[0], motion.center[0]) for each in (boxes, others))
    )
    close(again[0], volume)
    close(again[1], iou)


@few
@given(seeds, st.sampled_from([1e-3, 1.0, 1e3]), st.sampled_from([1e-4, 1e-2, 1.0]))
def test_equal_boxes(seed: int, unit: float, thickness: float) -> None:
    boxes = random_boxes(20, seed)
    extents = unit * boxes.extents * torch.tensor([1, thickness, 1])
    boxes = OrientedBoxes(unit * boxes.center, extents, boxes.rotation)
    close(elementwise_overlap(boxes, boxes)[1], 1, atol=1e-9)
    # The same solid with its axes named otherwise, or mirrored.
    renamed = OrientedBoxes(boxes.center, extents.roll(1, 1), boxes.rotation.roll(1, 2))
    close(elementwise_overlap(boxes, renamed)[1], 1, atol=1e-9)
    mirrored = OrientedBoxes(boxes.center, extents, boxes.rotation * torch.tensor([1, -1, 1]))
    close(elementwise_overlap(boxes, mirrored)[1], 1, atol=1e-9)


@few
@given(seeds, st.sampled_from([1e-3, 0.1, 0.9]))
def test_contained_box(seed: int, scale: float) -> None:
    boxes = random_boxes(20, seed)
    # Anywhere within a cube in the middle that the turned smaller box does not leave.
    room = boxes.extents.amin(dim=1, keepdim=True) / 2 * (1 - scale)
    shift = room * (2 * torch.rand(20, 3, generator=torch.Generator().manual_seed(seed)) - 1)
    extents = scale * boxes.extents.amin(dim=1, keepdim=True).expand(-1, 3) / math.sqrt(3)
    shift = (boxes.rotation @ shift.double()[..., None]).squeeze(-1)
    inner = OrientedBoxes(boxes.center + shift, extents, random_boxes(20, seed + 1).rotation)
    volume, _ = elementwise_overlap(boxes, inner)
    torch.testing.assert_close(volume, extents.prod(dim=1), rtol=1e-8, atol=0)


@few
@given(seeds, st.sampled_from([0.0, 1e-15, 1e-12]))
def test_common_faces_and_edges_of_boxes_on_a_grid(seed: int, noise: float) -> None:
    random = torch.Generator().manual_seed(seed)
    count = 60

    def integers(low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, (count, 3), generator=random).double()

    extents, other_extents, center = integers(1, 4), integers(1, 4), integers(-3, 4) / 2
    turns = roma.euler_to_rotmat("xyz", 90 * integers(0, 4), degrees=True)
    sides = (turns @ other_extents[..., None]).squeeze(-1).abs()
    sides = torch.minimum(extents / 2, center + sides / 2) - torch.maximum(
        -extents / 2, center - sides / 2
    )
    expected = sides.clamp(min=0).prod(dim=1)
    shift = noise * torch.randn(count, 3, generator=random, dtype=torch.float64)
    tilt = roma.rotvec_to_rotmat(
        noise * torch.randn(count, 3, generator=random, dtype=torch.float64)
    )
    boxes = boxes_of(torch.zeros(count, 3), extents)
    others = OrientedBoxes(center + shift, other_extents, tilt @ turns)
    close(elementwise_overlap(boxes, others)[0], expected, atol=1e-12 + 100 * noise)
    motion = random_boxes(1, seed)
    again = elementwise_overlap(
        *(moved(each, motion.rotation[0], motion.center[0]) for each in (boxes, others))
    )
    close(again[0], expected, atol=1e-12 + 100 * noise)


@few
@given(seeds, st.sampled_from([0.0, 1e-16, 1e-14, 1e-12]))
def test_boxes_hinged_at_a_common_edge(seed: int, noise: float) -> None:
    # A face of one box then meets an edge of both, and rounding decides on which side. Across the
    # edge, two unit squares with a common corner overlap in a kite with the angle 90 degrees - turn
    # between two sides of length 1.
    random = torch.Generator().manual_seed(seed)
    count = 60
    angle = math.pi / 2 * torch.rand(count, generator=random, dtype=torch.float64)
    turn = roma.rotvec_to_rotmat(angle[:, None] * torch.tensor([1.0, 0.0, 0.0]))
    half = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    center = (turn @ half[:, None]).squeeze(-1)
    shift = noise * torch.randn(count, 3, generator=random, dtype=torch.float64)
    boxes = boxes_of(half.expand(count, 3), 1)
    others = OrientedBoxes(center + shift, boxes.extents, turn)
    expected = ((math.pi / 2 - angle) / 2).tan()
    motions = random_boxes(count, seed)
    close(elementwise_overlap(boxes, others)[0], expected, atol=1e-12 + 10 * noise)
    again = elementwise_overlap(
        *(moved(each, motions.rotation, motions.center) for each in (boxes, others))
    )
    close(again[0], expected, atol=1e-12 + 10 * noise)


@pytest.mark.parametrize("pairwise", [False, True])
def test_boxes_that_touch_or_are_apart(pairwise: bool) -> None:
    boxes = boxes_of([[0, 0, 0]] * 5, 1)
    others = boxes_of([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1.01, 0, 0], [500, 0, 0]], 1)
    compare = pairwise_overlap if pairwise else elementwise_overlap
    for result in compare(boxes, others):
        assert (result == 0).all()


def test_degenerate_boxes_are_finite_with_finite_gradients() -> None:
    values = [0.0, 1.0, 1e-30, 1e30, -1.0, math.inf, math.nan]
    extents = torch.cartesian_prod(*[torch.tensor(values, dtype=torch.float64)] * 3)
    turned = random_boxes(len(extents), 0, spread=0.1)
    boxes = boxes_of([[0.0, 0.0, 0.0], [0.2, 0.1, 0.0], [math.inf, 0, 0], [math.nan, 0, 0]], 1)
    others = OrientedBoxes(turned.center, extents, turned.rotation)
    volume, iou = pairwise_overlap(boxes, others)
    assert volume.isfinite().all() and iou.isfinite().all()
    assert (volume >= 0).all() and (iou >= 0).all() and (iou <= 1).all()
    assert (volume[2:] == 0).all() and (iou[2:] == 0).all()
    assert (volume[:, ~(extents > 0).all(dim=1)] == 0).all()

    # Equal, common face, common edge, contained, touching, zero extent.
    centers = [[0, 0, 0], [0.5, 0, 0], [0.5, 0.5, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    boxes = boxes_of([[0.0, 0.0, 0.0]] * 6, 1)
    others = boxes_of(centers, [[1, 1, 1]] * 3 + [[0.5, 0.5, 0.5], [1, 1, 1], [1, 1, 0]])
    for dtype in (torch.float64, torch.float32):
        leaves = [part.to(dtype).clone().requires_grad_() for part in (*boxes, *others)]
        volume, iou = elementwise_overlap(OrientedBoxes(*leaves[:3]), OrientedBoxes(*leaves[3:]))
        for gradient in torch.autograd.grad(volume.sum() + iou.sum(), leaves):
            assert gradient.isfinite().all()


def test_needles_and_plates() -> None:
    motions = random_boxes(30, 0)
    for extents in ([1, 1e-6, 1e-6], [1, 1, 1e-6]):
        boxes = moved(boxes_of(torch.zeros(30, 3), extents), motions.rotation, motions.center)
        close(elementwise_overlap(boxes, boxes)[1], 1, atol=1e-8)
    # Crossing bars of width w at the angle a share a rhombus of area w^2 / sin a.
    angle = torch.linspace(0.5, 1, 30, dtype=torch.float64)
    turn = roma.rotvec_to_rotmat(angle[:, None] * torch.tensor([0.0, 0.0, 1.0]))
    bars = boxes_of(torch.zeros(30, 3), [1, 1e-4, 1e-4])
    others = OrientedBoxes(bars.center, bars.extents, turn)
    volume, _ = elementwise_overlap(
        *(moved(each, motions.rotation, motions.center) for each in (bars, others))
    )
    torch.testing.assert_close(volume, 1e-12 / angle.sin(), rtol=1e-6, atol=0)


def test_gradients() -> None:
    boxes, others = random_boxes(6, 3, spread=0.15), random_boxes(6, 4, spread=0.15)
    leaves = [part.clone().requires_grad_() for part in (*boxes, *others)]
    assert torch.autograd.gradcheck(
        lambda *parts: elementwise_overlap(OrientedBoxes(*parts[:3]), OrientedBoxes(*parts[3:])),
        leaves,
        fast_mode=True,
    )


def test_all_pairs_in_chunks_equal_the_pairs_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, others = random_boxes(13, 5, spread=1), random_boxes(9, 6, spread=1)
    expected = pairwise_overlap(boxes, others)
    assert 0 < (expected[0] > 0).sum() < expected[0].numel()
    monkeypatch.setattr(box3d_overlap, "_DISTANCES_PER_CHUNK", 20)
    monkeypatch.setattr(box3d_overlap, "_PAIRS_PER_CHUNK", 7)
    monkeypatch.setattr(box3d_overlap, "_FACES_PER_CHUNK", {"cpu": 11})
    chunked = pairwise_overlap(boxes, others)
    for column in range(9):
        single = OrientedBoxes(*(part[column].expand_as(boxes[i]) for i, part in enumerate(others)))
        for all_pairs, chunks, one in zip(
            expected, chunked, elementwise_overlap(boxes, single), strict=True
        ):
            close(all_pairs[:, column], one, atol=1e-15)
            close(chunks[:, column], one, atol=1e-15)


def test_only_candidates_reach_the_exact_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[int] = []
    solve = box3d_overlap._volume_in_cube

    def counting(center: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
        solved.append(center.shape[1])
        return solve(center, axes)

    monkeypatch.setattr(box3d_overlap, "_volume_in_cube", counting)
    centers = 10 * torch.arange(20).double()[:, None].expand(-1, 3)
    boxes = boxes_of(centers, 1, random_boxes(1, 0).rotation)
    volume, _ = pairwise_overlap(boxes, boxes)
    close(volume, torch.eye(20).double())
    assert sum(solved) == 20


@pytest.mark.parametrize(("count", "others"), [(0, 0), (0, 3), (3, 0)])
def test_no_boxes(count: int, others: int) -> None:
    result = pairwise_overlap(random_boxes(count, 0), random_boxes(others, 0))
    assert [part.shape for part in result] == [(count, others)] * 2
    empty = random_boxes(0, 0)
    assert [part.shape for part in elementwise_overlap(empty, empty)] == [(0,)] * 2


def test_lower_precision() -> None:
    boxes, others = random_boxes(200, 7), random_boxes(200, 8)
    _, expected = elementwise_overlap(boxes, others)
    for dtype, atol in ((torch.float32, 1e-5), (torch.float16, 2e-2)):
        lower = [OrientedBoxes(*(part.to(dtype) for part in each)) for each in (boxes, others)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, iou = elementwise_overlap(*lower)
        assert iou.dtype == torch.float32
        close(iou, expected.float(), atol=atol)


def test_wrong_shapes() -> None:
    boxes = random_boxes(3, 0)
    with pytest.raises(ValueError, match="pairwise_overlap compares all pairs"):
        elementwise_overlap(boxes, random_boxes(2, 0))
    with pytest.raises(ValueError, match=r"expected \(N, 3\), \(N, 3\) and \(N, 3, 3\)"):
        pairwise_overlap(boxes, OrientedBoxes(boxes.center, boxes.extents[:, :2], boxes.rotation))


@pytest.mark.gpu
def test_on_the_gpu() -> None:
    boxes, others = random_boxes(300, 9, spread=1), random_boxes(200, 10, spread=1)
    expected = pairwise_overlap(boxes, others)
    ours = pairwise_overlap(
        *(OrientedBoxes(*(part.cuda() for part in each)) for each in (boxes, others))
    )
    for mine, theirs in zip(ours, expected, strict=True):
        close(mine.cpu(), theirs)
