"""Predicting the loss of a NOCS map from the map alone (ganocs, given up there for the GAN).

A network that knows which maps are bad can point at objects that are worth a label, and its
gradient can mend a map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

__all__ = ["LossPredictor", "balancing_weights", "reduce_predicted_loss"]


class LossPredictor(nn.Module):
    """ResNet-18 whose output z becomes the loss -log sigmoid(z), which is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.network = resnet18(weights=None, num_classes=1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Predicted losses (N,) of maps (N, 3, H, W) float in [0, 1], 0 outside the object."""
        return -F.logsigmoid(self.network(maps)[:, 0])


def balancing_weights(losses: torch.Tensor, edges: int = 100) -> torch.Tensor:
    """Sampling weights that show all magnitudes of the loss equally often.

    The range of the losses is cut into ``edges - 1`` intervals of equal width; the last one is
    closed, so that the largest loss counts too.

    Args:
        losses: (N,), finite.
        edges: number of interval ends, at least 2.

    Returns:
        (N,) float64: N over the number of losses in the same interval.
    """
    if not len(losses):
        return losses.double()
    losses = losses.double()
    lowest, width = losses.min(), losses.max() - losses.min()
    share = (losses - lowest) / torch.where(width > 0, width, 1)
    intervals = (share * (edges - 1)).long().clamp(max=edges - 2)
    return len(losses) / torch.bincount(intervals, minlength=edges - 1)[intervals].double()


def reduce_predicted_loss(
    predictor: LossPredictor, maps: torch.Tensor, *, steps: int = 10, lr: float = 0.1
) -> torch.Tensor:
    """Change maps so that less loss is predicted for them, by steps of Adam.

    Args:
        predictor: in evaluation mode; its weights get no gradient.
        maps: (N, 3, H, W) float in [0, 1].
        steps: number of steps.
        lr: of Adam.

    Returns:
        (N, 3, H, W), detached, in [0, 1].
    """
    changed = maps.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([changed], lr=lr)
    for _ in range(steps):
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(predictor(changed).sum(), changed)
        changed.grad = gradient
        optimizer.step()
    return changed.detach().clamp(0, 1)
