"""Checkpoints: atomic writing under injected failures and kills, damaged files, resuming."""

import builtins
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from torch import nn

from roca_nocs.engine import atomic_file, random_state
from roca_nocs.engine.atomic_file import remove_leftovers, replace_file
from roca_nocs.engine.checkpoint import Checkpointer, find_damage
from roca_nocs.engine.weights_file import WeightsError
from scripts import environment


class Counter:
    """A checkpointable that holds one number."""

    def __init__(self, value: int = -1) -> None:
        self.value = value

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.value = state["value"]


@pytest.fixture(autouse=True)
def _log_reaches_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("roca_nocs"), "propagate", True)


def checkpointer(folder: Path, value: int = -1) -> tuple[Checkpointer, Counter]:
    model, counter = nn.Linear(2, 1), Counter(value)
    nn.init.constant_(model.weight, value)
    return Checkpointer(model, str(folder), counter=counter), counter


def save(folder: Path, *iterations: int) -> None:
    for iteration in iterations:
        writer, _ = checkpointer(folder, iteration)
        writer.save(f"model_{iteration:07d}", iteration=iteration)


def resume(folder: Path) -> int:
    """Iteration of what is resumed; checks that all parts stem from the same file."""
    reader, counter = checkpointer(folder)
    loaded = reader.resume_or_load("")
    assert counter.value == loaded["iteration"]
    assert reader.model.weight.eq(loaded["iteration"]).all()
    return loaded["iteration"]


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        del content[len(content) // 2 :]
    elif kind == "empty":
        content.clear()
    elif kind == "flipped bit":
        content[content.find(np.float32(5).tobytes() * 2)] ^= 1  # in the weights of iteration 5
    elif kind == "not a checkpoint":
        torch.save([1, 2], path)
        return
    path.write_bytes(bytes(content))


def test_save_and_resume(tmp_path: Path) -> None:
    save(tmp_path, 3, 5)
    assert resume(tmp_path) == 5
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000005.pth"
    content = torch.load(tmp_path / "model_0000005.pth", weights_only=True)
    assert content.keys() == {"model", "counter", "iteration"}
    assert sorted(os.listdir(tmp_path)) == [
        "last_checkpoint",
        "model_0000003.pth",
        "model_0000005.pth",
    ]


def test_nothing_to_resume(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    save(tmp_path / "other", 7)
    reader, counter = checkpointer(tmp_path / "missing")
    loaded = reader.resume_or_load(str(tmp_path / "other/model_0000007.pth"))
    # Weights only: this is the start of a training, not its continuation.
    assert loaded == {} and counter.value == -1
    assert reader.model.weight.eq(7).all()


def test_only_some_modules_are_initialised(tmp_path: Path) -> None:
    def two_layers(value: float) -> nn.Sequential:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        for parameter in model.parameters():
            nn.init.constant_(parameter, value)
        return model

    Checkpointer(two_layers(1.0), str(tmp_path)).save("weights")
    path = f"{tmp_path}/weights.pth"
    reader = Checkpointer(two_layers(2.0), str(tmp_path / "other"))
    with pytest.raises(WeightsError, match=r"no weights of the module 'head'.*begin with 0, 1"):
        reader.resume_or_load(path, modules=["0", "head"])
    model = two_layers(2.0)
    reader = Checkpointer(model, str(tmp_path / "other"))
    assert reader.resume_or_load(path, modules=["1"]) == {}
    assert {p.mean().item() for p in model[0].parameters()} == {2.0}
    assert {p.mean().item() for p in model[1].parameters()} == {1.0}
    reader.resume_or_load(path)
    assert {p.mean().item() for p in model.parameters()} == {1.0}


def test_without_resume_checkpoints_are_left_alone(tmp_path: Path) -> None:
    save(tmp_path, 5)
    reader, counter = checkpointer(tmp_path)
    assert reader.resume_or_load("", resume=False) == {}
    assert counter.value == -1


@pytest.mark.parametrize("kind", ["truncated", "empty", "flipped bit", "not a checkpoint"])
def test_damaged_newest_file(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 1, 3, 5)
    assert find_damage(tmp_path / "model_0000005.pth") is None
    damage(tmp_path / "model_0000005.pth", kind)
    assert find_damage(tmp_path / "model_0000005.pth")
    assert resume(tmp_path) == 3
    assert "model_0000005.pth is damaged" in caplog.text
    assert "falling back to the checkpoint before it" in caplog.text


def test_all_files_damaged(tmp_path: Path) -> None:
    save(tmp_path, 1, 3)
    for path in tmp_path.glob("*.pth"):
        damage(path, "truncated")
    with pytest.raises(RuntimeError, match=r"no checkpoint can be resumed: .*3\.pth is damaged"):
        resume(tmp_path)


@pytest.mark.parametrize("tag", [None, "", "model_0000009.pth", "\xff\xfe"])
def test_useless_tag(tmp_path: Path, tag: str | None) -> None:
    save(tmp_path, 1, 3)
    (tmp_path / "last_checkpoint").unlink()
    if tag is not None:
        (tmp_path / "last_checkpoint").write_bytes(tag.encode("latin1"))
    assert resume(tmp_path) == 3


def test_files_of_an_older_run_are_not_resumed(tmp_path: Path) -> None:
    save(tmp_path, 9, 1, 3)  # the run of 9 came first
    assert resume(tmp_path) == 3
    damage(tmp_path / "model_0000003.pth", "empty")
    assert resume(tmp_path) == 1


def test_damaged_final_file(tmp_path: Path) -> None:
    save(tmp_path, 1, 3)
    writer, _ = checkpointer(tmp_path, 4)
    writer.save("model_final", iteration=4)
    assert resume(tmp_path) == 4
    damage(tmp_path / "model_final.pth", "truncated")
    assert resume(tmp_path) == 3


def test_partial_file_is_not_resumed(tmp_path: Path) -> None:
    save(tmp_path, 3)
    writer, _ = checkpointer(tmp_path, 8)
    writer.save("model_best", only=[], iteration=8)
    assert torch.load(tmp_path / "model_best.pth").keys() == {"model", "iteration"}
    assert resume(tmp_path) == 3


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    save(tmp_path, 3)
    assert list(tmp_path.iterdir()) == []


class _Interrupted(BaseException):
    """Stands for a kill: nothing may catch it."""


def test_interruption_at_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing stops after a random number of bytes, as often as not without any clean-up."""
    save(tmp_path, 0)
    size = (tmp_path / "model_0000000.pth").stat().st_size
    generator = random.Random(0)
    last_good = 0
    for iteration in range(1, 120):
        budget = generator.randrange(size + size // 10)
        clean_up = generator.random() < 0.5
        with monkeypatch.context() as patch:
            _inject(patch, budget, clean_up)
            try:
                save(tmp_path, iteration)
                last_good = iteration
            except (_Interrupted, RuntimeError):  # the latter is torch.save about the former
                pass
        assert resume(tmp_path) == last_good
    assert 0 < last_good < 119  # both outcomes occurred
    remove_leftovers(tmp_path)
    assert not list(tmp_path.glob(".*"))


def _inject(patch: pytest.MonkeyPatch, budget: int, clean_up: bool) -> None:
    """Make `atomic_file` fail behind `budget` bytes of all its files together."""
    written = 0

    def open_limited(*args: Any) -> Any:
        file = builtins.open(*args)
        write = file.write

        def limited(data: Any) -> int:
            nonlocal written
            allowed = max(0, budget - written)
            written += memoryview(data).nbytes
            if written > budget:
                write(bytes(memoryview(data).cast("B")[:allowed]))
                file.flush()
                raise _Interrupted
            return write(data)

        return _Writer(file, limited)

    patch.setattr(atomic_file, "open", open_limited, raising=False)
    if not clean_up:
        patch.setattr(atomic_file.os, "unlink", lambda path: None)


class _Writer:
    """A file with another `write`."""

    def __init__(self, file: Any, write: Any) -> None:
        self._file, self.write = file, write

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *details: Any) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_leftovers_are_removed_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / ".model_0000001.pth.abc.incomplete").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    checkpointer(tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"]
    assert "Removed 1 incomplete files" in caplog.text


def test_replaced_file_keeps_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with replace_file(tmp_path / "ours") as file:
        file.write(b"x")
    modes = [(tmp_path / name).stat().st_mode for name in ("usual", "ours")]
    assert modes[0] == modes[1]


def test_random_states_are_restored() -> None:
    def draw() -> list[float]:
        return [random.random(), np.random.randn(), torch.rand(()).item()]

    random.seed(3), np.random.seed(4), torch.manual_seed(5)
    np.random.randn()  # leaves a second Gaussian number in the state
    state = random_state.capture()
    expected = draw()
    random_state.restore(state)
    assert draw() == expected
    random_state.restore(state)
    with random_state.preserved():
        draw()
    assert draw() == expected


def test_random_states_survive_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(1)
    states = [random_state.capture()]
    torch.save(states, tmp_path / "states.pth")
    expected = torch.rand(3), random.gauss(0, 1), np.random.rand()
    random_state.resume(torch.load(tmp_path / "states.pth", weights_only=True), 7)
    torch.testing.assert_close(torch.rand(3), expected[0], rtol=0, atol=0)
    assert (random.gauss(0, 1), np.random.rand()) == expected[1:]


@pytest.mark.parametrize("count", [0, 2])
def test_other_number_of_processes(count: int, caplog: pytest.LogCaptureFixture) -> None:
    states = [random_state.capture()] * count or None
    draws = []
    for _ in range(2):
        random_state.resume(states, 11)
        draws.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert draws[0] == draws[1]  # deterministic
    assert f"random states of {count} processes, there are 1 now" in caplog.text


_SAVER = """
import sys, torch
from pathlib import Path
from roca_nocs.engine.checkpoint import Checkpointer
from engine.test_checkpoint import Counter
folder, iteration = sys.argv[1], int(sys.argv[2])
model = torch.nn.Linear(2, 1)
payload = torch.arange(2_000_000.0)
print("ready", flush=True)
while True:
    torch.nn.init.constant_(model.weight, iteration)
    writer = Checkpointer(model, folder, counter=Counter(iteration))
    writer.save(f"model_{iteration:07d}", iteration=iteration, payload=payload)
    for path in sorted(Path(folder).glob("model_*.pth"))[:-3]:
        path.unlink()
    iteration += 1
"""


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path) -> None:
    """kill -9 at random moments of a process that does nothing but write checkpoints."""
    generator = random.Random(0)
    newest, incomplete = -1, 0
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _SAVER, str(tmp_path), str(newest + 1)],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(generator.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        incomplete += len(list(tmp_path.glob(".*.incomplete")))
        tag = tmp_path / "last_checkpoint"
        if tag.exists():
            # The newest state can be read as it is, without falling back.
            assert find_damage(tmp_path / tag.read_text()) is None
            assert resume(tmp_path) >= newest
            newest = resume(tmp_path)
    assert newest > 0 and incomplete > 0  # some kills did interrupt the writing
