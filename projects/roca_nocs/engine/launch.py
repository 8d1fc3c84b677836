"""Command line, processes and device of the training script."""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from detectron2.engine import default_argument_parser, launch
from detectron2.utils import comm

from .config import ConfigError

__all__ = ["argument_parser", "resolve_device", "start"]

logger = logging.getLogger(__name__)

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def argument_parser() -> argparse.ArgumentParser:
    """detectron2's options, and `--num-processes` for training on several CPU cores."""
    parser = default_argument_parser()
    parser.add_argument(
        "--num-processes",
        type=int,
        default=1,
        help="processes per machine that train on the CPU, with --num-gpus 0",
    )
    # A port of its own for each job, so that two jobs of one user do not meet.
    parser.set_defaults(dist_url="auto")
    return parser


def start(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Run `main(args)` in every process that the command line, or torchrun, asks for."""
    if args.num_gpus == 0:
        # detectron2's launch and DDP would take the GPUs that they see.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif args.num_processes != 1:
        raise ConfigError("--num-processes is for training on the CPU: add --num-gpus 0")
    elif args.num_gpus > max(1, torch.cuda.device_count()):
        raise ConfigError(
            f"--num-gpus {args.num_gpus}, but torch sees {torch.cuda.device_count()} CUDA devices; "
            f"on the CPU use --num-gpus 0 --num-processes {args.num_gpus}"
        )
    if all(name in os.environ for name in _TORCHRUN):
        _join_torchrun()
        _run(main, args)
        return
    launch(
        _run,
        args.num_gpus or args.num_processes,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(main, args),
    )


def _join_torchrun() -> None:
    """Join the processes that torchrun started; its environment replaces our options for that."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo", init_method="env://")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))


def _run(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    main(args)
    # Threads of a group that is still open can abort the process while it exits. Only after
    # success: closing could wait for processes that an error has ended.
    atexit.register(_leave_group)


def _leave_group() -> None:
    if dist.is_initialized():
        gc.collect()  # a wrapped model, garbage with cycles, would keep the group and its threads
        dist.destroy_process_group()


def resolve_device(device: str | None) -> str:
    """Device to train on: `device`, or by default the GPU of this process if there is one."""
    available = torch.cuda.is_available()
    if device is None:
        return "cuda" if available else "cpu"
    if torch.device(device).type == "cuda" and not available:
        raise ConfigError(
            f"train.device is {device!r}, but no CUDA device can be used (with --num-gpus 0 none "
            "is): leave train.device=null or set train.device=cpu"
        )
    return device
