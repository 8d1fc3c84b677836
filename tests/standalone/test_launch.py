"""Jobs of two real processes on the CPU, joined by gloo."""

import atexit
import itertools
import json
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer, create_ddp_model, hooks, launch
from detectron2.utils import comm
from torch import nn

TIMEOUT = timedelta(seconds=60)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(comm.get_rank())))

    def forward(self, x):
        return {"loss_x": self.weight * x, "loss_y": self.weight * 0 + x}


def train_in_parallel(folder: Path) -> dict:
    """Three steps; the data are 1 on rank 0 and 3 on rank 1."""
    model = create_ddp_model(Model(), device_ids=None, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    data = itertools.repeat(torch.tensor(1.0 + 2.0 * comm.get_rank()))
    trainer = SimpleTrainer(model, data, optimizer)
    checkpointer = DetectionCheckpointer(model, str(folder), trainer=trainer)
    evaluate = hooks.EvalHook(0, lambda: {"rank": comm.get_rank()})
    trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, 2), evaluate])
    trainer.train(0, 3)
    return {
        "weight": model.module.weight.item(),
        "loss_x": [value for value, _ in trainer.storage.history("loss_x").values()]
        if "loss_x" in trainer.storage.histories()
        else None,
        "saves": checkpointer.save_to_disk,
    }


def wrap_with_defaults() -> str:
    """What wrapping a CPU model without further arguments gives."""
    try:
        model = create_ddp_model(nn.Linear(2, 2), fp16_compression=True)
    except ValueError as error:
        return type(error).__name__
    model(torch.ones(1, 2)).sum().backward()
    return f"{type(model).__name__} {model.device_ids} {model.module.weight.grad[0, 0].item()}"


def group_threads() -> list[str]:
    """Names of this process's threads that a process group started."""
    names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return [name.strip() for name in names if "gloo" in name]


def worker(folder: str, greeting: str) -> None:
    threads = Path(folder, f"threads{comm.get_rank()}.json")
    atexit.register(lambda: threads.write_text(json.dumps(group_threads())))
    report = {
        "greeting": greeting,
        "backend": dist.get_backend(),
        "rank": comm.get_rank(),
        "local_rank": comm.get_local_rank(),
        "local_size": comm.get_local_size(),
        "world_size": comm.get_world_size(),
        "gathered": comm.gather(comm.get_rank()),
        "wrapped": wrap_with_defaults(),
        "trained": train_in_parallel(Path(folder)),
        "threads": len(group_threads()),
    }
    Path(folder, f"report{comm.get_rank()}.json").write_text(json.dumps(report))


def fail_on_rank_one() -> None:
    if comm.get_rank() == 1:
        raise RuntimeError("rank one gives up")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Folder and the reports of both processes."""
    if torch.cuda.is_available():
        pytest.skip("with CUDA the processes would use NCCL")
    folder = tmp_path_factory.mktemp("job")
    launch(worker, 2, dist_url="auto", args=(str(folder), "hello"), timeout=TIMEOUT)
    return folder, [json.loads((folder / f"report{rank}.json").read_text()) for rank in (0, 1)]


def test_processes_are_joined(job):
    _, reports = job
    for rank, report in enumerate(reports):
        assert report["backend"] == "gloo"
        assert report["greeting"] == "hello"
        assert (report["rank"], report["local_rank"]) == (rank, rank)
        assert (report["world_size"], report["local_size"]) == (2, 2)
    assert [report["gathered"] for report in reports] == [[0, 1], []]


def test_training_is_data_parallel(job):
    _, reports = job
    # All start from rank 0's weight 0; the mean gradient of loss_x is (1 + 3) / 2 = 2, the rate
    # 0.5: 0 -> -1 -> -2 -> -3.
    assert [report["trained"]["weight"] for report in reports] == [-3.0, -3.0]


def test_losses_are_averaged_on_the_main_process(job):
    _, reports = job
    # weight * x averaged over x = 1 and x = 3, i.e. twice the weight before each step.
    assert reports[0]["trained"]["loss_x"] == [0.0, -2.0, -4.0]
    assert reports[1]["trained"]["loss_x"] is None


def test_only_the_main_process_saves(job):
    folder, reports = job
    assert [report["trained"]["saves"] for report in reports] == [True, False]
    names = {path.name for path in folder.iterdir() if path.suffix != ".json"}
    assert names == {"last_checkpoint", "model_0000001.pth", "model_final.pth"}
    content = torch.load(folder / "model_final.pth")
    assert content["model"] == {"weight": torch.tensor(-3.0)}  # no "module." prefix


@pytest.mark.standalone_only
def test_cpu_models_are_wrapped_without_further_arguments(job):
    _, reports = job
    assert [report["wrapped"] for report in reports] == ["DistributedDataParallel None 1.0"] * 2


@pytest.mark.standalone_only
def test_processes_end_without_threads_of_the_group(job):
    """A thread that still runs while the interpreter ends can abort the process."""
    folder, reports = job
    for rank, report in enumerate(reports):
        assert report["threads"] > 0
        assert json.loads((folder / f"threads{rank}.json").read_text()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA the processes would use NCCL")
def test_failure_of_a_process_reaches_the_caller():
    with pytest.raises(Exception, match="rank one gives up"):
        launch(fail_on_rank_one, 2, dist_url="auto", timeout=TIMEOUT)


def test_one_process_is_a_direct_call():
    calls = []
    launch(lambda *args: calls.append((args, dist.is_initialized())), 1, args=(1, 2))
    assert calls == [((1, 2), False)]


def test_automatic_address_is_for_one_machine():
    with pytest.raises((ValueError, AssertionError), match="not supported in multi-machine"):
        launch(print, 1, num_machines=2, dist_url="auto")
