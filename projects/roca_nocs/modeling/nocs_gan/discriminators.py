"""Networks that tell the predicted NOCS maps of regions from the true ones.

R regions, S x S pixels (28 x 28 in the published networks), C classes, F features. All of them are
called with coordinates (R, 3, S, S) float32, class ids (R,) int64 and a depth context
(R, 1, S, S) or None, and return one score for each region, (R,), before any sigmoid. They need
at least one region. Two attributes tell how they judge:

* ``class_specific``: the score depends on the class id, with parameters of each class;
* ``uses_depth``: the depth context is needed.

Parameter names are those of the ganocs project, so that its state dicts load.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from roca_nocs.layers.grouped import select_class

__all__ = ["ConvDiscriminator", "DepthAwareDiscriminator", "FilmConv", "PerClassDiscriminators"]

_SLOPE = 0.2  # of the leaky ReLUs
_INITIAL_STD = 0.02  # DCGAN's (Radford et al., 2016)


class ConvDiscriminator(nn.Module):
    """DCGAN's discriminator: four strided convolutions and a linear layer."""

    def __init__(
        self,
        *,
        features: int = 64,
        num_outputs: int = 1,
        with_depth: bool = False,
        batch_norm: bool = True,
    ) -> None:
        """
        Args:
            features: F; the convolutions have F, 2F, 4F and 8F channels.
            num_outputs: 1 for all classes together, or C, of which that of its class counts for a
                region.
            with_depth: concatenate the depth context with the coordinates.
            batch_norm: leave it out for a gradient penalty, which is defined for each sample by
                itself, and where a batch may be a single region.
        """
        super().__init__()
        self.class_specific = num_outputs > 1
        self.uses_depth = with_depth
        layers: list[nn.Module] = []
        channels = 4 if with_depth else 3
        for width in (features, 2 * features, 4 * features, 8 * features):
            convolution = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
            nn.init.normal_(convolution.weight, std=_INITIAL_STD)
            norm = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
            layers += [convolution, norm, nn.LeakyReLU(_SLOPE)]
            channels = width
        self.model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * channels, num_outputs))

    def forward(
        self, coordinates: torch.Tensor, classes: torch.Tensor, depth: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores (R,).

        Raises:
            ValueError: S is not within 17 to 32, or there is no depth and it is needed.
        """
        _check_size(coordinates, 17, 32)
        if self.uses_depth:
            coordinates = torch.cat([coordinates, _present(depth)], dim=1)
        scores = self.model(coordinates)
        return select_class(scores, classes, 1)[:, 0] if self.class_specific else scores[:, 0]


class FilmConv(nn.Module):
    """A convolution whose output is scaled and shifted by a context (FiLM, Perez et al., 2018).

    y = gate(context) * LeakyReLU(convolution(x)) + bias(context): behind the activation, and the
    scale is the gate itself, without the usual 1 added.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        context_size: int,
        *,
        kernel_size: int,
        stride: int,
        padding: int,
    ) -> None:
        """
        Args:
            context_size: numbers in the context of a sample.
            in_channels, out_channels, kernel_size, stride, padding: of the convolution.
        """
        super().__init__()
        self.layer = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding),
            nn.LeakyReLU(_SLOPE),
        )
        self.bias = nn.Linear(context_size, out_channels, bias=False)
        self.gate = nn.Linear(context_size, out_channels)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Modulated features (R, out_channels, ...) of x (R, in_channels, S, S)."""
        gate, bias = (each(context)[..., None, None] for each in (self.gate, self.bias))
        return gate * self.layer(x) + bias


class _DepthEncoder(nn.Module):
    """Depth contexts (R, 1, S, S) -> (R, context_size)."""

    def __init__(self, features: int, context_size: int) -> None:
        super().__init__()
        widths = [1, features, 2 * features, 2 * features, 2 * features]
        blocks = [
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1),
                nn.BatchNorm2d(outputs),
                nn.SELU(),
            )
            for inputs, outputs in pairwise(widths)
        ]
        self.layers = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(4 * widths[-1], context_size))

    def forward(self, depth: torch.Tensor) -> torch.Tensor:
        return self.layers(depth)


class DepthAwareDiscriminator(nn.Module):
    """Convolutions on the coordinates, modulated by what an encoder sees of the depth."""

    class_specific = False
    uses_depth = True

    def __init__(self, *, features: int = 64, context_size: int = 64) -> None:
        """
        Args:
            features: F; three convolutions have F, 2F and 4F channels, the encoder F and 2F.
            context_size: numbers that describe the depth of a region.
        """
        super().__init__()
        halving = {"kernel_size": 4, "stride": 2, "padding": 1}
        widths = [3, features, 2 * features, 4 * features]
        layers = [
            FilmConv(inputs, outputs, context_size, **halving)
            for inputs, outputs in pairwise(widths)
        ]
        layers.append(FilmConv(widths[-1], 1, context_size, kernel_size=3, stride=1, padding=0))
        self._contextual_layers = nn.ModuleList(layers)
        self._depth_encoder = _DepthEncoder(features, context_size)

    def forward(
        self, coordinates: torch.Tensor, classes: torch.Tensor, depth: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores (R,).

        Raises:
            ValueError: S is not within 24 to 31, or there is no depth.
        """
        _check_size(coordinates, 24, 31)
        context = self._depth_encoder(_present(depth))
        for layer in self._contextual_layers:
            coordinates = layer(coordinates, context)
        return coordinates.flatten()


class PerClassDiscriminators(nn.Module):
    """A network of its own for each class.

    They share no parameter: one step of an optimizer on all of them is one step of each network
    whose class occurs. The regions of a class are judged together.
    """

    class_specific = True

    def __init__(self, discriminators: Sequence[nn.Module]) -> None:
        """
        Args:
            discriminators: C networks, in the order of the class ids.
        """
        super().__init__()
        self.discriminators = nn.ModuleList(discriminators)
        self.uses_depth = any(each.uses_depth for each in discriminators)

    def forward(
        self, coordinates: torch.Tensor, classes: torch.Tensor, depth: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores (R,).

        Raises:
            ValueError: a class id has no network.
        """
        counts = torch.bincount(classes, minlength=len(self.discriminators)).tolist()
        if len(counts) > len(self.discriminators):
            raise ValueError(
                f"class id {len(counts) - 1} has no discriminator, there are "
                f"{len(self.discriminators)}: give one for each class of the data set"
            )
        order = classes.argsort(stable=True)
        scores = [
            network(coordinates[rows], classes[rows], None if depth is None else depth[rows])
            for network, rows in zip(self.discriminators, order.split(counts), strict=True)
            if len(rows)
        ]
        return torch.cat(scores)[order.argsort()]


def _check_size(coordinates: torch.Tensor, smallest: int, largest: int) -> None:
    if not all(smallest <= size <= largest for size in coordinates.shape[2:]):
        raise ValueError(
            f"this discriminator judges maps of {smallest} to {largest} pixels a side, got "
            f"{tuple(coordinates.shape[2:])}: change the output size of the NOCS head's pooler"
        )


def _present(depth: torch.Tensor | None) -> torch.Tensor:
    if depth is None:
        raise ValueError(
            "this discriminator looks at the depth of the regions, but there is none: let the "
            "mapper load depth maps, or take a discriminator without depth"
        )
    return depth
