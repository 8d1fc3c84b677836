"""Command line, set-up of a job, writers and data-parallel wrapping in one process."""

import logging
import random

import detectron2
import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, LazyConfig
from detectron2.engine import (
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
)
from detectron2.utils.events import EventStorage
from detectron2.utils.logger import setup_logger
from fvcore.common.config import CfgNode
from omegaconf import OmegaConf
from torch import nn


@pytest.fixture(autouse=True)
def restore_globals(monkeypatch):
    """Undo what a set-up changes: loggers, their cache, seeds and backend flags."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    setup_logger.cache_clear()
    yield
    for logger, handlers, level, propagate in before:
        for handler in logger.handlers:
            if handler not in handlers:
                handler.close()
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    setup_logger.cache_clear()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def parse(*words: str):
    return default_argument_parser().parse_args(list(words))


# --- Command line -------------------------------------------------------------------------


def test_defaults_of_the_command_line():
    args = parse()
    assert args.config_file == ""
    assert (args.resume, args.eval_only) == (False, False)
    assert (args.num_gpus, args.num_machines, args.machine_rank) == (1, 1, 0)
    assert args.opts == []


def test_options_and_the_rest():
    args = parse("--config-file", "a.py", "--num-gpus", "4", "--resume", "lr=1", "--x", "y=2")
    assert (args.config_file, args.num_gpus, args.resume) == ("a.py", 4, True)
    assert args.opts == ["lr=1", "--x", "y=2"]


def test_default_address_is_stable_and_a_legal_port():
    url = parse().dist_url
    assert url == parse().dist_url
    host, _, port = url.rpartition(":")
    assert host == "tcp://127.0.0.1"
    assert 1024 < int(port) < 65536


def test_epilog_can_be_replaced():
    assert "--num-machines 2" in default_argument_parser().format_help()
    assert "my epilog" in default_argument_parser(epilog="my epilog").format_help()


# --- default_setup ------------------------------------------------------------------------


def lazy_config(output_dir, **train):
    return OmegaConf.create(
        {
            "train": {"output_dir": str(output_dir), **train},
            "model": LazyCall(nn.Linear)(in_features=2, out_features=3),
        },
        flags={"allow_objects": True},
    )


def test_setup_writes_log_and_config(tmp_path):
    config_file = tmp_path / "config.py"
    config_file.write_text("answer = dict(value=42)\n")
    output = tmp_path / "out" / "deep"
    cfg = lazy_config(output, seed=5)
    default_setup(cfg, parse("--config-file", str(config_file), "train.seed=5"))

    assert LazyConfig.load(str(output / "config.yaml")).train.seed == 5
    log = (output / "log.txt").read_text()
    assert "Rank of current process: 0. World size: 1" in log
    assert "answer" in log
    assert "train.seed=5" in log
    assert detectron2.__version__ in log
    logging.getLogger("fvcore.common.checkpoint").warning("a line from fvcore")
    assert "a line from fvcore" in (output / "log.txt").read_text()


def test_setup_of_a_yacs_config(tmp_path, monkeypatch):
    cfg = detectron2_cfg_node(OUTPUT_DIR=str(tmp_path / "out"), SEED=3, CUDNN_BENCHMARK=True)
    default_setup(cfg, parse())
    assert "SEED: 3" in (tmp_path / "out" / "config.yaml").read_text()
    assert torch.backends.cudnn.benchmark is True


def detectron2_cfg_node(**settings) -> CfgNode:
    from detectron2.config import CfgNode as Node

    return Node(settings)


def test_output_directory_is_optional(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default_setup(OmegaConf.create({"train": {"seed": 1}}), parse())
    assert list(tmp_path.iterdir()) == []


def test_first_output_key_wins(tmp_path):
    cfg = lazy_config(tmp_path / "second")
    cfg.output_dir = str(tmp_path / "first")
    default_setup(cfg, parse())
    assert (tmp_path / "first" / "config.yaml").exists()
    assert not (tmp_path / "second").exists()


def draws() -> tuple[float, float, float]:
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_seed_makes_all_generators_repeat(tmp_path):
    default_setup(lazy_config(tmp_path, seed=7), parse())
    first = draws()
    default_setup(lazy_config(tmp_path, seed=7), parse())
    assert draws() == first
    default_setup(lazy_config(tmp_path, seed=8), parse())
    assert draws() != first


@pytest.mark.parametrize("train", [{}, {"seed": -1}])
def test_negative_or_missing_seed_is_random(tmp_path, train):
    torch.manual_seed(0)
    expected = torch.rand(()).item()
    torch.manual_seed(0)
    default_setup(lazy_config(tmp_path, **train), parse())
    assert torch.rand(()).item() != expected


@pytest.mark.standalone_only
def test_seed_none_is_random(tmp_path):
    default_setup(lazy_config(tmp_path, seed=None), parse())
    assert (tmp_path / "config.yaml").exists()


def test_rank_is_added_to_the_seed(tmp_path, monkeypatch):
    default_setup(lazy_config(tmp_path, seed=8), parse())
    expected = draws()
    monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: 3)
    default_setup(lazy_config(tmp_path / "rank3", seed=5), parse())
    assert draws() == expected
    assert not (tmp_path / "rank3" / "config.yaml").exists()


def test_benchmark_flag_is_not_touched_by_evaluation(tmp_path):
    torch.backends.cudnn.benchmark = False
    default_setup(lazy_config(tmp_path, cudnn_benchmark=True), parse("--eval-only"))
    assert torch.backends.cudnn.benchmark is False
    default_setup(lazy_config(tmp_path, cudnn_benchmark=True), parse())
    assert torch.backends.cudnn.benchmark is True
    default_setup(lazy_config(tmp_path), parse())
    assert torch.backends.cudnn.benchmark is False


@pytest.mark.gpu
def test_float32_precision(tmp_path):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        default_setup(lazy_config(tmp_path, float32_precision="highest"), parse())
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.backends.cudnn.allow_tf32 is False
        default_setup(lazy_config(tmp_path, float32_precision="high"), parse())
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32 is True
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="describes a machine without GPU")
def test_float32_precision_concerns_cuda_only(tmp_path):
    before = torch.get_float32_matmul_precision()
    default_setup(lazy_config(tmp_path, float32_precision="medium"), parse())
    assert torch.get_float32_matmul_precision() == before


# --- Writers, data-parallel ---------------------------------------------------------------


def test_writers(tmp_path):
    output = tmp_path / "out"
    writers = default_writers(str(output), max_iter=10)
    assert [type(writer).__name__ for writer in writers] == [
        "CommonMetricPrinter",
        "JSONWriter",
        "TensorboardXWriter",
    ]
    with EventStorage() as storage:
        storage.put_scalar("total_loss", 1.5)
        for writer in writers:
            writer.write()
            writer.close()
    assert '"total_loss": 1.5' in (output / "metrics.json").read_text()
    assert list(output.glob("events.out.tfevents.*"))


def test_one_process_needs_no_wrapping():
    model = nn.Linear(1, 1)
    assert create_ddp_model(model, fp16_compression=True) is model
