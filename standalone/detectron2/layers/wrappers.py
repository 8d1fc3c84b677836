"""Small additions to layers and functions of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .batch_norm import FrozenBatchNorm2d

BatchNorm2d = nn.BatchNorm2d
ConvTranspose2d = nn.ConvTranspose2d
Linear = nn.Linear
interpolate = F.interpolate


class Conv2d(nn.Conv2d):
    """A convolution followed by an optional normalisation and an optional activation."""

    def __init__(
        self,
        *args: Any,
        norm: nn.Module | None = None,
        activation: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the layer.

        Args:
            *args: arguments of ``torch.nn.Conv2d``.
            norm: module applied to the output; called ``norm`` in the state dict.
            activation: function or module applied last.
            **kwargs: arguments of ``torch.nn.Conv2d``.
        """
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W) -> (N, C', H', W')``."""
        if isinstance(self.norm, FrozenBatchNorm2d) and self._folding_pays(x):
            scale, shift = self.norm.scale_and_shift()
            bias = shift if self.bias is None else shift + scale * self.bias
            x = self._conv_forward(x, self.weight * scale.view(-1, 1, 1, 1), bias)
        else:
            x = super().forward(x)
            if self.norm is not None:
                x = self.norm(x)
        return x if self.activation is None else self.activation(x)

    def _folding_pays(self, x: torch.Tensor) -> bool:
        """Whether scaling the weights is less work than scaling the output; not for training."""
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            return False
        cells = x[:, :1].numel() // (self.stride[0] * self.stride[1])
        return cells * self.out_channels > self.weight.numel()


def cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """``torch.cat`` that returns a single tensor as it is, without a copy."""
    assert isinstance(tensors, list | tuple), (
        f"cat needs a list or tuple of tensors, got {type(tensors).__name__}."
    )
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def nonzero_tuple(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Indices of the non-zero elements, one tensor per dimension."""
    return x.nonzero(as_tuple=True)


def cross_entropy(
    input: torch.Tensor, target: torch.Tensor, *, reduction: str = "mean", **kwargs: Any
) -> torch.Tensor:
    """``F.cross_entropy`` whose mean over no element is 0, with a gradient, instead of NaN."""
    if target.numel() == 0 and reduction == "mean":
        return input.sum() * 0.0
    return F.cross_entropy(input, target, reduction=reduction, **kwargs)


def shapes_to_tensor(x: Sequence[int], device: torch.device | None = None) -> torch.Tensor:
    """Sizes as an int64 tensor."""
    return torch.as_tensor(x, device=device)


def move_device_like(src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
    """``src`` on the device of ``dst``."""
    return src.to(dst.device)
