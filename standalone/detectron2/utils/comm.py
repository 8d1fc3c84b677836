"""Collective communication that also works in a single, un-initialised process."""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist

# Of each default group, which is not kept: the threads of a group that outlives its closing can
# abort the process while the interpreter ends.
_LOCAL_GROUPS: WeakKeyDictionary[dist.ProcessGroup, dist.ProcessGroup] = WeakKeyDictionary()
_GLOO_GROUPS: WeakKeyDictionary[dist.ProcessGroup, dist.ProcessGroup] = WeakKeyDictionary()


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes over all machines."""
    return dist.get_world_size() if _is_initialized() else 1


def get_rank() -> int:
    """Index of this process over all machines."""
    return dist.get_rank() if _is_initialized() else 0


def is_main_process() -> bool:
    """Whether this process has rank 0."""
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Group the ranks that share a machine; ``launch`` does this for its processes.

    All processes must call it together. Calling it again with the same size changes nothing.

    Args:
        num_workers_per_machine: processes on each machine, a divisor of the world size. Rank ``r``
            is taken to run on machine ``r // num_workers_per_machine``.
    """
    world_size = get_world_size()
    if num_workers_per_machine < 1 or world_size % num_workers_per_machine:
        raise ValueError(
            f"num_workers_per_machine must divide the world size {world_size}, "
            f"got {num_workers_per_machine}."
        )
    if not _is_initialized():
        return
    world = dist.group.WORLD
    if world in _LOCAL_GROUPS:
        local_size = get_local_size()
        if local_size != num_workers_per_machine:
            raise ValueError(
                f"The local process group already exists with {local_size} processes, cannot "
                f"change it to {num_workers_per_machine}."
            )
        return
    # torch wants every process to create every group, in the same order.
    for first in range(0, world_size, num_workers_per_machine):
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)
        if get_rank() in ranks:
            _LOCAL_GROUPS[world] = group


def get_local_process_group() -> dist.ProcessGroup:
    """The group of the processes on this machine.

    Raises:
        RuntimeError: the group was never created.
    """
    if not _is_initialized() or dist.group.WORLD not in _LOCAL_GROUPS:
        raise RuntimeError(
            "Local process group is not yet created! Start processes with detectron2's launch(), "
            "or call comm.create_local_process_group(num_workers_per_machine) after "
            "torch.distributed.init_process_group()."
        )
    return _LOCAL_GROUPS[dist.group.WORLD]


def get_local_rank() -> int:
    """Index of this process on its machine."""
    return dist.get_rank(get_local_process_group()) if _is_initialized() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(get_local_process_group()) if _is_initialized() else 1


def synchronize() -> None:
    """Wait until all processes have come here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


def _cpu_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """A gloo group over all ranks, so that gathered objects take no GPU memory."""
    if dist.get_backend(world) != "nccl":
        return world
    if world not in _GLOO_GROUPS:
        _GLOO_GROUPS[world] = dist.new_group(backend="gloo")
    return _GLOO_GROUPS[world]


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Collect a picklable object from every process, on every process.

    Args:
        data: this process's contribution.
        group: defaults to all ranks, through the CPU.

    Returns:
        One entry per rank of the group, in rank order.
    """
    if get_world_size() == 1:
        return [data]
    group = group or _cpu_group(dist.group.WORLD)
    output = [None] * dist.get_world_size(group)
    dist.all_gather_object(output, data, group=group)
    return output


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Collect a picklable object from every process, on one of them.

    Args:
        data: this process's contribution.
        dst: global rank of the receiver.
        group: defaults to all ranks, through the CPU.

    Returns:
        One entry per rank of the group on ``dst``, an empty list elsewhere.
    """
    if get_world_size() == 1:
        return [data]
    group = group or _cpu_group(dist.group.WORLD)
    output = [None] * dist.get_world_size(group) if get_rank() == dst else None
    dist.gather_object(data, output, dst=dst, group=group)
    return output or []


def shared_random_seed() -> int:
    """A random number in ``[0, 2**31)`` on which all processes agree.

    All processes must call it together. Drawn from numpy's global generator of rank 0.
    """
    seed = np.random.randint(2**31)
    return all_gather(seed)[0]


def reduce_dict(
    input_dict: dict[str, torch.Tensor], average: bool = True
) -> dict[str, torch.Tensor]:
    """Sum or average scalar tensors over all processes.

    Args:
        input_dict: 0-d tensors on one device, with the same keys in every process.
        average: mean instead of sum.

    Returns:
        The reduced values on rank 0; the values on other ranks are meaningless. In a single
        process: ``input_dict`` itself.
    """
    world_size = get_world_size()
    if world_size == 1:
        return input_dict
    names = sorted(input_dict)
    with torch.no_grad():
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        if average:
            values = values / world_size
    return dict(zip(names, values, strict=True))
