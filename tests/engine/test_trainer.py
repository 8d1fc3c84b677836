"""The training step on hand-made models: precision, accumulation, clipping, NaN, state."""

import argparse
import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from detectron2.engine import create_ddp_model, hooks
from detectron2.utils import comm
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import nn

from roca_nocs.engine import Trainer
from roca_nocs.engine.launch import argument_parser, start


class Line(nn.Module):
    """Loss of a batch of numbers: mean of ``scale * weight * x``, its gradient is known."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))
        self.scale = scale

    def forward(self, batch: Sequence[float]) -> dict[str, torch.Tensor]:
        return {"loss_line": (self.weight * torch.tensor(batch)).mean() * self.scale}


class Network(nn.Module):
    """Two layers on vectors, without anything that depends on the batch."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.dtypes: set[torch.dtype] = set()

    def forward(self, batch: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        output = self.layers(torch.stack([*batch]))
        self.dtypes.add(output.dtype)
        return {"loss_square": output.square().mean(), "loss_abs": output.abs().mean()}


class Batches:
    """Ten batches of vectors; rank r of n gets its part of each."""

    def __init__(self, size: int = 4) -> None:
        generator = torch.Generator().manual_seed(1)
        self.data = torch.randn(10, size, 3, generator=generator)

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        for batch in self.data.chunk(comm.get_world_size(), dim=1)[comm.get_rank()]:
            yield [*batch]


def train(
    model: nn.Module, batches: Any, steps: int = 1, lr: float = 0.1, **options: Any
) -> Trainer:
    optimizer = torch.optim.SGD([p for p in model.parameters()], lr=lr)
    trainer = Trainer(model, batches, optimizer, **options)
    trainer.train(0, steps)
    return trainer


def weights(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def test_one_step_by_hand() -> None:
    model = Line()
    trainer = train(model, [[1.0, 3.0]])
    # Gradient mean(1, 3) = 2, step 0.1 * 2.
    assert model.weight.item() == pytest.approx(0.8)
    assert trainer.storage.latest()["total_loss"][0] == pytest.approx(2.0)
    assert trainer.storage.latest()["grad_norm"][0] == pytest.approx(2.0)


def test_single_tensor_as_loss() -> None:
    class Bare(Line):
        def forward(self, batch: Sequence[float]) -> torch.Tensor:
            return super().forward(batch)["loss_line"]

    trainer = train(Bare(), [[2.0]])
    assert trainer.storage.latest()["total_loss"][0] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"clip_norm": 0.5}, 1 - 0.1 * 0.5),
        ({"clip_norm": 50.0}, 1 - 0.1 * 2.0),
        ({"clip_norm": 0.5, "clip_norm_per_parameter": True}, 1 - 0.1 * 0.5),
        ({"clip_value": 0.25}, 1 - 0.1 * 0.25),
    ],
)
def test_clipping_by_hand(options: dict[str, float], expected: float) -> None:
    model = Line()
    trainer = train(model, [[1.0, 3.0]], **options)
    assert model.weight.item() == pytest.approx(expected, rel=1e-5)
    # What is logged is the norm before clipping.
    assert trainer.storage.latest()["grad_norm"][0] == pytest.approx(2.0)


def test_clipping_each_parameter_by_itself() -> None:
    model = torch.nn.Module()
    model.large, model.small = (torch.nn.Parameter(torch.tensor([1.0])) for _ in range(2))
    model.forward = lambda batch: 3 * model.large.sum() + 0.5 * model.small.sum()
    train(model, [[0.0]], clip_norm=1.0, clip_norm_per_parameter=True)
    assert model.large.item() == pytest.approx(1 - 0.1 * 1.0, rel=1e-5)
    assert model.small.item() == pytest.approx(1 - 0.1 * 0.5, rel=1e-5)


@pytest.mark.parametrize("steps", [2, 4])
def test_accumulation_equals_the_whole_batch(steps: int) -> None:
    whole, parts = Network(), Network()
    first = train(whole, Batches(), 5)
    second = train(parts, Batches(), 5, accumulation_steps=steps)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-6, atol=1e-7)
    for name in ("total_loss", "loss_abs"):
        expected = first.storage.latest()[name][0]
        assert second.storage.latest()[name][0] == pytest.approx(expected, rel=1e-5)


def test_accumulation_must_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="accumulation_steps=3 must divide the 4 images"):
        train(Network(), Batches(), accumulation_steps=3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_on_cpu(dtype: torch.dtype) -> None:
    model, exact = Network(), Network()
    start = weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    trainer = Trainer(model, Batches(), optimizer, autocast_dtype=dtype)
    if dtype == torch.float16:
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=64.0)  # leaves out no step
    trainer.train(0, 3)
    train(exact, Batches(), 3, lr=0.01)
    assert model.dtypes == {dtype} and exact.dtypes == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    # The steps agree to the precision of the type (8 bits for bfloat16) within a margin.
    step = weights(exact) - start
    torch.testing.assert_close(weights(model) - start, step, rtol=0.1, atol=0.05 * step.abs().max())
    assert ("grad_scaler" in trainer.state_dict()) == (dtype == torch.float16)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_mixed_precision_on_gpu(dtype: torch.dtype | None) -> None:
    class OnGpu(Network):
        def forward(self, batch: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
            return super().forward([x.cuda() for x in batch])

    model, exact = OnGpu().cuda(), Network()
    train(model, Batches(), 3, lr=0.01, autocast_dtype=dtype)
    train(exact, Batches(), 3, lr=0.01)
    assert model.dtypes == {dtype or torch.float32}
    tolerance = 1e-5 if dtype is None else 0.05
    torch.testing.assert_close(weights(model).cpu(), weights(exact), rtol=tolerance, atol=tolerance)


def test_overflow_of_half_precision_costs_one_step() -> None:
    model = Line(scale=3.0)
    trainer = Trainer(
        model,
        [[1.0], [1.0]],
        torch.optim.SGD(model.parameters(), lr=0.1),
        autocast_dtype=torch.float16,
    )
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # 3 * 2^127 overflows
    trainer.train(0, 2)
    # The first step is left out and the scale halved; 3 * 2^126 is below the largest float.
    assert model.weight.item() == pytest.approx(1 - 0.1 * 3.0)
    assert trainer.grad_scaler.get_scale() == 2.0**126
    assert trainer.state_dict()["grad_scaler"]["scale"] == 2.0**126


def test_overflow_at_the_smallest_scale_stops() -> None:
    model = Line()
    model.weight.data.zero_()
    model.forward = lambda batch: {"loss_root": model.weight.sqrt().sum()}  # slope 1/0
    # The scale falls from 2^16 to 2^-1 in 17 steps.
    with pytest.raises(FloatingPointError, match="iteration 17: the gradient norm is inf"):
        train(model, [[1.0]] * 40, 40, autocast_dtype=torch.float16)
    assert model.weight.item() == 0


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_loss_that_is_not_finite(value: str) -> None:
    model = Network()
    forward = model.forward

    def fail_third(batch: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        losses = forward(batch)
        model.count = getattr(model, "count", 0) + 1
        if model.count == 3:
            losses["loss_abs"] = losses["loss_abs"] * 0 + float(value)
        return losses

    model.forward = fail_third
    after: list[torch.Tensor] = []
    recorder = hooks.CallbackHook(after_step=lambda _: after.append(weights(model)))
    trainer = Trainer(model, Batches(), torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks([recorder])
    with pytest.raises(
        FloatingPointError, match=rf"diverged at iteration 2: loss_abs is {value} on rank 0"
    ) as caught:
        trainer.train(0, 10)
    assert "loss_square" in str(caught.value)  # the others are shown too
    assert len(after) == 2
    torch.testing.assert_close(weights(model), after[-1], rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"clip_value": 1.0}])
def test_gradient_that_is_not_finite(options: dict[str, float]) -> None:
    model = Line()
    model.weight.data.zero_()
    model.forward = lambda batch: {"loss_root": model.weight.sqrt().sum()}  # slope 1/0
    with pytest.raises(FloatingPointError, match="the gradient norm is inf on rank 0"):
        train(model, [[1.0]], **options)
    assert model.weight.item() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"autocast_dtype": torch.float64}, "float16 or torch.bfloat16, got torch.float64"),
        ({"accumulation_steps": 0}, "at least 1, got 0"),
        ({"clip_norm": 1.0, "clip_value": 2.0}, "not both: clip_norm=1.0, clip_value=2.0"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(Line(), [[1.0]], **options)


def test_state_is_complete() -> None:
    """A trainer with the state of another goes on exactly like it."""

    def build(model: nn.Module) -> Trainer:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        trainer = Trainer(model, Batches(), optimizer, autocast_dtype=torch.float16)
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
        trainer.register_hooks([hooks.LRScheduler(scheduler=LinearParamScheduler(1.0, 0.1))])
        return trainer

    straight = build(Network())
    saved: dict[str, Any] = {}

    def save(trainer: Trainer) -> None:
        if trainer.iter == 4:
            saved.update(copy.deepcopy(trainer.state_dict()), model=copy.deepcopy(trainer.model))

    straight.register_hooks([hooks.CallbackHook(after_step=save)])
    straight.train(0, 10)

    resumed = build(saved.pop("model"))
    resumed.load_state_dict(saved)
    resumed.data_loader = Batches().data[5:]
    assert resumed.iter == 4
    resumed.train(5, 10)
    torch.testing.assert_close(weights(resumed.model), weights(straight.model), rtol=0, atol=0)
    assert resumed.grad_scaler.state_dict() == straight.grad_scaler.state_dict()


def in_two_processes(args: argparse.Namespace) -> None:
    """Train, then train with a NaN on rank 1; reports weights and the error."""
    torch.set_num_threads(1)
    model = Network()
    train(create_ddp_model(model, device_ids=None), Batches(), 5, accumulation_steps=2)

    failing = Network()
    if comm.get_rank() == 1:
        forward = failing.forward
        failing.forward = lambda batch: (
            forward(batch) | {"loss_abs": failing.layers[0].weight.sum() * math.nan}
        )
    message = "no error"
    try:
        train(create_ddp_model(failing, device_ids=None), Batches(), 5)
    except FloatingPointError as error:
        message = str(error)
    args.queue.put((weights(model).tolist(), message, weights(failing).tolist()))


def test_two_processes_equal_one_and_stop_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    args = argument_parser().parse_args(["--num-gpus", "0", "--num-processes", "2"])
    args.queue = mp.get_context("spawn").SimpleQueue()
    start(in_two_processes, args)
    expected = Network()
    train(expected, Batches(), 5)
    for _ in range(2):
        found, message, failed = args.queue.get()
        torch.testing.assert_close(torch.tensor(found), weights(expected), rtol=1e-6, atol=1e-6)
        # The rank without a NaN stops too, and neither optimizer ran.
        assert "iteration 0: loss_abs is nan on rank 1. " in message
        torch.testing.assert_close(torch.tensor(failed), weights(Network()), rtol=0, atol=0)
