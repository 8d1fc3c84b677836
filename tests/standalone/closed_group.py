"""A program for `test_comm.py`: how many threads are left when a process group is closed."""

import os
import sys

import torch
import torch.distributed as dist
from detectron2.utils import comm


def count_threads() -> int:
    return len(os.listdir("/proc/self/task"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    before = count_threads()
    rank, folder = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    comm.gather(rank)
    comm.all_gather(rank)
    dist.destroy_process_group()
    print(count_threads() - before)
