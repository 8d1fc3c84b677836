"""tools/train_net.py: kill and resume, processes, evaluation, mistakes."""

import importlib.util
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from engine.tiny_gan import GAMES, write_adversarial_project
from engine.tiny_training import ROOT, run_train_net, write_project
from roca_nocs.engine import random_state
from roca_nocs.engine.config import ConfigError
from roca_nocs.engine.launch import argument_parser

_spec = importlib.util.spec_from_file_location("train_net", ROOT / "tools/train_net.py")
train_net = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(train_net)


@pytest.fixture(scope="module", autouse=True)
def _process_is_left_as_it_was() -> Iterator[None]:
    """Training in this process configures loggers and seeds generators."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "roca_nocs")]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    with random_state.preserved():
        yield
    for each, handlers, level, propagate in before:
        for handler in set(each.handlers) - set(handlers):
            handler.close()
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)


def run_here(config: Path, *arguments: str) -> Any:
    """What a process of the script does, in this process: faster than starting one."""
    options = ["--config-file", str(config), "--num-gpus", "0", *arguments]
    return train_net.main(argument_parser().parse_args(options))


def run_process(config: Path, *arguments: str, status: int = 0, **options: Any) -> str:
    """Run the script; returns what it printed."""
    done = run_train_net("--config-file", config, "--num-gpus", "0", *arguments, **options)
    output = done.stdout + done.stderr
    assert done.returncode == status, output
    return output


def checkpoint(folder: Path, name: str = "model_final") -> dict[str, Any]:
    return torch.load(folder / "output" / f"{name}.pth", weights_only=True)


def results(folder: Path, name: str = "results") -> dict[str, Any]:
    return json.loads((folder / f"output/{name}.json").read_text())


def largest_difference(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Over weights, averaged weights and optimizer states of two checkpoints."""
    pairs = [
        (first[part][key], second[part][key])
        for part in ("model", "ema_state")
        for key in first[part]
    ]
    moments = [checkpoint["trainer"]["optimizer"]["state"] for checkpoint in (first, second)]
    pairs += [(moments[0][i][key], moments[1][i][key]) for i in moments[0] for key in moments[0][i]]
    assert len(pairs) > 20
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training of ten iterations; its last results are in trained.json."""
    folder = tmp_path_factory.mktemp("straight") / "project"
    run_here(write_project(folder))
    (folder / "output/results.json").rename(folder / "output/trained.json")
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_training_ends_like_an_uninterrupted_one(
    straight: Path, tmp_path: Path, num_workers: int
) -> None:
    folder = tmp_path / "project"
    config = write_project(folder)
    workers = f"dataloader.train.num_workers={num_workers}"
    # kill -9 in the sixth iteration
    run_process(config, workers, status=-9, environment={"TINY_KILL": "5"})
    assert (folder / "output/last_checkpoint").read_text() == "model_0000003.pth"
    log = run_process(config, "--resume", workers)
    assert "Starting training from iteration 4" in log
    # Zero on one machine; the bound is that of the specification.
    assert largest_difference(checkpoint(folder), checkpoint(straight)) < 1e-7
    states = [checkpoint(f)["random_states"] for f in (folder, straight)]
    assert states[0][0]["python"] == states[1][0]["python"]
    assert checkpoint(folder)["trainer"]["data_loader"] == {
        "position": 10,
        "seed": checkpoint(straight)["trainer"]["data_loader"]["seed"],
        "replaced": 0,
        "num_records": 10,
        "total_batch_size": 4,
    }
    # metrics.json has each iteration once, though 4 ran twice.
    rows = (folder / "output/metrics.json").read_text().splitlines()
    iterations = [json.loads(row)["iteration"] for row in rows]
    assert iterations[:10] == list(range(10))


def test_evaluation_reproduces_the_numbers(straight: Path) -> None:
    trained = results(straight, "trained")
    assert trained.keys() == {"bbox", "raw/bbox"}
    assert trained["bbox"]["AP50"] > 0
    assert trained["bbox"] != trained["raw/bbox"]

    returned = run_here(straight / "config.py", "--eval-only")
    assert results(straight) == trained
    assert returned["bbox"]["AP50"] == trained["bbox"]["AP50"]
    # The saved config is as good as the original, and a named file as the newest.
    weights = f"train.init_checkpoint={straight}/output/model_best.pth"
    returned = run_here(straight / "output/config.yaml", "--eval-only", weights)
    best = checkpoint(straight, "model_best")["best"]
    assert best["metric"] == "bbox/AP"
    assert returned["bbox"]["AP"] == best["value"]
    # Weights that the training started from are not what it made of them.
    saved = OmegaConf.load(straight / "output/config.yaml")
    saved.train.init_checkpoint = f"{straight}/output/model_best.pth"
    OmegaConf.save(saved, straight / "started.yaml")
    run_here(straight / "started.yaml", "--eval-only")
    assert results(straight) == trained
    # With --resume the newest comes first.
    assert run_here(straight / "output/config.yaml", "--eval-only", "--resume", weights)
    assert results(straight) == trained


def test_evaluation_of_a_file_without_average(straight: Path, tmp_path: Path) -> None:
    torch.save(checkpoint(straight)["model"], tmp_path / "bare.pth")
    weights = f"train.init_checkpoint={tmp_path}/bare.pth"
    returned = run_here(straight / "config.py", "--eval-only", weights)
    assert returned["bbox"]["AP50"] == returned["raw/bbox"]["AP50"]


def test_finished_training_is_not_continued(straight: Path) -> None:
    before = checkpoint(straight)
    run_here(straight / "config.py", "--resume")
    assert largest_difference(before, checkpoint(straight)) == 0
    assert results(straight) == results(straight, "trained")


def check_like_one_process(tmp_path: Path, *arguments: str, **options: Any) -> None:
    """Two processes, without noise and batch statistics, train like one."""
    for name in ("one", "two"):
        write_project(tmp_path / name, noise=0.0, batch_norm=False)
    run_here(tmp_path / "one/config.py", "train.max_iter=5")
    run_process(tmp_path / "two/config.py", *arguments, "train.max_iter=5", **options)
    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    assert [len(each["random_states"]) for each in (one, two)] == [1, 2]
    assert largest_difference(one, two) < 1e-6
    for task, expected in results(tmp_path / "one").items():
        found = results(tmp_path / "two")[task]
        for metric, value in expected.items():
            assert (found[metric] or math.nan) == pytest.approx(
                value or math.nan, abs=1e-3, nan_ok=True
            )


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    check_like_one_process(tmp_path, "--num-processes", "2")


@pytest.mark.slow
def test_torchrun_trains_like_one_process(tmp_path: Path) -> None:
    module = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")
    check_like_one_process(tmp_path, launcher=module)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_killed_processes_resume_exactly(tmp_path: Path, num_workers: int) -> None:
    options = ("--num-processes", "2", f"dataloader.train.num_workers={num_workers}")
    straight = write_project(tmp_path / "straight")
    run_process(straight, *options)
    killed = write_project(tmp_path / "killed")
    run_process(killed, *options, status=1, environment={"TINY_KILL": "5"})
    run_process(killed, "--resume", *options)
    first, second = checkpoint(tmp_path / "straight"), checkpoint(tmp_path / "killed")
    assert largest_difference(first, second) < 1e-7
    assert [state["python"] for state in first["random_states"]] == [
        state["python"] for state in second["random_states"]
    ]


def test_nan_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In the last iteration, after which everything would be saved and evaluated.
    monkeypatch.setenv("TINY_NAN", "0:5")
    config = write_project(tmp_path / "project")
    with pytest.raises(FloatingPointError, match="iteration 5: loss_box is nan on rank 0"):
        run_here(config, "train.max_iter=6", "train.eval_period=0")
    folder = tmp_path / "project/output"
    assert (folder / "last_checkpoint").read_text() == "model_0000003.pth"
    assert {path.name for path in folder.glob("*.pth")} == {
        "model_0000001.pth",
        "model_0000003.pth",
    }
    assert not (folder / "results.json").exists()


@pytest.mark.slow
def test_nan_on_one_of_two_processes_saves_nothing(tmp_path: Path) -> None:
    config = write_project(tmp_path / "project")
    output = run_process(
        config,
        *("--num-processes", "2", "train.max_iter=6"),
        status=1,
        environment={"TINY_NAN": "1:5"},
    )
    assert "Training diverged at iteration 5: loss_box is nan on rank 1" in output
    folder = tmp_path / "project/output"
    assert (folder / "last_checkpoint").read_text() == "model_0000003.pth"
    assert not (folder / "model_final.pth").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision(tmp_path: Path, dtype: str) -> None:
    config = write_project(tmp_path / "project")
    amp = ("train.amp.enabled=True", f"train.amp.dtype={dtype}", "train.max_iter=4")
    trainer = run_here(config, *amp, "train.accumulation_steps=2", "train.clip_gradients.norm=1")
    state = checkpoint(tmp_path / "project")["trainer"]
    assert ("grad_scaler" in state) == (dtype == "float16")
    assert math.isfinite(trainer.storage.latest()["total_loss"][0])


def test_mistake_costs_one_line(tmp_path: Path) -> None:
    config = write_project(tmp_path / "project")
    output = run_process(config, "train.max_iters=3", status=1)
    assert output.splitlines()[-1].startswith("error: override 'train.max_iters=3'")
    assert "Traceback" not in output
    assert not (tmp_path / "project/output").exists()


def test_unknown_data_set_is_found_first(tmp_path: Path) -> None:
    config = write_project(tmp_path / "project")
    with pytest.raises(ConfigError, match="Similar names: coco_2017_val"):
        run_here(config, "dataloader.test.dataset.names=coco_2017_vla", "+model.unknown=1")


def test_evaluation_without_checkpoint(tmp_path: Path) -> None:
    config = write_project(tmp_path / "project")
    with pytest.raises(ConfigError, match="--eval-only: there is no checkpoint in"):
        run_here(config, "--eval-only")


def scalars(trainer: Any) -> dict[str, list[tuple[float, int]]]:
    """(value, iteration) of everything that the steps of a training stored, except for times."""
    return {
        name: history.values()
        for name, history in trainer.storage.histories().items()
        if not name.endswith(("time", "eta_seconds")) and "bbox/" not in name
    }


def check_adversarial_resume(
    folder: Path, monkeypatch: pytest.MonkeyPatch, game: str, iterations: int
) -> None:
    """A run that fails behind its half and is resumed, against one without interruption."""
    half = iterations // 2
    settings = (f"train.max_iter={iterations}", f"train.checkpointer.period={half}")
    straight = scalars(run_here(write_adversarial_project(folder / "straight", game), *settings))
    losses = {"total_loss", "loss_nocs_critique", "discriminator/loss_real", "grad_norm", "lr"}
    assert losses <= straight.keys()
    assert [at for _, at in straight["total_loss"]] == [*range(iterations)]

    config = write_adversarial_project(folder / "resumed", game)
    monkeypatch.setenv("TINY_NAN", f"0:{half + 1}")
    with pytest.raises(FloatingPointError, match=f"iteration {half + 1}: loss_box is nan"):
        run_here(config, *settings)
    monkeypatch.delenv("TINY_NAN")
    resumed = scalars(run_here(config, "--resume", *settings))
    # To the last bit, every loss of every iteration.
    assert resumed == {
        name: [(value, at) for value, at in values if at >= half]
        for name, values in straight.items()
    }
    first, second = checkpoint(folder / "straight"), checkpoint(folder / "resumed")
    assert largest_difference(first, second) == 0
    states = [each["trainer"]["discriminator_optimizer"]["state"] for each in (first, second)]
    assert len(states[0]) > 5
    for number, state in states[0].items():
        assert all(torch.equal(v, states[1][number][k]) for k, v in state.items())


@pytest.mark.parametrize("game", GAMES)
def test_resumed_adversarial_training_has_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, game: str
) -> None:
    check_adversarial_resume(tmp_path, monkeypatch, game, 8)


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_200_adversarial_iterations_resumed_at_100(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, game: str
) -> None:
    check_adversarial_resume(tmp_path, monkeypatch, game, 200)
