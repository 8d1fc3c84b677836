"""The critique as part of a model: what it judges, keeps and leaves alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from detectron2.solver import get_default_optimizer_params
from detectron2.utils.events import EventStorage
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.nocs_gan.tiny_nocs import disc_targets
from roca_nocs.modeling.criteria.step_schedule import StepSchedule
from roca_nocs.modeling.nocs_gan.critique import Critique, depth_context
from roca_nocs.modeling.nocs_gan.discriminators import ConvDiscriminator
from roca_nocs.modeling.nocs_gan.objectives import BinaryCrossEntropy, Wasserstein


def build(*, with_depth: bool = False, **options: object) -> Critique:
    torch.manual_seed(0)
    discriminator = ConvDiscriminator(features=4, with_depth=with_depth, batch_norm=False)
    return Critique(discriminator=discriminator, objective=BinaryCrossEntropy(), **options)


def predictions(count: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 28, 28, generator=generator).requires_grad_()


def test_only_the_maps_get_a_gradient() -> None:
    critique, maps, targets = build(), predictions(4), disc_targets(4)
    before = [p.clone() for p in critique.parameters()]
    critique(maps, targets)["loss_nocs_critique"].backward()
    assert maps.grad[targets.mask[:, None].expand_as(maps)].abs().max() > 0
    # The background is set to 0: what the head predicts there does not matter.
    assert (maps.grad * ~targets.mask[:, None]).abs().max() == 0
    assert all(p.grad is None and not p.requires_grad for p in critique.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, critique.parameters(), strict=True))
    model = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2), "critique": critique})
    groups = get_default_optimizer_params(model)
    assert sum(len(group["params"]) for group in groups) == 2


def test_batch_holds_masked_maps_of_visible_objects() -> None:
    critique, maps, targets = build(), predictions(6), disc_targets(6)
    hidden = targets.mask.clone()
    hidden[1] = False
    targets = dataclasses.replace(targets, mask=hidden)
    critique(maps, targets)
    batch = critique.take_batch()
    rows = [0, 2, 3, 4, 5]
    mask = hidden[rows, None]
    torch.testing.assert_close(batch.fake, maps.detach()[rows] * mask)
    torch.testing.assert_close(batch.real, targets.coordinates[rows])
    assert batch.labelled.tolist() == [True, False, True, True, False]
    assert batch.classes.tolist() == [0, 2, 0, 1, 2]
    assert not batch.fake.requires_grad and batch.depth is None
    assert critique.take_batch() is None


def test_parts_of_a_batch_are_put_together() -> None:
    critique, maps, targets = build(), predictions(6), disc_targets(6)
    critique(maps, targets)
    whole = critique.take_batch()
    for rows in (slice(0, 2), slice(2, 6)):
        part = {k: v[rows] for k, v in vars(targets).items()}
        critique(maps[rows], dataclasses.replace(targets, **part))
    parts = critique.take_batch()
    for name in ("fake", "real", "labelled", "classes"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name


def test_no_regions_and_no_visible_object() -> None:
    critique = build()
    for count in (0, 3):
        targets = disc_targets(count)
        targets = dataclasses.replace(targets, mask=torch.zeros_like(targets.mask))
        maps = predictions(count)
        loss = critique(maps, targets)["loss_nocs_critique"]
        loss.backward()
        assert loss.item() == 0 and maps.grad.abs().sum() == 0
    assert critique.take_batch() is None


def test_regions_without_labels_are_judged() -> None:
    targets = disc_targets(3)
    targets = dataclasses.replace(targets, labelled=torch.zeros(3, dtype=torch.bool))
    critique, maps = build(), predictions(3)
    critique(maps, targets)["loss_nocs_critique"].backward()
    assert (maps.grad.flatten(1).abs().sum(dim=1) > 0).all()
    batch = critique.take_batch()
    assert not batch.labelled.any() and batch.real.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_judges_in_float32_under_autocast(dtype: torch.dtype) -> None:
    critique, targets = build(with_depth=True), disc_targets(3)
    maps, depth = predictions(3), torch.rand(3, 1, 28, 28)
    with EventStorage():
        expected = critique(maps.to(dtype), targets, depth)["loss_nocs_critique"]
    with EventStorage(), torch.autocast("cpu", dtype):
        loss = critique(maps.to(dtype), targets, depth)["loss_nocs_critique"]
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()
    assert critique.take_batch().fake.dtype == torch.float32


def test_regions_without_depth_are_counted_not_judged() -> None:
    critique, maps, targets = build(with_depth=True), predictions(4), disc_targets(4)
    depth = torch.rand(4, 1, 28, 28) + 1
    depth[1] = 0
    depth[2] *= ~targets.mask[2]  # only the background has depth
    with EventStorage() as storage:
        critique(maps, targets, depth)["loss_nocs_critique"].backward()
    assert storage.latest()["discriminator/regions_without_depth"][0] == 2
    assert maps.grad.flatten(1).any(dim=1).tolist() == [True, False, False, True]
    batch = critique.take_batch()
    assert batch.classes.tolist() == [0, 0] and batch.depth.flatten(1).any(dim=1).all()


def test_training_data_without_any_depth() -> None:
    critique, targets = build(with_depth=True), disc_targets(2)
    depth = torch.zeros(2, 1, 28, 28)
    with EventStorage():
        for _ in range(60):
            assert critique(predictions(2), targets, depth)["loss_nocs_critique"].item() == 0
        critique(predictions(2), targets, depth + 1)
        for _ in range(63):
            critique(predictions(2), targets, depth)
        with pytest.raises(RuntimeError, match=r"no object of the last 64 .*mapper\.depth = True"):
            critique(predictions(2), targets, depth)


def test_evaluation_keeps_nothing() -> None:
    critique = build().eval()
    critique(predictions(3), disc_targets(3))
    assert critique.take_batch() is None


def test_discriminator_that_nobody_trains() -> None:
    critique, maps, targets = build(), predictions(1), disc_targets(1)
    for _ in range(64):
        critique(maps, targets)
    with pytest.raises(RuntimeError, match="batches were not used to train the discriminator"):
        critique(maps, targets)


def test_weight_of_the_iteration() -> None:
    maps, targets = predictions(3), disc_targets(3)
    plain = build()(maps, targets)["loss_nocs_critique"]
    scheduled = build(weight=StepSchedule([0.25, 2.0], [3]))
    with EventStorage(2) as storage:
        first = scheduled(maps, targets)["loss_nocs_critique"]
        storage.iter = 3
        second = scheduled(maps, targets)["loss_nocs_critique"]
    torch.testing.assert_close(torch.stack([first, second]), plain * torch.tensor([0.25, 2.0]))


def test_wasserstein_cost_is_what_the_generator_lowers() -> None:
    """A step against the gradient of the loss lowers the scores of the predicted maps."""
    critique, maps, targets = build(), predictions(4), disc_targets(4)
    critique.objective = Wasserstein()
    loss = critique(maps, targets)["loss_nocs_critique"]
    (gradient,) = torch.autograd.grad(loss, maps)
    assert critique(maps - 10 * gradient, targets)["loss_nocs_critique"] < loss


@settings(max_examples=20)
@given(st.integers(1, 3), st.floats(0.1, 5.0), st.floats(0.0, 3.0), st.integers(0, 2**31 - 1))
def test_depth_context_ignores_distance(
    count: int, nearest: float, shift: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    depth = nearest + torch.rand(count, 1, 5, 5, generator=generator)
    mask = torch.rand(count, 1, 5, 5, generator=generator) < 0.6
    depth[torch.rand(count, 1, 5, 5, generator=generator) < 0.2] = 0
    relief = depth_context(depth, mask)
    known = mask & (depth > 0)
    assert relief.isfinite().all() and relief.min() >= 0
    assert (relief * ~known == 0).all()
    for each, valid in zip(relief, known, strict=True):
        assert not valid.any() or each[valid].min() == 0
    moved = depth_context(torch.where(depth > 0, depth + shift, 0.0), mask)
    torch.testing.assert_close(moved, relief, rtol=1e-5, atol=1e-5)
