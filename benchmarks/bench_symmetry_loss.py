"""The NOCS loss with symmetries, forward and backward, against a loop over the rotations."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import compare

from roca_nocs.geometry.symmetry import class_rotations
from roca_nocs.modeling.criteria.nocs_loss import NocsLoss

BINS, SIZE = 32, 28
CLASSES = ["bottle", "bowl", "camera", "can", "laptop", "mug"]
SYMMETRIC = ("bottle", "bowl", "can")


def rotation_loop(
    logits: torch.Tensor,
    coordinates: torch.Tensor,
    mask: torch.Tensor,
    rotations: torch.Tensor,
) -> torch.Tensor:
    """The loss with one cross-entropy of all regions for each rotation, then the minimum."""
    weights = mask[:, None].float()
    sums = []
    for rotation in rotations.unbind(dim=1):
        turned = torch.einsum("rij,rjhw->rihw", rotation, coordinates - 0.5) + 0.5
        bins = (turned * weights * BINS).floor().clamp(0, BINS - 1).long()
        values = F.cross_entropy(logits.flatten(0, 1), bins.flatten(0, 1), reduction="none")
        sums.append((values.unflatten(0, logits.shape[:2]) * weights).sum(dim=(2, 3)))
    sums = torch.stack(sums, dim=1)
    best = sums.detach().sum(dim=2).argmin(dim=1)
    chosen = sums[torch.arange(len(sums)), best] / (weights.sum(dim=(1, 2, 3)) + 1e-5)[:, None]
    return chosen.mean(dim=0)


def gradient(function: Callable[[], torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(function().sum(), logits)[0]


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for regions, samples in ((32, 6), (64, 6), (64, 20)):
        generator = torch.Generator().manual_seed(0)
        symmetries = {name: {"axis": "y", "order": "inf"} for name in SYMMETRIC}
        table = class_rotations(CLASSES, symmetries, samples)
        logits = torch.randn(regions, 3, BINS, SIZE, SIZE, generator=generator)
        directions = torch.randn(regions, 3, SIZE, SIZE, generator=generator)
        coordinates = 0.5 + 0.5 * F.normalize(directions, dim=1)
        mask = torch.rand(regions, SIZE, SIZE, generator=generator) < 0.6
        classes = torch.randint(len(CLASSES), (regions,), generator=generator)
        labelled = torch.ones(regions, dtype=torch.bool)
        loss = NocsLoss(rotations=table).to(device)
        logits, coordinates, mask, classes, labelled = (
            each.to(device) for each in (logits, coordinates, mask, classes, labelled)
        )
        logits.requires_grad_()
        rotations = loss.rotations[classes]

        def baseline(
            inputs: tuple[torch.Tensor, ...] = (logits, coordinates, mask, rotations),
        ) -> torch.Tensor:
            return gradient(lambda: rotation_loop(*inputs), inputs[0])

        def ours(
            loss: NocsLoss = loss,
            inputs: tuple[torch.Tensor, ...] = (logits, coordinates, mask, classes, labelled),
        ) -> torch.Tensor:
            return gradient(lambda: torch.stack([*loss(*inputs).values()]), inputs[0])

        torch.testing.assert_close(ours(), baseline())
        compare(
            f"NOCS symmetry loss {regions} regions x {SIZE}^2 x {BINS} bins, {samples} rotations, "
            "forward + backward, vs a loop over the rotations",
            baseline,
            ours,
            device=device,
        )


if __name__ == "__main__":
    main()
