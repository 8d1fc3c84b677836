"""Two processes with half of a batch each: the mean of their losses is that of the whole batch."""

from __future__ import annotations

from pathlib import Path

import torch

from processes import run_in_group, run_two
from roca_nocs.modeling.criteria import AlignDETRCriterion, MixedMatcher

MATCH_NUM = [2, 2, 2, 1]


def losses_of(outputs: dict, targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    num_classes = outputs["pred_logits"].shape[-1]
    return AlignDETRCriterion(num_classes, MixedMatcher(), MATCH_NUM, tau=1.5)(outputs, targets)


def run_worker(rank: int, folder: Path) -> None:
    torch.save(losses_of(*torch.load(folder / f"input{rank}.pth")), folder / f"out{rank}.pth")


def test_two_processes(tmp_path: Path) -> None:
    from modeling.criteria.detector_outputs import map_tensors, random_outputs, random_targets

    # The second process has one target and an image without any: unequal shares.
    outputs, targets = random_outputs(4, single_padding=10), random_targets([5, 4, 1, 0])
    for rank in range(2):
        images = slice(2 * rank, 2 * rank + 2)
        half = map_tensors(outputs, lambda each, images=images: each[images])
        torch.save((half, targets[images]), tmp_path / f"input{rank}.pth")
    run_two(__file__, tmp_path, timeout=240)
    first, second = (torch.load(tmp_path / f"out{rank}.pth") for rank in range(2))
    expected = losses_of(outputs, targets)
    assert set(first) == set(second) == set(expected)
    for name, loss in expected.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, loss, msg=name)


if __name__ == "__main__":
    run_in_group(run_worker)
