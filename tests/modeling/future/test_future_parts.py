"""Flow, rollout of the memory, and instance ids over time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modeling.tiny_future_detr import CHANNELS, SIZE, build_detector, build_rollout
from roca_nocs.geometry.bev import BevGrid
from roca_nocs.modeling.future.flow import (
    FlowHead,
    compose_flow,
    resize_flow,
    warp_by_flow,
)
from roca_nocs.modeling.future.instance_ids import instance_maps, link_by_flow, trajectories
from roca_nocs.modeling.future.rollout import FutureRollout, Step, decode_rows
from roca_nocs.modeling.tracking.track_state import PaddedLayout
from roca_nocs.modeling.transformer.future_detector import FutureDetector


def constant(x: float, y: float, size: tuple[int, int]) -> torch.Tensor:
    return torch.tensor([x, y])[None, :, None, None].expand(1, 2, *size).contiguous()


@settings(max_examples=20)
@given(st.integers(-3, 3), st.integers(-3, 3))
def test_whole_cells_of_flow_shift_maps(x: int, y: int) -> None:
    maps = torch.randn(2, 3, 8, 9)
    moved = warp_by_flow(maps, constant(x, y, (8, 9)))
    padded = torch.nn.functional.pad(maps, (3, 3, 3, 3))
    expected = padded[:, :, 3 + y : 11 + y, 3 + x : 12 + x]
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


def test_flow_of_other_resolutions() -> None:
    """The same motion, in cells of each grid, whichever way the size changes."""
    flow = constant(2.0, -1.0, (8, 12))
    for size in ((4, 6), (16, 24), (3, 5), (8, 12)):
        expected = constant(2.0 * size[1] / 12, -size[0] / 8, size)
        torch.testing.assert_close(resize_flow(flow, size), expected)


def test_composed_flow_is_one_warp_for_two() -> None:
    maps = torch.zeros(1, 1, 12, 12)
    maps[..., 4:7, 5:8] = 1
    first, second = constant(1, 0, (12, 12)), constant(-2, 1, (12, 12))
    twice = warp_by_flow(warp_by_flow(maps, first), second)
    torch.testing.assert_close(
        warp_by_flow(maps, compose_flow(first, second)), twice, atol=1e-5, rtol=0
    )


def test_flow_head_starts_at_rest_in_full_precision() -> None:
    head = FlowHead(CHANNELS)
    with torch.autocast("cpu", torch.bfloat16):
        flow = head(torch.randn(2, CHANNELS, 4, 5).bfloat16())
    assert flow.dtype == torch.float32 and flow.abs().max() == 0


def identity_rollout(flow: tuple[float, float], **options: object) -> FutureRollout:
    """A rollout that moves everything by a constant flow, in cells of the finest level."""
    rollout = build_rollout(**options)
    with torch.no_grad():
        rollout.refinement.zero_()
        rollout.flow_head.layers[-1].bias.copy_(torch.tensor(flow))
    return rollout.eval()


@torch.no_grad()
def present_of(
    detector: FutureDetector, size: tuple[int, int] = SIZE
) -> tuple[Step, torch.Tensor, PaddedLayout]:
    torch.manual_seed(1)
    encoded = detector.encode(torch.rand(2, 3, *size))
    initial = detector.initial_queries(encoded)
    query, reference = initial.query_embed.flatten(0, 1), initial.reference.flatten(0, 1)
    clip = torch.arange(2).repeat_interleave(detector.num_queries)
    layout = PaddedLayout.of(clip, 2)
    return decode_rows(detector, encoded, layout, query, reference), query, layout


@torch.no_grad()
@pytest.mark.parametrize("mode", ["autoregressive", "parallel"])
def test_rollout_at_rest_keeps_memory_and_masks(mode: str) -> None:
    torch.manual_seed(0)
    detector = build_detector().eval()
    present, query, layout = present_of(detector)
    rollout = identity_rollout((0.0, 0.0), mode=mode)
    steps = list(rollout(detector, present, query, layout, 2))
    rows = torch.arange(len(query))

    def masks(step: Step) -> torch.Tensor:
        return detector.masks(step.encoded)(present.hs[-1, rows], layout.clip)

    for step in steps:
        for level, before in zip(step.encoded.levels, present.encoded.levels, strict=True):
            torch.testing.assert_close(level, before, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(masks(step), masks(present), atol=1e-4, rtol=1e-4)
        semantic = detector.semantic(step.encoded), detector.semantic(present.encoded)
        torch.testing.assert_close(*semantic, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_rollout_moves_memory_and_skips_alike() -> None:
    """Eight cells of the finest level a step are one of the coarsest and sixteen of the raster."""
    torch.manual_seed(0)
    detector = build_detector(num_semantic_classes=0).eval()
    present, query, layout = present_of(detector, (64, 96))
    steps = list(identity_rollout((-8.0, 0.0))(detector, present, query, layout, 2))
    for number, step in enumerate(steps, start=1):
        pairs = list(zip(step.encoded.levels, present.encoded.levels, strict=True))
        pairs += list(zip(step.encoded.skips, present.encoded.skips, strict=True))
        for after, before in pairs:
            cells = number * 16 * before.shape[-1] // 96
            torch.testing.assert_close(
                after[..., cells:], before[..., :-cells], atol=1e-4, rtol=1e-4
            )
            assert after[..., :cells].abs().max() < 1e-4


class _Same(nn.Module):
    """In the place of an interaction module: queries stay as they are."""

    def forward(
        self, query: torch.Tensor, embedding: torch.Tensor, clip: torch.Tensor
    ) -> torch.Tensor:
        return query


@torch.no_grad()
def test_queries_at_rest_give_the_same_masks() -> None:
    """Neither flow nor interaction: the rollout's own states have the masks of the present."""
    torch.manual_seed(0)
    detector = build_detector().eval()
    present, query, layout = present_of(detector)
    rollout = identity_rollout((0.0, 0.0))
    rollout.interaction = _Same()

    def masks(step: Step) -> torch.Tensor:
        return detector.masks(step.encoded)(step.hs[-1], layout.clip)

    for step in rollout(detector, present, query, layout, 2):
        torch.testing.assert_close(step.hs, present.hs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(step.boxes, present.boxes, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(masks(step), masks(present), atol=1e-3, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("mask_type", ["conv", "dot"])
def test_constant_flow_moves_the_masks(mask_type: str) -> None:
    """Masks of a step are those of the present, as many cells further as the flow says.

    The content ends far from the borders, so that nothing is lost and the normalisations see the
    same values at all steps.
    """
    torch.manual_seed(0)
    detector = build_detector(mask_type=mask_type, num_semantic_classes=0).eval()
    width = 192
    present, query, layout = present_of(detector, (64, width))

    def inside(maps: torch.Tensor) -> torch.Tensor:
        columns = (torch.arange(maps.shape[-1]) + 0.5) / maps.shape[-1]
        return maps * ((columns > 64 / width) & (columns < 80 / width))

    encoded = present.encoded
    encoded = replace(
        encoded,
        levels=tuple(map(inside, encoded.levels)),
        skips=tuple(map(inside, encoded.skips)),
    )
    present = replace(present, encoded=encoded)

    def masks(step: Step) -> torch.Tensor:
        return detector.masks(step.encoded)(present.hs[-1], layout.clip)

    # Eight cells of the finest level to the right, sixteen of the raster, one of the coarsest.
    steps = identity_rollout((-8.0, 0.0))(detector, present, query, layout, 2)
    before = masks(present)
    for number, step in enumerate(steps, start=1):
        first, cells = 32, 16 * number
        moved = masks(step)[..., first + cells : 128 + cells]
        torch.testing.assert_close(moved, before[..., first:128], atol=1e-3, rtol=1e-3)
    there = before[..., first:128]
    assert (there - there.mean()).abs().max() > 0.1, "the masks must show something"


@torch.no_grad()
@pytest.mark.parametrize("skips", ["warped", "memory", "none"])
def test_rollout_beyond_its_embeddings(skips: str) -> None:
    """More steps than in training reuse the last embedding; skips of all kinds give masks."""
    torch.manual_seed(0)
    detector = build_detector().eval()
    present, query, layout = present_of(detector)
    rollout = build_rollout(future_skips=skips, max_steps=1).eval()
    rollout.attach_skips(detector.skip_channels)
    assert len(rollout.skip_convs) == (2 if skips == "memory" else 0)
    steps = list(rollout(detector, present, query, layout, 3))
    assert len(steps) == 3
    for step in steps:
        masks = detector.masks(step.encoded)(step.hs[-1], layout.clip)
        assert masks.shape[-2:] == SIZE and masks.isfinite().all()


@torch.no_grad()
def test_parallel_rollout_has_as_many_steps_as_perceptrons() -> None:
    detector = build_detector().eval()
    present, query, layout = present_of(detector)
    rollout = build_rollout(mode="parallel", max_steps=1)
    with pytest.raises(ValueError, match="max_steps=1"):
        list(rollout(detector, present, query, layout, 2))


def test_rollout_refuses_unknown_modes() -> None:
    with pytest.raises(ValueError, match="mode must be one of"):
        build_rollout(mode="serial")
    with pytest.raises(ValueError, match="future_skips must be one of"):
        build_rollout(future_skips="old")


def test_instance_maps() -> None:
    """The best claim wins; weak, small and gated segments are background."""
    masks = torch.zeros(2, 3, 6, 8)
    masks[:, 0, :3, :4] = 0.9
    masks[:, 1, 1:4, 2:7] = 0.8
    masks[:, 2, 5, 6:] = 0.99  # two cells
    existence = torch.tensor([[0.9, 0.8, 0.9], [0.2, 0.9, 0.9]])
    ids = torch.tensor([7, 3, 9])
    found = instance_maps(existence, masks, ids)
    assert found.dtype == torch.int32
    assert set(found[0].unique().tolist()) == {0, 3, 7}
    assert (found[0] == 7).sum() == 12 and (found[0] == 3).sum() == 15 - 4
    assert set(found[1].unique().tolist()) == {0, 3} and (found[1] == 3).sum() == 15
    gate = torch.zeros(2, 6, 8, dtype=torch.bool)
    gate[:, 1:4, 2:7] = True
    gated = instance_maps(existence, masks, ids, foreground=gate)
    assert (gated[0] == 7).sum() == 4
    assert instance_maps(existence, masks, ids, min_area=1)[0].eq(9).sum() == 2
    # A mask below one half is no mask, however sure its object.
    assert instance_maps(existence * 0 + 1, masks * 0.5, ids).abs().sum() == 0
    empty = instance_maps(existence[:, :0], masks[:, :0], ids[:0])
    assert empty.shape == (2, 6, 8) and empty.abs().sum() == 0


def test_trajectories_are_centroids_in_metres() -> None:
    grid = BevGrid(-3.0, -4.0, 0.5, 6, 8)
    instances = torch.zeros(2, 6, 8, dtype=torch.int32)
    instances[0, 2:4, 1:3] = 70_000
    instances[1, 0, 7] = 3
    instances[1, 5, 5] = 11  # of no query
    ids = torch.tensor([70_000, 3])
    found = trajectories(instances, ids, grid)
    torch.testing.assert_close(found[0, 0], torch.tensor([-1.5, -3.0]))
    torch.testing.assert_close(found[1, 1], torch.tensor([-2.75, -0.25]))
    assert found[0, 1].isnan().all() and found[1, 0].isnan().all()
    assert trajectories(instances, ids[:0], grid).shape == (2, 0, 2)


def test_linking_gives_new_ids_and_survives_empty_frames() -> None:
    frames = torch.zeros(4, 10, 30, dtype=torch.uint8)
    frames[0, 2:4, 2:4] = 1
    frames[1, 2:4, 4:6] = 2  # the same, renumbered
    frames[1, 7:9, 20:22] = 1  # new
    frames[3, 2:4, 8:10] = 1
    flow = torch.zeros(4, 2, 10, 30)
    flow[0, 1] = 2.0
    linked = link_by_flow(frames, flow, 1.0)
    assert linked[1, 2, 4] == 1 and linked[1, 7, 20] == 2
    assert linked[2].abs().sum() == 0
    # Nothing to continue after an empty frame: another new id.
    assert linked[3, 2, 8] == 3


def test_accumulated_flow_carries_projected_maps() -> None:
    """Masks that start from the encoder's input follow the flow too."""
    torch.manual_seed(0)
    detector = build_detector(x_source="proj", num_semantic_classes=0).eval()
    present, query, layout = present_of(detector)
    rollout = identity_rollout((-8.0, 0.0))
    with torch.no_grad():
        (step,) = rollout(detector, present, query, layout, 1)
    before = present.encoded.projected
    size = before.shape[-1]
    flow = resize_flow(step.flow, (before.shape[-2], size))
    torch.testing.assert_close(step.encoded.projected, warp_by_flow(before, flow))
