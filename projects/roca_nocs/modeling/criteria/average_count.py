"""The number of targets that sums of losses are divided by."""

from __future__ import annotations

import torch
from detectron2.utils import comm
from torch import distributed as dist


def average_count(count: int, device: torch.device) -> torch.Tensor | float:
    """Number of targets of a process, averaged over the processes, at least 1.

    Sums of losses divided by it have the mean over the processes that one process with the whole
    batch would compute.
    """
    world_size = comm.get_world_size()
    if world_size == 1:
        return max(count, 1)
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return (total / world_size).clamp(min=1)
