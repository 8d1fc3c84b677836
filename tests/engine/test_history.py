"""The history of a training: means, evaluation results, files, resuming."""

import csv
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import get_event_storage
from torch import nn

from roca_nocs.engine import Trainer
from roca_nocs.engine import history as history_module
from roca_nocs.engine.checkpoint import Checkpointer
from roca_nocs.engine.history import HistoryLogger, csv_text
from roca_nocs.engine.history_plot import plot_history
from roca_nocs.engine.hooks import CheckpointHook, EvaluationHook

WITHOUT_PICTURE = pytest.mark.usefixtures("quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the picture, which takes longer than all else."""
    monkeypatch.setattr(history_module, "plot_history", lambda *_: None)


class Line(nn.Module):
    """The loss of iteration i is i; a scalar is 2 i, and NaN in iteration 4."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batch: list[int]) -> dict[str, torch.Tensor]:
        storage = get_event_storage()
        if storage.iter in batch:
            raise RuntimeError("broken batch")
        value = math.nan if storage.iter == 4 else 2.0 * storage.iter
        storage.put_scalar("mono3d/yaw_bin_acc", value)
        return {"loss_z": self.weight.sum() * 0 + float(storage.iter)}


class Rate(HookBase):
    """A learning rate that falls by one in each iteration."""

    def after_step(self) -> None:
        self.trainer.storage.put_scalar("lr", 100.0 - self.trainer.iter, smoothing_hint=False)


class Stop(Exception):
    """What a kill does, without taking pytest along."""


def run(
    folder: Path,
    max_iter: int = 10,
    *,
    resume: bool = False,
    period: int = 4,
    eval_period: int = 4,
    evaluate: Callable[[int], Any] = lambda count: {"kitti": {"Car": 10.0 * count}},
    fail_at: int = -1,
    kill_at: int = -1,
) -> None:
    """Train with a checkpoint after every iteration."""
    folder.mkdir(exist_ok=True)
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = Trainer(model, [[fail_at]] * 100, optimizer)
    checkpointer = Checkpointer(model, str(folder), trainer=trainer)

    def kill(proxy: Any) -> None:
        if proxy.iter == kill_at:
            raise Stop

    def results() -> Any:
        # Behind a training without an iteration to do detectron2 counts one more.
        return evaluate(min(trainer.iter, max_iter))

    trainer.register_hooks(
        [
            Rate(),
            HistoryLogger(folder, period=period, metric="kitti/Car"),
            CheckpointHook(checkpointer, period=1, max_to_keep=20),
            hooks.CallbackHook(after_step=kill),
            EvaluationHook(eval_period, results),
        ]
    )
    loaded = checkpointer.resume_or_load("", resume=resume)
    trainer.train(loaded["iteration"] + 1 if loaded else 0, max_iter)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def evaluations(folder: Path) -> dict[int, float]:
    """Iteration -> value."""
    lines = [json.loads(x) for x in (folder / "evaluations.jsonl").read_text().splitlines()]
    return {line["iteration"]: line["results"]["kitti/Car"] for line in lines}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_time(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows but for what the clock decides."""
    clock = ("data_time", "rank_data_time")
    return [
        {key: value for key, value in row.items() if key != "wall_time_min"}
        | {"train": {k: v for k, v in row["train"].items() if k not in clock}}
        for row in records
    ]


@WITHOUT_PICTURE
def test_rows_by_hand(tmp_path: Path) -> None:
    run(tmp_path)
    first, second, third = rows(tmp_path)
    assert [row["epoch"] for row in (first, second, third)] == [1, 2, 3]
    assert [row["iteration"] for row in (first, second, third)] == [4, 8, 10]
    assert [row["lr"] for row in (first, second, third)] == [97.0, 93.0, 91.0]
    assert first["train"]["total_loss"] == 1.5  # of 0, 1, 2, 3
    assert second["train"]["total_loss"] == 5.5
    assert third["train"]["total_loss"] == 8.5  # two iterations only
    # The NaN of iteration 4 is left out of the mean of 10, 12, 14, and counted.
    assert second["train"]["mono3d/yaw_bin_acc"] == 12.0
    assert [row["train"]["num_nan"] for row in (first, second, third)] == [0, 1, 0]
    # Evaluated behind iterations 3 and 7 and at the end, where the count is 10.
    assert [row["val"]["kitti/Car"] for row in (first, second, third)] == [30.0, 70.0, 100.0]
    best = json.loads((tmp_path / "best.json").read_text())
    assert best == {"metric": "kitti/Car", "value": 100.0, "iteration": 10}
    assert first["wall_time_min"] <= third["wall_time_min"] < 5


@WITHOUT_PICTURE
def test_table_has_fixed_columns_first_then_sorted_ones(tmp_path: Path) -> None:
    run(tmp_path)
    header = (tmp_path / "history.csv").read_text().splitlines()[0].split(",")
    assert header[:4] == ["epoch", "iteration", "wall_time_min", "lr"]
    assert header[4:] == sorted(header[4:])
    assert {"train/total_loss", "train/mono3d/yaw_bin_acc", "val/kitti/Car"} <= set(header)
    for flat, nested in zip(table(tmp_path), rows(tmp_path), strict=True):
        # Full precision: the text gives back the very number.
        assert float(flat["wall_time_min"]) == nested["wall_time_min"]
        assert float(flat["train/total_loss"]) == nested["train"]["total_loss"]


@WITHOUT_PICTURE
def test_new_column_leaves_older_rows_empty(tmp_path: Path) -> None:
    def evaluate(count: int) -> dict[str, float]:
        return {"a": 1.0} | ({"late": 2.0, "undefined": math.nan} if count == 7 else {})

    run(tmp_path, evaluate=evaluate)
    flat = table(tmp_path)
    assert [row["val/late"] for row in flat] == ["", "2.0", ""]
    assert [row["val/undefined"] for row in flat] == ["", "", ""]
    assert [row["val/num_nan"] for row in flat] == ["0", "1", "0"]
    assert [row["val/a"] for row in flat] == ["1.0"] * 3


@WITHOUT_PICTURE
def test_epoch_without_evaluation_repeats_no_result(tmp_path: Path) -> None:
    run(tmp_path, eval_period=8)
    assert [row["val"].get("kitti/Car") for row in rows(tmp_path)] == [None, 70.0, 100.0]


@pytest.mark.parametrize(
    ("kill_at", "unwritten"), [(2, False), (3, False), (3, True), (5, False), (7, True), (9, False)]
)
@WITHOUT_PICTURE
def test_resumed_training_has_the_rows_of_one_that_never_stopped(
    tmp_path: Path, kill_at: int, unwritten: bool
) -> None:
    run(tmp_path / "whole")
    expected = without_time(rows(tmp_path / "whole"))
    with pytest.raises(Stop):
        run(tmp_path / "cut", kill_at=kill_at)
    if unwritten:  # a killed process does not get to write the row that its checkpoint holds
        path = tmp_path / "cut" / "history.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    run(tmp_path / "cut", resume=True)
    found = without_time(rows(tmp_path / "cut"))
    if kill_at in (3, 7):
        # Killed between the checkpoint and the evaluation, which is not done again.
        assert found[(kill_at + 1) // 4 - 1].pop("val") == {}
        expected[(kill_at + 1) // 4 - 1].pop("val")
    assert found == expected


@WITHOUT_PICTURE
def test_evaluations_within_an_epoch_keep_their_iterations(tmp_path: Path) -> None:
    run(tmp_path, eval_period=3, period=8)
    first, second = rows(tmp_path)
    # The count is that of the iterations before.
    assert evaluations(tmp_path) == {3: 20.0, 6: 50.0, 9: 80.0, 10: 100.0}
    assert (first["iteration"], first["val"]["iteration"]) == (8, 6)
    assert first["val"]["kitti/Car"] == 50.0 and second["val"]["kitti/Car"] == 100.0
    assert [row["val/iteration"] for row in table(tmp_path)] == ["6", "10"]


@WITHOUT_PICTURE
def test_best_is_that_of_the_evaluation(tmp_path: Path) -> None:
    run(
        tmp_path,
        eval_period=3,
        period=8,
        evaluate=lambda count: {"kitti": {"Car": -((count - 5) ** 2)}},
    )
    best = json.loads((tmp_path / "best.json").read_text())
    assert best == {"metric": "kitti/Car", "value": 0, "iteration": 6}


@pytest.mark.parametrize("kill_at", range(1, 10))
@pytest.mark.parametrize("lost", [False, True])
@WITHOUT_PICTURE
def test_evaluations_survive_a_kill(tmp_path: Path, kill_at: int, lost: bool) -> None:
    """Killed behind the checkpoint of an iteration; also in a new folder but for checkpoints."""
    run(tmp_path / "whole", eval_period=3, period=8)
    with pytest.raises(Stop):
        run(tmp_path / "cut", eval_period=3, period=8, kill_at=kill_at)
    if lost:
        for path in (tmp_path / "cut").glob("*.jsonl"):
            path.unlink()
    run(tmp_path / "cut", eval_period=3, period=8, resume=True)
    expected, found = evaluations(tmp_path / "whole"), evaluations(tmp_path / "cut")
    # An evaluation that the kill prevented is not done again.
    assert found == {i: value for i, value in expected.items() if i != kill_at + 1 or i == 10}
    best = json.loads((tmp_path / "cut/best.json").read_text())
    assert best["iteration"] == 10


@WITHOUT_PICTURE
def test_evaluation_behind_the_last_checkpoint_is_kept(tmp_path: Path) -> None:
    run(tmp_path, 6, eval_period=3, period=8)
    for iteration in (3, 4, 5):
        (tmp_path / f"model_{iteration:07d}.pth").unlink()
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    run(tmp_path, eval_period=3, period=8, resume=True)
    assert evaluations(tmp_path) == {3: 20.0, 6: 50.0, 9: 80.0, 10: 100.0}


@WITHOUT_PICTURE
def test_rows_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    run(tmp_path)
    expected = without_time(rows(tmp_path))
    for iteration in range(5, 10):
        for path in tmp_path.glob(f"model_{iteration:07d}.pth"):
            path.unlink()
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    run(tmp_path, resume=True)
    assert without_time(rows(tmp_path)) == expected


@WITHOUT_PICTURE
def test_new_training_in_an_old_folder_starts_afresh(tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path, 5)
    assert [row["iteration"] for row in rows(tmp_path)] == [4, 5]


@WITHOUT_PICTURE
def test_failed_training_keeps_whole_epochs_only(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken batch"):
        run(tmp_path, fail_at=6)
    assert [row["iteration"] for row in rows(tmp_path)] == [4]


@WITHOUT_PICTURE
def test_damaged_line_ends_what_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("roca_nocs"), "propagate", True)
    run(tmp_path)
    path = tmp_path / "history.jsonl"
    path.write_text(path.read_text().splitlines()[0] + '\n{"epoch": 2, "iter')
    files = history_module.HistoryFiles(tmp_path, None, maximize=True)
    assert [row["iteration"] for row in files.read("history.jsonl", 10)] == [4]
    assert "line 2 is damaged" in caplog.text


@WITHOUT_PICTURE
def test_processes_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process has recorded a constant and something of its own."""

    def gather(sums: Any) -> list[Any]:
        other = {"mono3d/yaw_bin_acc": [44.0, 4, 1], "only_there": [6.0, 3, 0]}
        return [sums, other] if isinstance(sums, dict) and "total_loss" in sums else [sums]

    monkeypatch.setattr(history_module.comm, "gather", gather)
    run(tmp_path, 4)
    (row,) = rows(tmp_path)
    assert row["train"]["mono3d/yaw_bin_acc"] == (0 + 2 + 4 + 6 + 44) / 8
    assert row["train"]["only_there"] == 2.0
    assert row["train"]["total_loss"] == 1.5
    assert row["train"]["num_nan"] == 1


@WITHOUT_PICTURE
def test_smallest_value_can_be_the_best(tmp_path: Path) -> None:
    files = history_module.HistoryFiles(tmp_path, "error", maximize=False)
    files.write([], {4: {"error": 3.0}, 8: {"error": None}, 12: {"error": 2.0}, 16: {}})
    best = json.loads((tmp_path / "best.json").read_text())
    assert best == {"metric": "error", "value": 2.0, "iteration": 12}
    assert not list(tmp_path.glob(".*"))
    assert csv_text([]) == "epoch,iteration,wall_time_min,lr\n"


def test_plot_is_a_picture_of_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    history = [
        {
            "iteration": 4 * e,
            "lr": 0.1,
            "train": {"loss_z": 1.0 / e},
            "val": {},
        }
        | {"epoch": e, "wall_time_min": 0.5}
        for e in (1, 2, 3)
    ]
    results: dict[int, dict[str, float | None]] = {5: {"AP": None}, 9: {"AP": 2.0}, 11: {"AP": 3.0}}
    history_module.HistoryFiles(tmp_path, None, maximize=True).write(history, results)
    picture = (tmp_path / "history.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    history[1]["train"]["loss_z"] = 50.0
    changed = plot_history(history, results)
    assert changed != picture
    assert plot_history(history, {5: {"AP": None}, 10: {"AP": 2.0}, 11: {"AP": 3.0}}) != changed
    assert plot_history([], {}) is None
    # The chosen result is drawn, however many there are.
    for iteration, values in results.items():
        values |= {f"task/{letter}": 1.0 for letter in "abcdefghijklmno"}
        values["task/per-class"] = float(iteration)
    assert plot_history(history, results, "task/per-class") != plot_history(history, results)


def test_senseless_period() -> None:
    with pytest.raises(ValueError, match="period is 0"):
        HistoryLogger("unused", period=0)
