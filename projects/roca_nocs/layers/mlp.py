"""Multi-layer perceptrons on vectors and, shared by all pixels, on maps.

The parameter names (``hiddens.0``, ``hiddens.2``, ``output`` for vectors; ``hiddens.0``,
``hiddens.1``, ``output`` for maps) are those of ROCA's published weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


class MLP(nn.Module):
    """Linear layers with a ReLU after each hidden one."""

    def __init__(
        self, input_size: int, hidden_sizes: Sequence[int], output_size: int | None = None
    ) -> None:
        """
        Args:
            input_size: numbers in.
            hidden_sizes: numbers after each hidden layer.
            output_size: numbers out, of a last layer without activation; None ends with the last
                hidden layer.
        """
        super().__init__()
        sizes = [input_size, *hidden_sizes]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.hiddens = nn.Sequential(*layers)
        self.output = None if output_size is None else nn.Linear(sizes[-1], output_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, input_size) to (N, output_size or last of hidden_sizes)."""
        x = self.hiddens(x)
        return x if self.output is None else self.output(x)


class SharedMLP(nn.Module):
    """The same perceptron at every pixel (1x1 convolutions)."""

    def __init__(
        self, input_size: int, hidden_sizes: Sequence[int], output_size: int | None = None
    ) -> None:
        """Arguments as for :class:`MLP`."""
        super().__init__()
        sizes = [input_size, *hidden_sizes]
        self.hiddens = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=1) for before, after in pairwise(sizes)
        )
        self.output = None if output_size is None else nn.Conv2d(sizes[-1], output_size, 1)

    def forward(self, maps: torch.Tensor, code: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            maps: (N, K, H, W).
            code: (N, input_size - K), channels that are the same at all pixels of an instance
                and come before those of ``maps``; None if K = input_size. The first layer
                multiplies them once per instance: they are never spread over the pixels.

        Returns:
            (N, output_size or last of hidden_sizes, H, W).
        """
        (weight, bias), *others = (_parameters(layer) for layer in self.hiddens)
        x = maps.flatten(2)
        if code is None:
            x = _apply(x, weight, bias[:, None])
        else:
            of_code, of_maps = weight.tensor_split([code.shape[1]], dim=1)
            x = _apply(x, of_maps, F.linear(code, of_code, bias)[..., None])
        for weight, bias in others:
            x = _apply(x.relu_(), weight, bias[:, None])
        x = x.relu_()
        if self.output is not None:
            weight, bias = _parameters(self.output)
            x = _apply(x, weight, bias[:, None])
        return x.unflatten(2, maps.shape[2:])


def _apply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution of (N, K, P) as a matrix product: half the time of conv2d on a CPU."""
    return torch.baddbmm(bias, weight.expand(len(x), -1, -1), x)


def _parameters(convolution: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (K, L) and bias (K,) of a 1x1 convolution."""
    return convolution.get_parameter("weight").flatten(1), convolution.get_parameter("bias")
