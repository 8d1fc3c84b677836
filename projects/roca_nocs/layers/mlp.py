"""Multi-layer perceptrons on vectors and, shared by all pixels, on the pixels of masks.

The parameter names (``hiddens.0``, ``hiddens.2``, ``output`` for vectors; ``hiddens.0``,
``hiddens.1``, ``output`` for maps) are those of ROCA's published weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from roca_nocs.layers.masked_pixels import MaskedPixels


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
    """The same perceptron at every pixel of a list, with the parameters of 1x1 convolutions."""

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

    def forward(
        self, values: torch.Tensor, pixels: MaskedPixels, code: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            values: (M, K), of the pixels in the list.
            pixels: the list.
            code: (N, input_size - K), channels that are the same at all pixels of an instance
                and come before those of ``values``; None if K = input_size. The first layer
                multiplies them once per instance.

        Returns:
            (M, output_size or last of hidden_sizes).
        """
        (weight, bias), *others = (_parameters(layer) for layer in self.hiddens)
        if code is None:
            x = F.linear(values, weight, bias)
        else:
            of_code, of_values = weight.tensor_split([code.shape[1]], dim=1)
            x = torch.addmm(pixels.spread(F.linear(code, of_code, bias)), values, of_values.T)
        for weight, bias in others:
            x = F.linear(x.relu_(), weight, bias)
        x = x.relu_()
        return x if self.output is None else F.linear(x, *_parameters(self.output))


def _parameters(convolution: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (K, L) and bias (K,) of a 1x1 convolution."""
    return convolution.get_parameter("weight").flatten(1), convolution.get_parameter("bias")
