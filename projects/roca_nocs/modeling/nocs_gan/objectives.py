"""What discriminator and generator minimise, and the data that they share.

R regions, S x S pixels. Scores are those of `discriminators`, (R,).

An objective has two methods. ``generator_loss(scores)`` is what the generator minimises. The
iterator ``updates(discriminator, batch)`` gives, for each step of the discriminator's optimizer, a
dict of losses to be added up and one of accuracies. It must be asked for the next ones, and for its
end, only after the step was made. A batch has labelled regions; a process of several that has none
passes None and gets as many empty dicts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["AdversarialBatch", "BinaryCrossEntropy", "Wasserstein"]

Update = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class AdversarialBatch:
    """Detached NOCS maps of R regions; outside of the objects all of them are 0.

    Attributes:
        fake: (R, 3, S, S) float32 in [0, 1], predicted.
        real: (R, 3, S, S) float32 in [0, 1], of the same regions; 0 without labels.
        labelled: (R,) bool, whether there is a real map.
        classes: (R,) int64.
        depth: (R, 1, S, S) float32, see `critique.depth_context`; None if not used.
    """

    fake: torch.Tensor
    real: torch.Tensor
    labelled: torch.Tensor
    classes: torch.Tensor
    depth: torch.Tensor | None

    def __getitem__(self, rows: torch.Tensor) -> AdversarialBatch:
        """The regions that an index or a mask (R,) selects."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        selected: dict[str, Any] = {k: None if v is None else v[rows] for k, v in values.items()}
        return AdversarialBatch(**selected)

    @classmethod
    def concatenate(cls, batches: Sequence[AdversarialBatch]) -> AdversarialBatch:
        """All regions of one or more batches."""
        columns = {
            field.name: [getattr(batch, field.name) for batch in batches]
            for field in dataclasses.fields(cls)
        }
        joined: dict[str, Any] = {
            k: None if v[0] is None else torch.cat(v) for k, v in columns.items()
        }
        return cls(**joined)


class BinaryCrossEntropy:
    """The original game (Goodfellow et al., 2014), with the non-saturating loss of the generator.

    The discriminator makes one step on the real maps, then one on the predicted ones. Its score is
    the logit of a map being real.
    """

    def generator_loss(self, scores: torch.Tensor) -> torch.Tensor:
        """Scalar: how certain the discriminator is that predicted maps are not real."""
        return -F.logsigmoid(scores).mean()

    def updates(self, discriminator: nn.Module, batch: AdversarialBatch | None) -> Iterator[Update]:
        """Two steps; see the module."""
        if batch is None:
            yield from [({}, {})] * 2
            return
        real = batch[batch.labelled]
        scores = discriminator(real.real, real.classes, real.depth)
        yield (
            {"loss_real": -F.logsigmoid(scores).mean()},
            {"real_accuracy": (scores > 0).float().mean()},
        )
        fake, weights = _weighted_fakes(discriminator, batch)
        scores = discriminator(fake.fake, fake.classes, fake.depth)
        yield (
            {"loss_fake": -(weights * F.logsigmoid(-scores)).sum()},
            {"fake_accuracy": (weights * (scores < 0)).sum()},
        )


class Wasserstein:
    """The Wasserstein game, in which the score is a cost: low for real maps.

    The discriminator is held near the functions with slope at most 1 by a penalty on its gradient
    (Gulrajani et al., 2017) or by clipping its parameters (Arjovsky et al., 2017). Without either
    the loss has no lower bound.
    """

    def __init__(self, *, gradient_penalty: float = 10.0, weight_clip: float | None = None) -> None:
        """
        Args:
            gradient_penalty: weight of (|gradient| - 1)^2, at random points between the real and
                the predicted map of a region; 0 for none.
            weight_clip: largest absolute value of a parameter, 0.01 in the paper.

        Raises:
            ValueError: both are given, or one is negative.
        """
        if gradient_penalty < 0 or (weight_clip is not None and weight_clip <= 0):
            raise ValueError(
                f"gradient_penalty must be at least 0 and weight_clip positive, got "
                f"{gradient_penalty} and {weight_clip}"
            )
        if gradient_penalty and weight_clip is not None:
            raise ValueError(
                f"weight_clip={weight_clip} needs gradient_penalty=0, got {gradient_penalty}: "
                "parameters this small cannot reach the slope that the penalty asks for"
            )
        self.gradient_penalty = gradient_penalty
        self.weight_clip = weight_clip

    def generator_loss(self, scores: torch.Tensor) -> torch.Tensor:
        """Scalar: mean cost of the predicted maps."""
        return scores.mean()

    def updates(self, discriminator: nn.Module, batch: AdversarialBatch | None) -> Iterator[Update]:
        """One step, behind which parameters are clipped; see the module."""
        yield ({}, {}) if batch is None else self._update(discriminator, batch)
        if self.weight_clip is not None:
            with torch.no_grad():
                for parameter in discriminator.parameters():
                    parameter.clamp_(-self.weight_clip, self.weight_clip)

    def _update(self, discriminator: nn.Module, batch: AdversarialBatch) -> Update:
        labelled = batch[batch.labelled]
        real = discriminator(labelled.real, labelled.classes, labelled.depth)
        fakes, weights = _weighted_fakes(discriminator, batch)
        fake = discriminator(fakes.fake, fakes.classes, fakes.depth)
        losses = {"loss_real": real.mean(), "loss_fake": -(weights * fake).sum()}
        # A cost has no fixed threshold: the one half way between the means.
        threshold = (losses["loss_real"] - losses["loss_fake"]).detach() / 2
        accuracies = {
            "real_accuracy": (real < threshold).float().mean(),
            "fake_accuracy": (weights * (fake > threshold)).sum(),
        }
        if self.gradient_penalty:
            penalty = _squared_excess_slope(discriminator, labelled)
            losses["loss_gradient_penalty"] = self.gradient_penalty * penalty
        return losses, accuracies


def _weighted_fakes(
    discriminator: nn.Module, batch: AdversarialBatch
) -> tuple[AdversarialBatch, torch.Tensor]:
    """The regions whose predicted maps count, and their weights (R,), which add up to 1.

    All count alike, also those without labels. Where each class has parameters of its own, a class
    weighs as much among the predicted maps as among the real ones: else the classes of images
    without labels would teach these parameters that nothing is real.
    """
    if not discriminator.class_specific:
        count = len(batch.classes)
        return batch, batch.fake.new_full((count,), 1 / count)
    real = torch.bincount(batch.classes[batch.labelled], minlength=int(batch.classes.max()) + 1)
    fake = torch.bincount(batch.classes)
    weights = (real / (real.sum() * fake.clamp(min=1)))[batch.classes]
    rows = weights > 0
    return batch[rows], weights[rows]


def _squared_excess_slope(discriminator: nn.Module, batch: AdversarialBatch) -> torch.Tensor:
    """Mean of (|gradient of the score with respect to the map| - 1)^2, scalar."""
    mix = torch.rand(len(batch.classes), 1, 1, 1, device=batch.real.device)
    points = torch.lerp(batch.real, batch.fake, mix).requires_grad_()
    scores = discriminator(points, batch.classes, batch.depth)
    (gradient,) = torch.autograd.grad(scores.sum(), points, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
