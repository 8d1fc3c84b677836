"""The NOCS head: features of regions to the object coordinates that their cells show.

R regions, C classes, B bins, S x S cells, twice the side of the pooled features. Wang et al., CVPR
2019; layers and parameter names are those of the ganocs project, whose original style has the
network of the official program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from detectron2.layers import get_norm
from torch import nn

from roca_nocs.layers.coordinate_bins import (
    check_bin_rule,
    decode_outputs,
    expected_coordinates,
)
from roca_nocs.layers.stored_batch_norm import StoredBatchNorm2d

__all__ = ["STYLES", "NocsHead"]

STYLES = {
    "tiny": ((64, 64), 64, (64,), 64),
    "experimental": ((256, 256, 256, 512), 256, (256, 128), 128),
}
"""Networks of the ganocs project besides ``"original"``: channels of the convolutions before the
upsampling, of the upsampling, of the convolutions after it, of the predictor's hidden layer."""

_LeakyReLU = partial(nn.LeakyReLU, 0.2)


class NocsHead(nn.Module):
    """One tower of convolutions for each of x, y and z, or one for all three; each region uses the
    outputs of its class.

    With bins an axis is a classification problem, without them a regression; with offsets it is
    both: a bin, and the place in it.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_bins: int = 32,
        conv_dims: Sequence[int] = (256, 256, 256, 256, 256),
        norm: str = "BN",
        style: str = "original",
        shared_tower: bool = False,
        head_per_class: bool = False,
        bin_rule: str = "centre",
        bin_offsets: bool = False,
    ) -> None:
        """
        Args:
            in_channels: of the pooled features.
            num_classes: C, foreground classes.
            num_bins: B; 1 regresses.
            conv_dims: channels of the 3x3 convolutions and, last, of the upsampling; of the
                original style.
            norm: of the convolutions, ``"StoredBN"`` (``layers.stored_batch_norm``), as in the
                official program, or one of ``detectron2.layers.get_norm``.
            style: ``"original"`` or one of ``STYLES``.
            shared_tower: x, y and z differ in their predictors only. The official program has 8
                convolutions of 512 channels in this form.
            head_per_class: towers of its own for every class.
            bin_rule: see ``layers.coordinate_bins``.
            bin_offsets: predict the place in each bin too.

        Raises:
            ValueError: an unknown style or rule; offsets without bins, or of bins by a rule that
                does not have them.
        """
        super().__init__()
        if style != "original" and style not in STYLES:
            raise ValueError(f"style is {style!r}; expected 'original' or one of {list(STYLES)}")
        if bin_offsets and (num_bins == 1 or bin_rule == "ganocs"):
            raise ValueError(
                f"bin_offsets needs more than one bin and the rule 'centre' or 'nocs', got "
                f"num_bins={num_bins} and bin_rule={bin_rule!r}"
            )
        self.num_classes = num_classes
        self.num_bins = num_bins
        self.head_per_class = head_per_class
        self.bin_rule = check_bin_rule(bin_rule)
        self.bin_offsets = bin_offsets
        self._outputs = 2 * num_bins if bin_offsets else num_bins  # of a class and axis
        self._towers = ("xyz",) if shared_tower else ("x", "y", "z")  # the axes of each

        make_norm = partial(get_norm, StoredBatchNorm2d if norm == "StoredBN" else norm)

        def towers(outputs: int) -> nn.ModuleDict:
            if style == "original":
                make = partial(_original_tower, in_channels, tuple(conv_dims), make_norm)
            else:
                make = partial(_styled_tower, in_channels, *STYLES[style], make_norm)
            return nn.ModuleDict({axes: make(len(axes) * outputs) for axes in self._towers})

        if head_per_class:
            self.head: nn.Module = nn.ModuleList(towers(self._outputs) for _ in range(num_classes))
        else:
            self.head = towers(num_classes * self._outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def regresses(self) -> bool:
        """Whether the outputs are coordinates instead of bins."""
        return self.num_bins == 1

    def forward(self, features: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Predict the coordinates of each region as an object of its class.

        Args:
            features: (R, in_channels, S / 2, S / 2).
            classes: (R,) int64 in [0, C).

        Returns:
            float32, of the kind of the head, see ``layers.coordinate_bins``: logits of the bins
            (R, 3, B, S, S); with offsets (R, 3, 2, B, S, S); or coordinates (R, 3, S, S) in [0, 1].
        """
        if len(features) == 0:
            return self._nothing(features)
        if self.head_per_class:
            rows = torch.arange(len(classes), device=classes.device)
            parts = [
                torch.stack([towers[axes](features) for towers in self.head], dim=1)[rows, classes]
                for axes in self._towers
            ]
        else:
            parts = [
                _outputs_of_class(self.head[axes], features, classes, len(axes) * self._outputs)
                for axes in self._towers
            ]
        outputs = torch.cat([each.unflatten(1, (-1, self._outputs)) for each in parts], dim=1)
        outputs = outputs.float()
        if self.regresses:
            return (outputs[:, :, 0].tanh() + 1) / 2
        return outputs.unflatten(2, (2, -1)) if self.bin_offsets else outputs

    def decode(self, outputs: torch.Tensor) -> torch.Tensor:
        """Coordinates (R, 3, S, S) float32 in [0, 1] of outputs; of bins the most probable."""
        return decode_outputs(outputs, self.bin_rule)

    def expectation(self, outputs: torch.Tensor) -> torch.Tensor:
        """The same with gradient: of bins the expectation."""
        return expected_coordinates(outputs, self.bin_rule)

    def _nothing(self, features: torch.Tensor) -> torch.Tensor:
        """Outputs of no region, through which every parameter gets a zero gradient."""
        side = 2 * features.shape[-1]
        pair = (2,) if self.bin_offsets else ()
        bins = () if self.regresses else (self.num_bins,)
        zero = sum(parameter.sum() * 0 for parameter in self.parameters())
        return features.new_zeros(0, 3, *pair, *bins, side, side, dtype=torch.float32) + zero


def _outputs_of_class(
    tower: nn.Sequential, features: torch.Tensor, classes: torch.Tensor, count: int
) -> torch.Tensor:
    """(R, count, S, S): the last layer evaluated for one class of each region only."""
    *body, predictor = tower
    for layer in (*body, *predictor[:-1]):
        features = layer(features)
    weight, bias = predictor[-1].weight, predictor[-1].bias
    weight = weight.reshape(-1, count, weight.shape[1])[classes]
    bias = bias.reshape(-1, count, 1)[classes]
    return torch.baddbmm(bias, weight, features.flatten(2)).unflatten(2, features.shape[2:])


_MakeNorm = Callable[[int], nn.Module]


def _conv(
    in_channels: int,
    channels: int,
    norm: _MakeNorm,
    bias: bool,
    activation: Callable[[], nn.Module],
) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias)
    return nn.Sequential(conv, norm(channels), activation())


def _original_tower(
    in_channels: int, conv_dims: tuple[int, ...], norm: _MakeNorm, outputs: int
) -> nn.Sequential:
    *dims, up = conv_dims
    convs = [
        _conv(before, after, norm, False, nn.ReLU)
        for before, after in zip((in_channels, *dims[:-1]), dims, strict=True)
    ]
    return nn.Sequential(
        nn.Sequential(*convs),
        nn.Sequential(
            nn.ConvTranspose2d(dims[-1], up, 2, stride=2), nn.ReLU(), nn.Conv2d(up, outputs, 1)
        ),
    )


def _styled_tower(
    in_channels: int,
    before: tuple[int, ...],
    up: int,
    after: tuple[int, ...],
    hidden: int,
    norm: _MakeNorm,
    outputs: int,
) -> nn.Sequential:
    dims = (in_channels, *before)
    blocks = [_conv(a, b, norm, True, _LeakyReLU) for a, b in zip(dims, before, strict=False)]
    upsample = nn.ConvTranspose2d(before[-1], up, 2, stride=2)
    blocks.append(nn.Sequential(upsample, norm(up), _LeakyReLU()))
    dims = (up, *after)
    blocks += [_conv(a, b, norm, True, _LeakyReLU) for a, b in zip(dims, after, strict=False)]
    predictor = nn.Sequential(
        nn.Conv2d(after[-1], hidden, 3, padding=1), _LeakyReLU(), nn.Conv2d(hidden, outputs, 1)
    )
    return nn.Sequential(*blocks, predictor)
