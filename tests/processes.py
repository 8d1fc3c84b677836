"""Tests of two processes: a test file that is run as a program is one of them."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from scripts import environment


def run_two(program: str, folder: Path, *arguments: str, timeout: float) -> None:
    """Run a program with (rank, folder, further arguments) twice, side by side."""
    commands = [[sys.executable, program, str(rank), str(folder), *arguments] for rank in range(2)]
    workers = [subprocess.Popen(command, env=environment()) for command in commands]
    try:
        assert [worker.wait(timeout=timeout) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()


def run_in_group(work: Callable[..., None]) -> None:
    """What such a program calls: `work(rank, folder, further arguments)` in a group of the two."""
    torch.set_num_threads(1)
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    work(rank, folder, *sys.argv[3:])
    # Garbage with cycles (a wrapped model) would keep the group, whose threads could abort the
    # process while the interpreter ends.
    gc.collect()
    dist.destroy_process_group()
