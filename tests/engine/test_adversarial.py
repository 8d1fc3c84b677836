"""Adversarial training: who trains what, in parts, in mixed precision, in several processes."""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import create_ddp_model, hooks
from detectron2.solver import get_default_optimizer_params
from detectron2.utils import comm
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import nn

from modeling.nocs_gan.tiny_nocs import disc_targets
from roca_nocs.engine.adversarial import (
    AdversarialTrainer,
    discriminator_parameters,
    generator_parameters,
)
from roca_nocs.engine.ema import build_average
from roca_nocs.engine.hooks import WeightAverageHook
from roca_nocs.engine.launch import argument_parser, start
from roca_nocs.modeling.nocs_gan.critique import Critique
from roca_nocs.modeling.nocs_gan.discriminators import ConvDiscriminator, PerClassDiscriminators
from roca_nocs.modeling.nocs_gan.objectives import BinaryCrossEntropy, Wasserstein
from roca_nocs.modeling.roi_heads.nocs_targets import NocsTargets

SIZE = 24


class Generator(nn.Module):
    """A map of coordinates from each of the numbers that it is called with."""

    def __init__(self, objective: BinaryCrossEntropy | Wasserstein, *, per_class: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        networks = [ConvDiscriminator(features=2, batch_norm=False) for _ in range(3)]
        discriminator = PerClassDiscriminators(networks) if per_class else networks[0]
        self.nocs = nn.Linear(2, 3 * SIZE * SIZE)
        self.critique = Critique(discriminator=discriminator, objective=objective)
        self.all_targets = disc_targets(64, size=SIZE)

    def forward(self, batch: Sequence[int]) -> dict[str, torch.Tensor]:
        rows = torch.tensor([*batch])
        angles = rows[:, None] * torch.tensor([1.0, 0.3])
        maps = self.nocs(angles.sin()).sigmoid().unflatten(1, (3, SIZE, SIZE))
        targets = NocsTargets(**{k: v[rows] for k, v in vars(self.all_targets).items()})
        supervised = (maps - targets.coordinates).abs() * targets.labelled[:, None, None, None]
        return {"loss_nocs": supervised.mean()} | self.critique(maps, targets)


class Numbers:
    """Batches of six numbers; rank r of n gets its part of each."""

    def __init__(self, first: int = 0, rows: Sequence[int] = range(6)) -> None:
        self.first, self.rows = first, rows

    def __iter__(self) -> Any:
        size = len(self.rows) // comm.get_world_size()
        mine = self.rows[size * comm.get_rank() : size * (comm.get_rank() + 1)]
        for step in range(self.first, 9):
            yield [6 * step + row for row in mine]


def build(
    objective: BinaryCrossEntropy | Wasserstein | None = None,
    *,
    per_class: bool = False,
    loader: Any = None,
    distributed: bool = False,
    **options: Any,
) -> AdversarialTrainer:
    model = Generator(objective or BinaryCrossEntropy(), per_class=per_class)
    rate = 1e-2
    optimizer = torch.optim.SGD(get_default_optimizer_params(model), lr=rate)
    own = torch.optim.RMSprop(discriminator_parameters(model), lr=1e-3)
    if distributed:
        model = create_ddp_model(model, device_ids=None)
    return AdversarialTrainer(
        model, loader or Numbers(), optimizer, discriminator_optimizer=own, **options
    )


def vector(parameters: Any) -> torch.Tensor:
    return nn.utils.parameters_to_vector(parameters).detach().clone()


def discriminator_of(trainer: AdversarialTrainer) -> torch.Tensor:
    return vector(trainer.critique.discriminator.parameters())


def generator_of(trainer: AdversarialTrainer) -> torch.Tensor:
    model = trainer.model
    model = model.module if hasattr(model, "module") else model
    return vector(model.nocs.parameters())


def parameters_of(optimizer: torch.optim.Optimizer) -> set[nn.Parameter]:
    return {p for group in optimizer.param_groups for p in group["params"]}


def test_parameters_never_mix() -> None:
    trainer = build()
    model = trainer.model
    own = set(model.critique.parameters())
    expected = {p for name, p in model.named_parameters() if "critique" not in name}
    for _ in range(2):  # before and after training
        assert parameters_of(trainer.optimizer) == expected
        assert parameters_of(trainer.discriminator_optimizer) == own
        # Whatever is built from the model's trainable parameters leaves them out as well.
        groups = get_default_optimizer_params(model)
        assert {p for group in groups for p in group["params"]} == expected
        groups = generator_parameters(model, adversarial="nocs.", betas=(0.5, 0.99))
        assert {p for group in groups for p in group["params"]} == expected
        trainer.train(0, 2)


def test_each_optimizer_moves_its_own() -> None:
    trainer = build()
    before = generator_of(trainer), discriminator_of(trainer)
    trainer.optimizer.param_groups[0]["lr"] = 0.0
    trainer.train(0, 1)
    assert torch.equal(generator_of(trainer), before[0])
    assert not torch.equal(discriminator_of(trainer), before[1])

    trainer = build()
    trainer.discriminator_optimizer.param_groups[0]["lr"] = 0.0
    trainer.train(0, 1)
    assert not torch.equal(generator_of(trainer), before[0])
    assert torch.equal(discriminator_of(trainer), before[1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("all", "6 parameters of the discriminator are in the model's optimizer"),
        ("foreign", "2 parameters in the discriminator's optimizer are not the discriminator's"),
        ("missing", "5 parameters of the discriminator are in no optimizer"),
    ],
)
def test_wrong_division_of_the_parameters(changed: str, message: str) -> None:
    model = Generator(BinaryCrossEntropy(), per_class=False)
    own = discriminator_parameters(model)
    others = [*model.nocs.parameters()]
    optimizer = torch.optim.SGD(others + own if changed == "all" else others)
    parameters = {"all": own, "foreign": own + others, "missing": own[:1]}[changed]
    with pytest.raises(ValueError, match=message):
        AdversarialTrainer(
            model, [], optimizer, discriminator_optimizer=torch.optim.SGD(parameters)
        )


def test_other_mistakes() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="needs a model with one Critique, this one has 0"):
        discriminator_parameters(model)
    with pytest.raises(ValueError, match="steps_per_batch must be at least 1, got 0"):
        build(steps_per_batch=0)


def test_betas_of_the_adversarial_part() -> None:
    model = Generator(BinaryCrossEntropy(), per_class=False)
    model.backbone = nn.Linear(3, 3)
    groups = generator_parameters(model, adversarial="nocs.", betas=[0.5, 0.99])
    optimizer = torch.optim.Adam(groups, lr=1e-4, betas=(0.9, 0.99))
    betas = {p: g["betas"] for g in optimizer.param_groups for p in g["params"]}
    assert betas[model.nocs.weight] == (0.5, 0.99)
    assert betas[model.backbone.weight] == (0.9, 0.99)
    assert len(betas) == 4


def test_logged_values_are_those_of_the_steps() -> None:
    trainer = build()
    expected = copy.deepcopy(trainer.critique)
    trainer.train(0, 1)
    batch = _batch(trainer)
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    losses, accuracies = next(expected.objective.updates(expected.discriminator, batch))
    assert latest["discriminator/loss_real"] == pytest.approx(losses["loss_real"].item(), rel=1e-5)
    assert latest["discriminator/real_accuracy"] == accuracies["real_accuracy"].item()
    assert 0 <= latest["discriminator/fake_accuracy"] <= 1
    assert latest["discriminator/loss_fake"] > 0 and latest["discriminator/grad_norm"] > 0
    # Two of three regions have labels.
    counts = [latest[f"discriminator/regions_{name}"] for name in ("real", "fake")]
    assert counts == [4, 6]
    assert latest["total_loss"] == pytest.approx(latest["loss_nocs"] + latest["loss_nocs_critique"])


def _batch(trainer: AdversarialTrainer) -> Any:
    """The first batch, from a model that has not been trained."""
    model = Generator(trainer.critique.objective, per_class=False)
    model(range(6))
    return model.critique.take_batch()


def test_more_steps_are_more_updates() -> None:
    first, second = build(), build(steps_per_batch=3)
    for trainer in (first, second):
        trainer.train(0, 2)
    steps = [t.discriminator_optimizer.state_dict()["state"][0]["step"] for t in (first, second)]
    assert [int(step) for step in steps] == [4, 12]  # one on real, one on predicted maps each


def test_schedule_and_clipping_of_the_discriminator() -> None:
    trainer = build(
        discriminator_schedule=LinearParamScheduler(1.0, 0.0), discriminator_clip_norm=1e-3
    )
    rates, norms = [], []
    parameters = discriminator_parameters(trainer.model)

    def record(trainer: Any) -> None:
        rates.append(trainer.discriminator_optimizer.param_groups[0]["lr"])
        gradients = [p.grad.norm() for p in parameters]
        norms.append(torch.stack(gradients).norm().item())

    trainer.register_hooks([hooks.CallbackHook(after_step=record)])
    trainer.train(0, 4)
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    assert norms == pytest.approx([1e-3] * 4, rel=1e-3)
    assert trainer.storage.latest()["discriminator/grad_norm"][0] > 1e-2  # before clipping


@pytest.mark.parametrize("per_class", [False, True])
def test_accumulation_equals_the_whole_batch(per_class: bool) -> None:
    whole = build(per_class=per_class)
    parts = build(per_class=per_class, accumulation_steps=2)
    for trainer in (whole, parts):
        trainer.train(0, 3)
    torch.testing.assert_close(discriminator_of(parts), discriminator_of(whole))
    torch.testing.assert_close(generator_of(parts), generator_of(whole))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("objective", [BinaryCrossEntropy(), Wasserstein()])
def test_mixed_precision(dtype: torch.dtype, objective: Any) -> None:
    mixed, exact = build(objective, autocast_dtype=dtype), build(objective)
    if dtype == torch.float16:
        mixed.grad_scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    start = discriminator_of(exact)
    for trainer in (mixed, exact):
        torch.manual_seed(2)
        trainer.train(0, 3)
    assert {p.dtype for p in mixed.critique.parameters()} == {torch.float32}
    # The maps agree to the precision of the type; RMSprop's first steps are signs of gradients.
    steps = [discriminator_of(trainer) - start for trainer in (mixed, exact)]
    assert torch.cosine_similarity(*steps, dim=0) > 0.95


def test_no_labels_no_step() -> None:
    """Maps without a single real one would only teach that nothing is real."""
    trainer = build(loader=[[2, 5], [2, 8]])
    before = discriminator_of(trainer)
    trainer.train(0, 2)
    assert torch.equal(discriminator_of(trainer), before)
    assert trainer.storage.latest()["discriminator/regions_real"] == (0, 1)
    assert trainer.storage.latest()["discriminator/regions_fake"] == (2, 1)
    assert "discriminator/loss_real" not in trainer.storage.latest()


def test_classes_that_do_not_occur_stay() -> None:
    trainer = build(Wasserstein(), per_class=True, loader=[[0, 1, 3, 2, 5]])
    networks = trainer.critique.discriminator.discriminators
    before = [vector(network.parameters()) for network in networks]
    trainer.train(0, 1)
    moved = [
        not torch.equal(old, vector(network.parameters()))
        for old, network in zip(before, networks, strict=True)
    ]
    assert moved == [True, True, False]  # class 2 has predicted maps only


def test_average_of_the_weights_follows_the_model() -> None:
    trainer = build()
    average = build_average(trainer.model, 0.5)
    start = generator_of(trainer)
    trainer.register_hooks([WeightAverageHook(average)])
    trainer.train(0, 1)
    expected = (start + generator_of(trainer)) / 2
    torch.testing.assert_close(vector(average.module.nocs.parameters()), expected)


def test_pictures_of_real_above_predicted_maps() -> None:
    trainer = build(picture_period=2)
    trainer.train(0, 3)
    pictures = trainer.storage._vis_data
    assert [(name, at) for name, _, at in pictures] == [
        ("discriminator/real_above_fake", 0),
        ("discriminator/real_above_fake", 2),
    ]
    assert pictures[0][1].shape == (3, 2 * SIZE, 4 * SIZE)
    batch = _batch(trainer)
    assert torch.equal(pictures[0][1][:, :SIZE, :SIZE], batch.real[0])
    assert torch.equal(pictures[0][1][:, SIZE:, :SIZE], batch.fake[0])


def test_discriminator_that_diverges_stops_the_training() -> None:
    trainer = build()
    with torch.no_grad():
        trainer.critique.discriminator.model[-1].bias.fill_(math.inf)
    trainer.critique.objective.generator_loss = lambda scores: torch.zeros(())
    before = discriminator_of(trainer)
    with pytest.raises(FloatingPointError, match=r"iteration 0: .*discriminator/loss_.* is inf"):
        trainer.train(0, 3)
    changed = (discriminator_of(trainer) - before).abs()
    assert not changed.nan_to_num().any()  # the optimizer did not run


@pytest.mark.parametrize(
    "objective", [BinaryCrossEntropy(), Wasserstein()], ids=["cross_entropy", "wasserstein"]
)
@pytest.mark.parametrize("per_class", [False, True])
def test_state_is_complete(objective: Any, per_class: bool) -> None:
    """A trainer with the state of another goes on exactly like it."""
    options = dict(
        per_class=per_class,
        discriminator_schedule=LinearParamScheduler(1.0, 0.1),
        autocast_dtype=torch.float16,
    )
    straight = build(objective, **options)
    saved: dict[str, Any] = {}

    def save(trainer: Any) -> None:
        if trainer.iter == 3:
            saved["trainer"] = copy.deepcopy(trainer.state_dict())
            saved["model"] = copy.deepcopy(trainer.model.state_dict())
            saved["random"] = torch.get_rng_state()

    straight.register_hooks([hooks.CallbackHook(after_step=save)])
    straight.train(0, 8)

    resumed = build(objective, loader=Numbers(4), **options)
    resumed.model.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["trainer"])
    torch.set_rng_state(saved["random"])
    resumed.train(4, 8)
    assert torch.equal(discriminator_of(resumed), discriminator_of(straight))
    assert torch.equal(generator_of(resumed), generator_of(straight))
    ours, theirs = (
        {k: v for k, v in t.storage.latest().items() if k not in ("data_time", "rank_data_time")}
        for t in (resumed, straight)
    )
    assert ours == theirs and ours["discriminator/loss_real"][1] == 7


def in_two_processes(args: argparse.Namespace) -> None:
    """Two trainings; reports the weights of both parts."""
    torch.set_num_threads(1)
    results = []
    for rows, objective, iterations in _two_process_cases():
        trainer = build(objective, loader=Numbers(rows=rows), distributed=True)
        trainer.train(0, iterations)
        results.append((generator_of(trainer), discriminator_of(trainer)))
    torch.save(results, args.folder / f"{comm.get_rank()}.pt")


def _two_process_cases() -> list[tuple[Sequence[int], Any, int]]:
    """The same numbers of real maps on both, then labels on the first process alone."""
    clipped = Wasserstein(gradient_penalty=0, weight_clip=0.1)
    return [(range(6), BinaryCrossEntropy(), 3), ([0, 1, 3, 2, 5, 8], clipped, 1)]


def test_two_processes_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    args = argument_parser().parse_args(["--num-gpus", "0", "--num-processes", "2"])
    args.folder = tmp_path
    start(in_two_processes, args)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for ours, theirs in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    trainer = build(BinaryCrossEntropy())
    trainer.train(0, 3)
    generator, discriminator = first[0]
    torch.testing.assert_close(generator, generator_of(trainer), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(discriminator, discriminator_of(trainer), rtol=1e-4, atol=1e-5)

    # A process without labelled regions has no say in the discriminator's step.
    _, objective, _ = _two_process_cases()[1]
    trainer = build(objective, loader=[[0, 1, 3]])
    trainer.train(0, 1)
    torch.testing.assert_close(first[1][1], discriminator_of(trainer), rtol=1e-4, atol=1e-5)
    assert first[1][1].abs().max() <= 0.1
