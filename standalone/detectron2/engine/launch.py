"""Start one process per GPU (or per CPU worker) and join them into a process group."""

import gc
import logging
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Run ``main_func(*args)`` in every process of a job; call it on each machine.

    One process in all means a direct call without a process group. Otherwise processes are spawned
    (``main_func`` and ``args`` must be picklable) and joined through NCCL where CUDA is
    available, through gloo elsewhere.

    Args:
        main_func: what each process runs.
        num_gpus_per_machine: processes to start on this machine.
        num_machines: machines in the job.
        machine_rank: index of this machine.
        dist_url: where the processes meet, e.g. ``"tcp://127.0.0.1:29500"``; ``"auto"`` takes a
            free port (one machine only); None reads torch's environment variables.
        args: arguments of ``main_func``.
        timeout: of the collective operations.

    Raises:
        ValueError: ``"auto"`` with several machines.
    """
    if num_machines * num_gpus_per_machine <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        if num_machines != 1:
            raise ValueError(
                "dist_url=auto not supported in multi-machine jobs: give the address of machine 0, "
                "e.g. tcp://<host>:<port>."
            )
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    if num_machines > 1 and dist_url is not None and dist_url.startswith("file://"):
        logging.getLogger(__name__).warning(
            "file:// is not a reliable init_method in multi-machine jobs. Prefer tcp://"
        )
    mp.start_processes(
        _run_worker,
        nprocs=num_gpus_per_machine,
        args=(
            main_func,
            args,
            num_gpus_per_machine,
            num_machines,
            machine_rank,
            dist_url,
            timeout,
        ),
        start_method="spawn",
    )


def _free_port() -> int:
    """A port that is free now; another program can still take it before it is used."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run_worker(
    local_rank: int,
    main_func: Callable[..., Any],
    args: tuple[Any, ...],
    num_gpus_per_machine: int,
    num_machines: int,
    machine_rank: int,
    dist_url: str | None,
    timeout: timedelta,
) -> None:
    """Body of a spawned process: join the group, then run the user's function."""
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        num_devices = torch.cuda.device_count()
        if num_gpus_per_machine > num_devices:
            raise ValueError(
                f"{num_gpus_per_machine} processes were asked for, but this machine has "
                f"{num_devices} GPU(s)."
            )
        torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group(
            backend="nccl" if has_gpu else "gloo",
            init_method=dist_url,
            world_size=num_machines * num_gpus_per_machine,
            rank=machine_rank * num_gpus_per_machine + local_rank,
            timeout=timeout,
        )
    except Exception:
        logging.getLogger(__name__).error("Process group URL: %s", dist_url)
        raise
    comm.create_local_process_group(num_gpus_per_machine)
    # Nobody starts before all are connected, or a slow machine would cost the others a timeout.
    comm.synchronize()
    main_func(*args)
    # A wrapped model is garbage with cycles that holds the group, whose threads could abort the
    # process while the interpreter ends.
    gc.collect()
    # After an exception peers may be gone, and closing the group could wait for them.
    dist.destroy_process_group()
