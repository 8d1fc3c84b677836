"""AlignDETR in two processes that average their gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.engine import create_ddp_model
from torch import nn

from processes import run_in_group, run_two

Inputs = list[dict[str, Any]]
Halves = tuple[Inputs, Inputs]
Step = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


def train_step(model: nn.Module, inputs: Inputs) -> Step:
    """Losses and gradients by name."""
    model.zero_grad()
    losses = model(inputs)
    sum(losses.values()).backward()
    named = getattr(model, "module", model).named_parameters()
    gradients = {name: parameter.grad.clone() for name, parameter in named}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def run_worker(rank: int, folder: Path) -> None:
    torch.manual_seed(rank)
    results = []
    for model, halves in torch.load(folder / "cases.pth", weights_only=False):
        options = {"broadcast_buffers": False, "find_unused_parameters": False}
        parallel = create_ddp_model(model, device_ids=None, **options)
        # An unused parameter of the first step would be an error in the second.
        results.append([train_step(parallel, halves[rank]) for _ in range(2)][-1])
    torch.save(results, folder / f"out{rank}.pth")


def steps_of_two(cases: list[tuple[nn.Module, Halves]], folder: Path) -> list[tuple[Step, Step]]:
    """For each case the step of both processes, which run the model on a half each."""
    torch.save(cases, folder / "cases.pth")
    run_two(__file__, folder, timeout=280)
    first, second = (torch.load(folder / f"out{rank}.pth") for rank in range(2))
    return list(zip(first, second, strict=True))


def test_two_processes(tmp_path: Path) -> None:
    from modeling.tiny_align_detr import build_align_detr, tiny_config
    from modeling.tiny_roca import make_input

    full = [make_input(3, seed=1), make_input(2, seed=2)]
    without_targets = full, [make_input(0, seed=3), make_input(0, seed=4)]
    # Without random numbers, and without statistics of the half that a process has.
    exact = build_align_detr(tiny_config(dn_number=0))
    exact.backbone.eval()
    uneven = full, [make_input(1, seed=3), make_input(0, seed=4)]
    cases = [(build_align_detr(), without_targets), (exact, uneven)]
    one_is_empty, mean_of_halves = steps_of_two(cases, tmp_path)

    # A process without targets has no denoising queries, but the keys and gradients of the other.
    (losses, gradients), (empty, others) = one_is_empty
    assert losses.keys() == empty.keys()
    assert losses["loss_class_dn"] > 0 and empty["loss_class_dn"] == 0
    assert all(loss.isfinite() for loss in (*losses.values(), *empty.values()))
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name
        assert torch.equal(gradient, others[name]), name

    (first, gradients), (second, _) = mean_of_halves
    losses, expected = train_step(exact, uneven[0] + uneven[1])
    assert first.keys() == losses.keys()
    for name, loss in losses.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, loss, msg=name)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


if __name__ == "__main__":
    run_in_group(run_worker)
