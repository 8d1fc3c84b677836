"""Weighted Procrustes of many regions, forward and backward, against roma."""

from collections.abc import Callable

import roma
import torch
from timing import compare

from roca_nocs.geometry.procrustes import weighted_procrustes

POINTS = 1024


def run(solve: Callable[..., tuple[torch.Tensor, ...]], inputs: tuple[torch.Tensor, ...]) -> object:
    source, target, weights = inputs
    rotation, translation = solve(source.mT, target.mT, weights)
    return torch.autograd.grad(rotation.sum() + translation.sum(), inputs)


def main() -> None:
    for count in (128, 512):
        generator = torch.Generator().manual_seed(0)
        source = torch.rand(count, 3, POINTS, generator=generator) - 0.5
        target = source + 0.1 * torch.randn(source.shape, generator=generator)
        weights = torch.rand(count, POINTS, generator=generator)
        # The memory order that maps of regions have.
        inputs = tuple(each.requires_grad_() for each in (source, target, weights))
        for name, options in (("as ROCA solves", {}), ("centred", {"centred": True})):
            compare(
                f"weighted Procrustes {count} x {POINTS}, {name}, forward + backward, vs "
                "roma.rigid_points_registration",
                lambda inputs=inputs: run(roma.rigid_points_registration, inputs),
                lambda inputs=inputs, options=options: run(
                    lambda *a: weighted_procrustes(*a, **options), inputs
                ),
            )


if __name__ == "__main__":
    main()
