"""Each hook inside a tiny training run."""

import itertools
import json
import math

import pytest
import torch
from detectron2.checkpoint import Checkpointer
from detectron2.engine import SimpleTrainer, hooks
from detectron2.solver import LRMultiplier
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import nn


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return {"loss": self.weight * x}


def make_trainer(*used_hooks, lr: float = 1.0) -> SimpleTrainer:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    trainer = SimpleTrainer(model, itertools.repeat(torch.tensor(0.0)), optimizer)
    trainer.register_hooks(used_hooks)
    return trainer


def history(trainer: SimpleTrainer, name: str) -> list[tuple[float, int]]:
    return [tuple(entry) for entry in trainer.storage.history(name).values()]


def fail_at(iteration: int) -> hooks.CallbackHook:
    def callback(trainer):
        if trainer.iter == iteration:
            raise RuntimeError("stopped")

    return hooks.CallbackHook(before_step=callback)


# --- CallbackHook, IterationTimer ---------------------------------------------------------


def test_callbacks_get_the_trainer():
    calls = []
    points = ("before_train", "before_step", "after_step", "after_train")
    callbacks = {
        point: (lambda trainer, point=point: calls.append((point, trainer.iter)))
        for point in points
    }
    make_trainer(hooks.CallbackHook(**callbacks)).train(0, 1)
    assert calls == [
        ("before_train", 0),
        ("before_step", 0),
        ("after_step", 0),
        ("after_train", 1),
    ]
    make_trainer(hooks.CallbackHook()).train(0, 1)


@pytest.mark.standalone_only
def test_callbacks_survive_a_second_training():
    calls = []
    trainer = make_trainer(hooks.CallbackHook(after_train=lambda trainer: calls.append(1)))
    trainer.train(0, 1)
    trainer.train(1, 2)
    assert calls == [1, 1]


@pytest.mark.parametrize(("warmup", "first"), [(3, 2), (1, 0)])
def test_timer_skips_the_first_iterations(warmup, first, caplog):
    trainer = make_trainer(hooks.IterationTimer(warmup_iter=warmup))
    with caplog.at_level("INFO"):
        trainer.train(0, 6)
    times = history(trainer, "time")
    assert [iteration for _, iteration in times] == list(range(first, 6))
    assert all(seconds > 0 for seconds, _ in times)
    assert f"Overall training speed: {6 - first} iterations in 0:00:00" in caplog.text
    assert "Total training time: 0:00:00 (0:00:00 on hooks)" in caplog.text


def test_timer_of_a_run_that_is_all_warmup(caplog):
    trainer = make_trainer(hooks.IterationTimer(warmup_iter=3))
    with caplog.at_level("INFO"):
        trainer.train(0, 1)
    assert "time" not in trainer.storage.histories()
    assert "Overall training speed" not in caplog.text
    assert "Total training time" in caplog.text


# --- PeriodicWriter -----------------------------------------------------------------------


def test_writer_period_end_and_evaluation(tmp_path):
    file = tmp_path / "metrics.json"
    trainer = make_trainer(
        hooks.EvalHook(0, lambda: {"metric": 100}),
        hooks.PeriodicWriter([JSONWriter(str(file))], period=4),
    )
    trainer.train(0, 10)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [3, 7, 9, 10]
    assert lines[-1]["metric"] == 100
    assert "total_loss" in lines[0]


def test_printer_logs_each_period(caplog):
    timer = hooks.IterationTimer()
    trainer = make_trainer(timer, hooks.PeriodicWriter([CommonMetricPrinter(6)], period=3))
    with caplog.at_level("INFO", logger="detectron2"):
        trainer.train(0, 6)
    printed = [record.getMessage() for record in caplog.records if "iter: " in record.getMessage()]
    assert len(printed) == 2
    assert "iter: 2 " in printed[0]
    assert "total_loss: 0" in printed[0]


class ListWriter(EventWriter):
    def __init__(self):
        self.written = 0
        self.closed = 0

    def write(self):
        self.written += 1

    def close(self):
        self.closed += 1


def test_writers_are_closed_after_a_failure():
    writer = ListWriter()
    trainer = make_trainer(hooks.PeriodicWriter([writer], period=100), fail_at(2))
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.train(0, 5)
    assert (writer.written, writer.closed) == (1, 1)


def test_writers_must_be_writers():
    with pytest.raises((TypeError, AssertionError)):
        hooks.PeriodicWriter([print])


# --- PeriodicCheckpointer -----------------------------------------------------------------


def test_checkpoint_files(tmp_path):
    trainer = make_trainer()
    checkpointer = Checkpointer(trainer.model, str(tmp_path), trainer=trainer)
    trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, 2, max_to_keep=2)])
    trainer.train(0, 7)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["last_checkpoint", "model_0000003.pth", "model_0000005.pth", "model_final.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    content = torch.load(tmp_path / "model_0000005.pth")
    assert content["iteration"] == content["trainer"]["iteration"] == 5


# --- LRScheduler --------------------------------------------------------------------------


def test_param_scheduler_runs_over_the_whole_training():
    trainer = make_trainer(hooks.LRScheduler(scheduler=LinearParamScheduler(1.0, 0.0)), lr=8.0)
    trainer.train(0, 4)
    assert [lr for lr, _ in history(trainer, "lr")] == pytest.approx([8.0, 6.0, 4.0, 2.0])


def test_optimizer_and_scheduler_of_the_trainer():
    trainer = make_trainer(hooks.LRScheduler(), lr=8.0)
    trainer.scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 2)
    trainer.train(0, 4)
    assert [lr for lr, _ in history(trainer, "lr")] == pytest.approx([8.0, 8.0, 0.8, 0.8])


def make_checkpointed(tmp_path, scheduler_of, lr):
    tmp_path.mkdir(exist_ok=True)
    trainer = make_trainer(lr=lr)
    hook = hooks.LRScheduler(scheduler=scheduler_of(trainer.optimizer))
    checkpointer = Checkpointer(trainer.model, str(tmp_path), trainer=trainer)
    trainer.register_hooks([hook, hooks.PeriodicCheckpointer(checkpointer, 3)])
    return trainer, checkpointer


@pytest.mark.parametrize(
    "scheduler_of",
    [
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2),
        lambda optimizer: LRMultiplier(optimizer, LinearParamScheduler(1.0, 0.0), 6),
        lambda optimizer: LinearParamScheduler(1.0, 0.0),
    ],
    ids=["torch", "multiplier", "param_scheduler"],
)
def test_resumed_training_has_the_same_rates(tmp_path, scheduler_of):
    whole, _ = make_checkpointed(tmp_path / "whole", scheduler_of, 8.0)
    whole.train(0, 6)
    expected = [lr for lr, _ in history(whole, "lr")]

    class Stop(hooks.HookBase):
        def after_step(self):
            if self.trainer.iter == 2:
                raise KeyboardInterrupt

    stopped, _ = make_checkpointed(tmp_path, scheduler_of, 8.0)
    stopped.register_hooks([Stop()])
    with pytest.raises(KeyboardInterrupt):
        stopped.train(0, 6)

    resumed, checkpointer = make_checkpointed(tmp_path, scheduler_of, 999.0)
    checkpointer.resume_or_load("", resume=True)
    assert resumed.iter == 2  # the last finished iteration
    resumed.train(resumed.iter + 1, 6)
    assert [lr for lr, _ in history(resumed, "lr")] == pytest.approx(expected[3:])


def groups(*sizes_and_rates):
    return torch.optim.SGD(
        [
            {"params": [nn.Parameter(torch.zeros(1)) for _ in range(size)], "lr": lr}
            for size, lr in sizes_and_rates
        ]
    )


@pytest.mark.parametrize(
    ("sizes_and_rates", "expected"),
    [
        ([(1, 0.1), (3, 0.2), (3, 0.3)], 1),
        ([(1, 0.1), (1, 0.2), (1, 0.2)], 1),
        ([(1, 0.1), (1, 0.2)], 0),
        ([(5, 0.7)], 0),
    ],
)
def test_logged_group(sizes_and_rates, expected):
    optimizer = groups(*sizes_and_rates)
    assert hooks.LRScheduler.get_best_param_group_id(optimizer) == expected


# --- EvalHook -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_iter", "period", "after_train", "expected"),
    [
        (6, 3, True, [2, 6]),  # the second one belongs to the end
        (7, 3, True, [2, 5, 7]),
        (4, 0, True, [4]),
        (7, 3, False, [2, 5]),
        (6, 3, False, [2]),
        (4, 0, False, []),
    ],
)
def test_evaluation_times(num_iter, period, after_train, expected):
    times = []
    trainer = make_trainer()
    hook = hooks.EvalHook(period, lambda: times.append(trainer.iter), after_train)
    trainer.register_hooks([hook])
    trainer.train(0, num_iter)
    assert times == expected


def test_no_evaluation_after_a_failure():
    times = []
    trainer = make_trainer(hooks.EvalHook(0, lambda: times.append(1)), fail_at(2))
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.train(0, 5)
    assert times == []


@pytest.mark.standalone_only
def test_no_evaluation_after_a_failure_in_the_last_iteration():
    times = []
    trainer = make_trainer(hooks.EvalHook(0, lambda: times.append(1)), fail_at(4))
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.train(0, 5)
    assert times == []


@pytest.mark.standalone_only
def test_evaluation_survives_a_second_training():
    times = []
    trainer = make_trainer(hooks.EvalHook(0, lambda: times.append(1)))
    trainer.train(0, 1)
    trainer.train(1, 2)
    assert times == [1, 1]


def test_results_are_flattened_and_not_smoothed():
    results = {"bbox": {"AP": 12.5, "AP50": torch.tensor(20.0)}, "speed": 3}
    trainer = make_trainer(hooks.EvalHook(2, lambda: results))
    trainer.train(0, 3)
    assert history(trainer, "bbox/AP") == [(12.5, 1), (12.5, 3)]
    assert history(trainer, "bbox/AP50") == [(20.0, 1), (20.0, 3)]
    assert history(trainer, "speed") == [(3.0, 1), (3.0, 3)]
    assert trainer.storage.smoothing_hints()["bbox/AP"] is False


@pytest.mark.parametrize("results", [{"a": {"b": "many"}}, {"a": [1.0, 2.0]}, {"a": None}])
def test_results_must_be_numbers(results):
    trainer = make_trainer(hooks.EvalHook(0, lambda: results))
    with pytest.raises(ValueError, match=r"nested dict of float. Got 'a"):
        trainer.train(0, 1)


def test_results_must_be_a_dictionary():
    trainer = make_trainer(hooks.EvalHook(0, lambda: [1.0]))
    with pytest.raises((TypeError, AssertionError), match="must return a dict"):
        trainer.train(0, 1)


# --- BestCheckpointer ---------------------------------------------------------------------


class Saves:
    """Stands in for a checkpointer."""

    def __init__(self):
        self.saved = []

    def save(self, name, **state):
        self.saved.append((name, state["iteration"]))


def run_best(values, *, period=2, num_iter=8, metric="acc", **options):
    values = iter(values)
    checkpointer = Saves()
    best = hooks.BestCheckpointer(period, checkpointer, "acc", **options)
    make_trainer(hooks.EvalHook(period, lambda: {metric: next(values)}), best).train(0, num_iter)
    return checkpointer.saved, best


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([0.3, 0.4, 0.35, 0.5], {}, [1, 3, 8]),
        ([0.3, 0.3, 0.3, 0.3], {}, [1]),
        ([1.0, 0.8, 0.9, 0.9], {"mode": "min"}, [1, 3]),
        ([math.nan, 0.8, math.nan, 0.9], {}, [3, 8]),
        ([math.nan] * 4, {}, []),
    ],
)
def test_only_improvements_are_saved(values, options, expected):
    saved, _ = run_best(values, **options)
    assert [iteration for _, iteration in saved] == expected
    assert {name for name, _ in saved} <= {"model_best"}


def test_best_value_and_file_name():
    saved, best = run_best([0.3, 0.4, 0.2, 0.1], file_prefix="champion")
    assert saved == [("champion", 1), ("champion", 3)]
    assert (best.best_metric, best.best_iter) == (0.4, 3)


@pytest.mark.standalone_only
def test_infinite_metric_is_not_saved():
    saved, best = run_best([0.3, math.inf, 0.4, 0.2])
    assert [iteration for _, iteration in saved] == [1, 5]
    assert best.best_metric == 0.4


def test_missing_metric_is_reported(caplog):
    saved, _ = run_best([0.1] * 4, metric="other")
    assert saved == []
    assert "Given val metric acc does not seem to be computed/stored" in caplog.text


def test_unknown_mode():
    with pytest.raises((ValueError, AssertionError), match="largest"):
        hooks.BestCheckpointer(1, Saves(), "acc", mode="largest")
