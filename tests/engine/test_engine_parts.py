"""Weight average, schedules, hooks, writers, evaluation: the small parts of the engine."""

import json
import logging
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import hooks
from detectron2.solver import LRMultiplier
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from torch import nn

from roca_nocs.engine import Trainer
from roca_nocs.engine.checkpoint import Checkpointer
from roca_nocs.engine.ema import build_average, restart_average
from roca_nocs.engine.evaluate import evaluate
from roca_nocs.engine.hooks import (
    BestCheckpointHook,
    CheckpointHook,
    EvaluationHook,
    WeightAverageHook,
)
from roca_nocs.engine.schedule import flat_cosine, multi_step
from roca_nocs.engine.writers import WandbWriter, build_writers, drop_rows_from


class Weight(nn.Module):
    """One parameter, used twice, and two buffers; the loss falls with slope 1."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor([value]))
        self.second = self.first
        self.register_buffer("mean", torch.tensor([value]))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        if batch == "fail":
            raise RuntimeError("broken batch")
        return {"loss_weight": -self.first.sum()}


def trainer_with(
    *callbacks: hooks.HookBase, batches: Any = None, model: nn.Module | None = None
) -> Trainer:
    model = model or Weight()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)  # adds 1 in each step
    trainer = Trainer(model, batches or [[0]] * 100, optimizer)
    trainer.register_hooks(list(callbacks))
    return trainer


@pytest.fixture(autouse=True)
def _log_reaches_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("roca_nocs"), "propagate", True)


def test_average_by_hand() -> None:
    model = Weight(1.0)
    average = build_average(model, decay=0.75)
    expected = 1.0
    for value in (5.0, -3.0, 2.0):
        model.first.data.fill_(value)
        model.mean.fill_(value)
        average.update_parameters(model)
        expected = 0.75 * expected + 0.25 * value  # shared tensors: once, not twice
    assert average.module.first.item() == pytest.approx(expected)
    assert average.module.mean.item() == pytest.approx(expected)
    assert average.module.second is average.module.first
    assert not average.module.first.requires_grad


def test_average_hook_follows_the_optimizer() -> None:
    model = Weight()
    average = build_average(model, decay=0.5)
    trainer_with(WeightAverageHook(average), model=model).train(0, 3)
    # Weights 1, 2, 3: ((0 + 1) / 2 + 2) / 2 = 1.25, (1.25 + 3) / 2.
    assert average.module.first.item() == pytest.approx(2.125)


def test_average_is_restarted_and_saved() -> None:
    model = Weight(2.0)
    average = build_average(Weight(0.0), decay=0.9)
    restart_average(average, model)
    assert average.module.first.item() == 2.0
    other = build_average(Weight(0.0), decay=0.9)
    other.load_state_dict(average.state_dict())
    assert other.module.first.item() == 2.0


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_average_with_impossible_decay(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"decay must be in \[0, 1\), got {decay}"):
        build_average(Weight(), decay)


def rates(schedule: Any, max_iter: int) -> list[float]:
    """Learning rate of each iteration with base rate 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    multiplier = LRMultiplier(optimizer, schedule, max_iter)
    found = []
    for _ in range(max_iter):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        multiplier.step()
    return found


def test_flat_cosine_by_hand() -> None:
    found = rates(flat_cosine(100, warmup=10, flat=0.6, final=0.2), 100)
    expected = [0.001 + 0.999 * k / 10 for k in range(10)] + [1.0] * 50
    assert found[:60] == pytest.approx(expected)
    cosine = [0.2 + 0.8 * (1 + math.cos(math.pi * k / 40)) / 2 for k in range(40)]
    assert found[60:] == pytest.approx(cosine)


def test_multi_step_by_hand() -> None:
    found = rates(multi_step(10, milestones=[6, 8], warmup=2), 10)
    assert found == pytest.approx([0.001, 0.5005, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert rates(multi_step(4, milestones=[], warmup=0), 4) == [1.0] * 4


@pytest.mark.parametrize("milestones", [[5, 3], [0, 3], [3, 10]])
def test_multi_step_with_wrong_milestones(milestones: list[int]) -> None:
    with pytest.raises(ValueError, match="milestones must ascend between 0 and 10"):
        multi_step(10, milestones=milestones)


def test_schedule_of_a_short_training() -> None:
    assert all(math.isfinite(rate) for rate in rates(flat_cosine(5, warmup=40), 5))


def checkpointing(folder: Path, **options: Any) -> Callable[..., Trainer]:
    def build(*callbacks: hooks.HookBase, **arguments: Any) -> Trainer:
        trainer = trainer_with(*callbacks, **arguments)
        checkpointer = Checkpointer(trainer.model, str(folder), trainer=trainer)
        trainer.register_hooks([CheckpointHook(checkpointer, **options)])
        trainer.checkpointer = checkpointer
        return trainer

    return build


def test_checkpoint_hook_keeps_the_newest(tmp_path: Path) -> None:
    build = checkpointing(tmp_path, period=2, max_to_keep=2)
    build().train(0, 7)
    names = {"model_0000003.pth", "model_0000005.pth", "model_final.pth", "last_checkpoint"}
    assert {path.name for path in tmp_path.iterdir()} == names
    resumed = build()
    loaded = resumed.checkpointer.load(str(tmp_path / "model_0000005.pth"))
    assert len(loaded["random_states"]) == 1
    resumed.train(loaded["iteration"] + 1, 9)
    # Files of the first run are counted too.
    assert {path.name for path in tmp_path.glob("model_0*")} == {
        "model_0000005.pth",
        "model_0000007.pth",
    }
    assert resumed.model.first.item() == 9


def test_failure_in_the_last_iteration_saves_and_evaluates_nothing(tmp_path: Path) -> None:
    evaluations = []
    trainer = checkpointing(tmp_path, period=2)(
        EvaluationHook(0, lambda: evaluations.append(1)),
        batches=[[0], [0], [0], "fail"],
    )
    best = BestCheckpointHook(trainer.checkpointer, "bbox/AP", maximize=True)
    trainer.register_hooks([best])
    with pytest.raises(RuntimeError, match="broken batch"):
        trainer.train(0, 4)
    assert not evaluations
    assert {path.name for path in tmp_path.iterdir()} == {"model_0000001.pth", "last_checkpoint"}


def best_run(
    folder: Path, values: list[float], start: int = 0, *, maximize: bool = True
) -> dict[str, Any]:
    """Evaluations with these results after each iteration; the content of the best file."""
    results = iter(values)
    trainer = trainer_with(
        EvaluationHook(1, lambda: {"bbox": {"AP": next(results)}}), model=Weight(float(start))
    )
    checkpointer = Checkpointer(trainer.model, str(folder))
    trainer.register_hooks([BestCheckpointHook(checkpointer, "bbox/AP", maximize=maximize)])
    trainer.train(start, start + len(values))
    return torch.load(folder / "model_best.pth", weights_only=True)


def test_best_checkpoint(tmp_path: Path) -> None:
    found = best_run(tmp_path, [math.nan, 3.0, 5.0, 5.0, math.nan, 4.0])
    assert found["best"] == {"metric": "bbox/AP", "value": 5.0, "iteration": 2}
    assert found["model"]["first"].item() == 3  # weights after iteration 2
    assert not (tmp_path / "last_checkpoint").exists()
    # A resumed training compares with the best of the whole run, a new one does not.
    assert best_run(tmp_path, [4.5], start=6)["best"]["value"] == 5.0
    assert best_run(tmp_path, [5.5], start=6)["best"]["iteration"] == 7
    assert best_run(tmp_path, [1.0])["best"]["value"] == 1.0


def test_best_checkpoint_with_smallest_value(tmp_path: Path) -> None:
    assert best_run(tmp_path, [2.0, 1.0, 3.0], maximize=False)["best"]["value"] == 1.0


def test_damaged_best_checkpoint_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model_best.pth").write_bytes(b"half")
    assert best_run(tmp_path, [4.0], start=3)["best"]["value"] == 4.0
    assert "model_best.pth is ignored" in caplog.text


def test_best_checkpoint_of_unknown_metric(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_with(EvaluationHook(0, lambda: {"bbox": {"AP": 1.0}}))
    checkpointer = Checkpointer(trainer.model, str(tmp_path))
    trainer.register_hooks([BestCheckpointHook(checkpointer, "segm/AP", maximize=True)])
    trainer.train(0, 1)
    assert "No evaluation gave 'segm/AP'" in caplog.text and "bbox/AP" in caplog.text
    assert not list(tmp_path.iterdir())


def test_rows_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.json"
    rows = [json.dumps({"iteration": i, "loss": 1.0}) + "\n" for i in range(4)]
    metrics.write_text("".join(rows) + '{"iteration": 4, "lo')
    drop_rows_from(metrics, 3)
    assert metrics.read_text() == "".join(rows[:3])
    drop_rows_from(tmp_path / "none.json", 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.json"]


def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Install a module that records what is sent."""
    sent: list[Any] = []
    run = types.SimpleNamespace(
        id="abc",
        log=lambda values, step: sent.append((step, values)),
        finish=lambda: sent.append("finish"),
    )
    module = types.ModuleType("wandb")
    module.init = lambda **arguments: sent.append(arguments) or run
    monkeypatch.setitem(sys.modules, "wandb", module)
    return sent


def test_wandb_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = fake_wandb(monkeypatch)
    writers = build_writers(str(tmp_path), 10, 0, {"project": "p", "name": None})
    writer = writers[-1]
    assert isinstance(writer, WandbWriter)
    with EventStorage() as storage:
        storage.put_scalar("loss", 2.0)
        writer.write()
        storage.iter = 1
        storage.put_scalar("loss", 4.0)
        writer.write()
        writer.write()  # nothing new
    for each in writers:
        each.close()
    assert sent[0]["id"] is None and sent[0]["project"] == "p"
    assert sent[1:] == [(0, {"loss": 2.0}), (1, {"loss": 3.0}), "finish"]  # median of 2 and 4
    WandbWriter(str(tmp_path), project="p")
    assert sent[-1]["id"] == "abc"  # the same run goes on


def test_wandb_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install 'roca_nocs\[log\]'"):
        WandbWriter(str(tmp_path), project="p")


def test_evaluation_is_optional(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert evaluate(OmegaConf.create(), {"": Weight()}, output_dir=str(tmp_path)) == {}
    assert "No evaluation: dataloader.test or dataloader.evaluator is missing" in caplog.text
