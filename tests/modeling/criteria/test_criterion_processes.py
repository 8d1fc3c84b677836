"""Two processes with half of a batch each: the mean of their losses is that of the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from roca_nocs.modeling.criteria import AlignDETRCriterion, MixedMatcher

MATCH_NUM = [2, 2, 2, 1]


def losses_of(outputs: dict, targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    num_classes = outputs["pred_logits"].shape[-1]
    return AlignDETRCriterion(num_classes, MixedMatcher(), MATCH_NUM, tau=1.5)(outputs, targets)


def run_worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    try:
        torch.save(losses_of(*torch.load(folder / f"input{rank}.pth")), folder / f"out{rank}.pth")
    finally:
        dist.destroy_process_group()


def test_two_processes(tmp_path: Path) -> None:
    from modeling.criteria.detector_outputs import map_tensors, random_outputs, random_targets

    # The second process has one target and an image without any: unequal shares.
    outputs, targets = random_outputs(4, single_padding=10), random_targets([5, 4, 1, 0])
    for rank in range(2):
        images = slice(2 * rank, 2 * rank + 2)
        half = map_tensors(outputs, lambda each, images=images: each[images])
        torch.save((half, targets[images]), tmp_path / f"input{rank}.pth")
    # This file is run as a program: the workers need no importable test package.
    commands = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in range(2)]
    workers = [subprocess.Popen(command) for command in commands]
    try:
        assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    first, second = (torch.load(tmp_path / f"out{rank}.pth") for rank in range(2))
    expected = losses_of(outputs, targets)
    assert set(first) == set(second) == set(expected)
    for name, loss in expected.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, loss, msg=name)


if __name__ == "__main__":
    run_worker(int(sys.argv[1]), Path(sys.argv[2]))
