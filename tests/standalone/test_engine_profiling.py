"""The hooks that profile time and memory."""

import itertools
import json

import pytest
import torch
from detectron2.engine import SimpleTrainer, hooks
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


@pytest.mark.filterwarnings("ignore")
def test_profiler_writes_the_selected_iterations(tmp_path):
    profiler = hooks.TorchProfiler(
        lambda trainer: trainer.iter in (1, 2), str(tmp_path / "traces"), save_tensorboard=False
    )
    make_trainer(profiler).train(0, 4)
    names = sorted(path.name for path in (tmp_path / "traces").iterdir())
    assert names == ["profiler-trace-iter1.json", "profiler-trace-iter2.json"]
    assert json.loads((tmp_path / "traces" / names[0]).read_text())["traceEvents"]


@pytest.mark.filterwarnings("ignore")
def test_profiler_for_tensorboard(tmp_path):
    make_trainer(hooks.TorchProfiler(lambda trainer: trainer.iter == 0, str(tmp_path))).train(0, 2)
    (folder,) = (tmp_path / "log").iterdir()
    assert folder.name == "profiler-tensorboard-iter0"
    (trace,) = folder.iterdir()
    assert trace.name.startswith("worker0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="describes a machine without GPU")
def test_memory_statistics_without_gpu(caplog):
    with caplog.at_level("INFO"):
        make_trainer(hooks.TorchMemoryStats(period=1)).train(0, 2)
    assert "reserved_mem" not in caplog.text


@pytest.mark.gpu
def test_memory_statistics(caplog):
    with caplog.at_level("INFO"):
        make_trainer(hooks.TorchMemoryStats(period=1, max_runs=2)).train(0, 4)
    assert caplog.text.count("max_reserved_mem") == 2
