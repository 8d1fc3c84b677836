"""Losses and matching of clips: batches, births, disappearance, empty frames, degenerate masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.modeling.criteria import ClipCriterion, MixedMatcher
from roca_nocs.modeling.criteria.clip_loss import LossSums
from roca_nocs.modeling.criteria.clip_matching import ClipMatcher, FrameTargets, updated_identity
from roca_nocs.modeling.criteria.mask_loss import dice_cost, mask_losses, upsample

CPU = torch.device("cpu")


def targets_of(counts: list[int], *, classes: int = 2, seed: int = 0) -> FrameTargets:
    generator = torch.Generator().manual_seed(seed)
    frames = []
    for count in counts:
        centre = 0.2 + 0.6 * torch.rand(count, 2, generator=generator)
        size = 0.05 + 0.1 * torch.rand(count, 2, generator=generator)
        labels = torch.randint(classes, (count,), generator=generator)
        ids = torch.arange(1, count + 1)
        frames.append({"boxes": torch.cat([centre, size], 1), "labels": labels, "ids": ids})
    return FrameTargets.of(frames, CPU)


def predictions(count: int, *, layers: int = 2, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, count, 2, generator=generator)
    return logits, 0.1 + 0.5 * torch.rand(layers, count, 4, generator=generator)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=3), st.integers(0, 100))
def test_clips_are_matched_for_themselves(counts: list[int], seed: int) -> None:
    """Rows of a batch match as those of single clips do, also with more targets than rows."""
    rows = 5
    match = ClipMatcher(MixedMatcher())
    targets = targets_of(counts, seed=seed)
    logits, boxes = predictions(rows * len(counts), seed=seed)
    clip = torch.arange(len(counts)).repeat_interleave(rows)
    # The first row of every clip is a track of target 2 (which may not be there).
    ids = torch.full_like(clip, -1)
    ids[::rows] = 2
    together = match(ids, clip, logits, boxes, targets)
    assert together.shape == (2, len(clip)) and together.dtype == np.int64
    for number, count in enumerate(counts):
        part = slice(number * rows, (number + 1) * rows)
        first = sum(counts[:number])
        alone = match(
            ids[part],
            torch.zeros(rows, dtype=torch.int64),
            logits[:, part],
            boxes[:, part],
            FrameTargets.of(
                [
                    {
                        name: getattr(targets, name)[first : first + count]
                        for name in ("boxes", "labels", "ids")
                    }
                ],
                CPU,
            ),
        )
        offset = np.where(alone >= 0, first, 0)
        assert (together[:, part] == alone + offset).all()
        for layer in alone:
            assert layer[0] == (1 if count >= 2 else -1)
            matched = layer[layer >= 0]
            assert len(set(matched.tolist())) == len(matched)
            others = count - (count >= 2)
            assert len(matched) == (count >= 2) + min(others, rows - 1)


def test_rows_without_leave_are_not_matched() -> None:
    """Neither tracks whose target has gone nor rows with id -2 take a new target."""
    match = ClipMatcher(MixedMatcher())
    logits, boxes = predictions(3)
    ids, clip = torch.tensor([9, -2, -1]), torch.zeros(3, dtype=torch.int64)
    targets = targets_of([2])
    assert sorted(match(ids, clip, logits, boxes, targets)[0].tolist())[:2] == [-1, -1]
    assert (match(ids, clip, logits, boxes, targets, births=False) == -1).all()


def test_extra_cost_decides_the_last_layer_only() -> None:
    match = ClipMatcher(MixedMatcher())
    logits, boxes = predictions(4)
    ids, clip = torch.full((4,), -1), torch.zeros(4, dtype=torch.int64)
    targets = targets_of([1])
    plain = match(ids, clip, logits, boxes, targets)
    extra = torch.zeros(4, 1)
    extra[plain[-1] == 0] = 1000.0
    changed = match(ids, clip, logits, boxes, targets, extra)
    assert (changed[0] == plain[0]).all()
    assert (changed[-1] == 0).argmax() != (plain[-1] == 0).argmax()


def test_diverged_predictions_are_named() -> None:
    logits, boxes = predictions(3)
    logits[0, 1] = torch.nan
    ids, clip = torch.full((3,), -1), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(FloatingPointError, match="NaN"):
        ClipMatcher(MixedMatcher())(ids, clip, logits, boxes, targets_of([1]))


def test_identity_changes_with_a_target_only() -> None:
    targets = targets_of([2])
    boxes = torch.cat([targets.boxes, torch.rand(1, 4)]).requires_grad_()
    ids, iou = torch.tensor([-1, 5, 6]), torch.tensor([0.0, 0.0, 0.7])
    new_ids, new_iou = updated_identity(ids, iou, boxes, torch.tensor([0, 1, -1]), targets)
    assert new_ids.tolist() == [1, 2, 6]
    torch.testing.assert_close(new_iou, torch.tensor([1.0, 1.0, 0.7]), atol=1e-5, rtol=0)
    assert not new_iou.requires_grad


def clip_losses(counts: list[int], **options: float) -> tuple[dict[str, torch.Tensor], list]:
    """All losses of a frame with random masks and flow, and their inputs."""
    criterion = ClipCriterion(matcher=MixedMatcher(), **options)
    clips, rows = len(counts), 4
    targets = targets_of(counts)
    logits, boxes = (each.requires_grad_() for each in predictions(rows * clips))
    clip = torch.arange(clips).repeat_interleave(rows)
    assigned = criterion.matcher(torch.full_like(clip, -1), clip, logits, boxes, targets)
    sums = LossSums()
    sums.count = len(targets)
    criterion.frame(sums, "", logits, boxes, assigned, targets)
    count = int((assigned[-1] >= 0).sum())
    masks = torch.randn(count, 6, 8, requires_grad=True)
    wanted = torch.rand(count, 6, 8) > 0.7
    criterion.masks(sums, "", masks, wanted)
    flow = torch.randn(clips, 2, 6, 8, requires_grad=True)
    label = torch.full((clips, 2, 6, 8), 255.0)
    if count:
        label[0, :, :2] = 1.0
    criterion.flow(sums, "", flow, label, None, 0)
    criterion.consistency(sums, "", masks, torch.rand(count, 6, 8), 0)
    semantic = torch.randn(clips, 2, 6, 8, requires_grad=True)
    criterion.semantic(sums, "", semantic, torch.zeros(clips, 6, 8, dtype=torch.int64), None, 0)
    return sums.losses(CPU), [logits, boxes, masks, flow, semantic]


@pytest.mark.parametrize("counts", [[2, 0], [0, 0], [6, 1]])
def test_losses_are_finite_with_and_without_targets(counts: list[int]) -> None:
    losses, inputs = clip_losses(counts)
    names = ("class", "bbox", "giou")
    assert set(losses) == {f"loss_{n}{s}" for n in names for s in ("", "_aux0")} | {
        f"loss_{n}" for n in ("mask", "dice", "flow", "consistency", "semantic")
    }
    sum(losses.values()).backward()
    for each in inputs:
        assert each.grad is not None and each.grad.isfinite().all()
    if not sum(counts):
        positive = {name for name, value in losses.items() if value > 0}
        assert positive == {"loss_class", "loss_class_aux0", "loss_semantic"}


def test_steps_are_discounted() -> None:
    criterion = ClipCriterion(matcher=MixedMatcher(), future_discount=0.5)
    logits = torch.randn(2, 6, 8)
    values = []
    for step in (0, 2):
        sums = LossSums()
        criterion.masks(sums, "", logits, logits > 0.3, step=step)
        criterion.semantic(
            sums, "", torch.randn(1, 2, 3, 3) * 0, torch.ones(1, 3, 3).long(), None, step
        )
        values.append(torch.stack(list(sums.losses(CPU).values())))
    torch.testing.assert_close(values[1], values[0] / 4)


def test_means_are_over_all_steps() -> None:
    """The losses of the steps add up to one mean over rows or cells, of discounted losses."""
    criterion = ClipCriterion(
        matcher=MixedMatcher(), weight_flow=1.0, weight_consistency=1.0, future_discount=0.5
    )
    sums = LossSums()
    # Masks of one step agree with those before, three of the next do not.
    mask = torch.full((1, 6, 8), -20.0)
    mask[:, 2:4, 2:5] = 20.0
    elsewhere = mask.roll(4, dims=2).sigmoid()
    criterion.consistency(sums, "_f1", mask, mask.sigmoid(), 1)
    criterion.consistency(sums, "_f2", mask.expand(3, -1, -1), elsewhere.expand(3, -1, -1), 2)
    # Each cell of a flow that is 3 cells wrong along both axes costs 2 * 2.5.
    for step, cells in ((1, 1), (2, 4)):
        label = torch.full((1, 2, 6, 8), 255.0)
        label[..., 0, :cells] = 3.0
        criterion.flow(sums, f"_f{step}", torch.zeros(1, 2, 6, 8), label, None, step)
    # Cross-entropies of log 2 and of nothing, with a quarter of the cells.
    even, sure = torch.zeros(1, 2, 4, 4), torch.tensor([50.0, -50.0]).view(1, 2, 1, 1)
    for step, logits in enumerate((even, sure.expand(1, 2, 4, 4), even)):
        criterion.semantic(
            sums, f"_f{step}" if step else "", logits, torch.zeros(1, 4, 4).long(), None, step
        )
    found = {name: value.item() for name, value in sums.losses(CPU).items()}
    assert found == pytest.approx(
        {
            "loss_consistency_f1": 0.0,
            "loss_consistency_f2": 0.25 * 3 / 4,
            "loss_flow_f1": 0.5 * 5 / 5,
            "loss_flow_f2": 0.25 * 20 / 5,
            "loss_semantic": math.log(2) / 3,
            "loss_semantic_f1": 0.0,
            "loss_semantic_f2": 0.25 * math.log(2) / 3,
        },
        abs=1e-4,
    )


def test_cells_outside_do_not_count() -> None:
    valid = torch.zeros(3, 6, 8, dtype=torch.bool)
    valid[:, :4, :5] = True
    logits, targets = torch.randn(3, 6, 8), torch.rand(3, 6, 8) > 0.5
    cropped = mask_losses(logits[:, :4, :5], targets[:, :4, :5])
    noise = torch.where(valid, logits, 50 * torch.randn(3, 6, 8))
    for found, expected in zip(mask_losses(noise, targets, valid), cropped, strict=True):
        torch.testing.assert_close(found, expected)
    (costs,) = dice_cost(noise[None], targets[None], valid[:1])
    torch.testing.assert_close(costs.diagonal(), cropped[1])
    (costs,) = dice_cost(logits[None], targets[None])
    torch.testing.assert_close(costs.diagonal(), mask_losses(logits, targets)[1])


def test_consistency_of_masks_that_follow_the_flow() -> None:
    criterion = ClipCriterion(matcher=MixedMatcher(), weight_consistency=1.0)
    mask = torch.full((1, 6, 8), -20.0)
    mask[:, 2:4, 2:5] = 20.0
    elsewhere = mask.roll(4, dims=2)
    values = []
    for before in (mask, elsewhere, torch.full_like(mask, -20.0)):
        sums = LossSums()
        criterion.consistency(sums, "", mask, before.sigmoid(), 0)
        values.append(sums.losses(CPU)["loss_consistency"].item())
    assert values == pytest.approx([0.0, 1.0, 1.0], abs=1e-4)
    sums = LossSums()
    nowhere = torch.full_like(mask, -20.0).requires_grad_()
    criterion.consistency(sums, "", nowhere, nowhere.detach().sigmoid(), 0)
    loss = sums.losses(CPU)["loss_consistency"]
    loss.backward()
    assert loss == 0 and nowhere.grad.isfinite().all()


def test_upsampling_of_no_masks_keeps_the_graph() -> None:
    logits = torch.randn(0, 3, 4, requires_grad=True)
    up = upsample(logits, (6, 8))
    assert up.shape == (0, 6, 8)
    up.sum().backward()
    assert upsample(torch.zeros(2, 3, 4).bfloat16(), (6, 8)).dtype == torch.float32


def test_semantic_weights_fit_the_classes() -> None:
    criterion = ClipCriterion(matcher=MixedMatcher())
    with pytest.raises(ValueError, match="semantic_class_weights"):
        criterion.semantic(
            LossSums(), "", torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4).long(), None, 0
        )
