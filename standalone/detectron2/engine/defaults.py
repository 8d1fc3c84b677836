"""The set-up that training scripts have in common."""

import argparse
import logging
import os
import sys
from typing import Any

import torch
from detectron2.config import LazyConfig
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from fvcore.common.config import CfgNode
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

__all__ = ["create_ddp_model", "default_argument_parser", "default_setup", "default_writers"]

_EXAMPLES = """
Examples:

Run on single machine:
    $ {program} --num-gpus 8 --config-file cfg.py

Change some config options:
    $ {program} --config-file cfg.py train.init_checkpoint=/path/to/weight.pth optimizer.lr=0.001

Run on multiple machines:
    (machine0)$ {program} --machine-rank 0 --num-machines 2 --dist-url <URL> [--other-flags]
    (machine1)$ {program} --machine-rank 1 --num-machines 2 --dist-url <URL> [--other-flags]
"""


def create_ddp_model(
    model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any
) -> nn.Module:
    """Wrap a model for data-parallel training; with one process it is returned unchanged.

    Args:
        model: already on the device it will be trained on.
        fp16_compression: send gradients in half precision.
        kwargs: for ``DistributedDataParallel``. ``device_ids`` defaults to this process's GPU for a
            model on CUDA, and to None for one on the CPU, where torch accepts nothing else.
    """
    if comm.get_world_size() == 1:
        return model
    if "device_ids" not in kwargs:
        on_cuda = all(parameter.is_cuda for parameter in model.parameters())
        kwargs["device_ids"] = [comm.get_local_rank()] if on_cuda else None
    wrapped = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        wrapped.register_comm_hook(state=None, hook=fp16_compress_hook)
    return wrapped


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser for the options that ``launch`` and ``default_setup`` need.

    Args:
        epilog: text behind the list of options; some examples by default.
    """
    parser = argparse.ArgumentParser(
        epilog=epilog or _EXAMPLES.format(program=sys.argv[0]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to config file")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint, if there is one"
    )
    parser.add_argument("--eval-only", action="store_true", help="perform evaluation only")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of gpus *per machine*")
    parser.add_argument("--num-machines", type=int, default=1, help="total number of machines")
    parser.add_argument(
        "--machine-rank", type=int, default=0, help="the rank of this machine (unique per machine)"
    )
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{_port_of_user()}",
        help="address at which the processes meet, as for torch.distributed.init_process_group",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        default=None,
        help="changes to the config, at the end of the command: path.key=value for python configs, "
        "PATH.KEY VALUE pairs for yacs configs",
    )
    return parser


def _port_of_user() -> int:
    """A port in the dynamic range that differs between users.

    It stays the same on purpose: processes left over from an earlier job show up as a busy port.
    """
    user_id = os.getuid() if hasattr(os, "getuid") else 1
    return 49152 + user_id % 16384


def default_setup(cfg: DictConfig | CfgNode, args: argparse.Namespace) -> None:
    """Loggers, output directory, a copy of the config, random seeds and backend flags.

    Keys of ``cfg`` that are read, the first one present: ``OUTPUT_DIR``, ``output_dir``,
    ``train.output_dir``; ``SEED``, ``train.seed`` (negative or missing: a random seed; otherwise
    the rank is added); ``CUDNN_BENCHMARK``, ``train.cudnn_benchmark`` (not with ``--eval-only``,
    where it costs more than it gains); ``FLOAT32_PRECISION``, ``train.float32_precision``.

    Args:
        cfg: the whole config.
        args: the command line; it is logged, and ``config_file`` and ``eval_only`` are read.
    """
    rank = comm.get_rank()
    output_dir = _first_setting(cfg, "OUTPUT_DIR", "output_dir", "train.output_dir")
    if output_dir and comm.is_main_process():
        PathManager.mkdirs(output_dir)
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)

    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    config_file = getattr(args, "config_file", "")
    if config_file:
        with PathManager.open(config_file, "r") as stream:
            logger.info("Contents of args.config_file=%s:\n%s", config_file, stream.read())
    if output_dir and comm.is_main_process():
        _save_config(cfg, os.path.join(output_dir, "config.yaml"))

    seed = _first_setting(cfg, "SEED", "train.seed", default=-1)
    seed_all_rng(None if seed < 0 else seed + rank)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = _first_setting(
            cfg, "CUDNN_BENCHMARK", "train.cudnn_benchmark", default=False
        )
    precision = _first_setting(cfg, "FLOAT32_PRECISION", "train.float32_precision", default="")
    if precision:
        _set_float32_precision(precision)


def _first_setting(cfg: DictConfig | CfgNode, *keys: str, default: Any = None) -> Any:
    """Value of the first dotted key that is present and not None."""
    for key in keys:
        if isinstance(cfg, DictConfig):
            value = OmegaConf.select(cfg, key)
        else:
            value = cfg
            for part in key.split("."):
                value = value.get(part) if isinstance(value, CfgNode) else None
        if value is not None:
            return value
    return default


def _save_config(cfg: DictConfig | CfgNode, path: str) -> None:
    logger = logging.getLogger(__name__)
    if isinstance(cfg, CfgNode):
        logger.info("Running with full config:\n%s", cfg.dump())
        with PathManager.open(path, "w") as stream:
            stream.write(cfg.dump())
    else:
        LazyConfig.save(cfg, path)
    logger.info("Full config saved to %s", path)


def _set_float32_precision(precision: str) -> None:
    """Choose how exactly CUDA multiplies float32 matrices and convolves: "highest" means no TF32.

    Args:
        precision: one of torch's ``"highest"``, ``"high"``, ``"medium"``.
    """
    if not torch.cuda.is_available():
        return
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"
    logging.getLogger(__name__).info("Set float32 precision to %s", precision)


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers to the log, to ``metrics.json`` and to TensorBoard.

    Args:
        output_dir: made if necessary.
        max_iter: for the estimate of the remaining time.
    """
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]
