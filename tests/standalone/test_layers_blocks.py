"""Separable convolutions and atrous pyramid pooling."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ASPP, DepthwiseSeparableConv2d
from torch import nn


def test_separable_convolution() -> None:
    layer = DepthwiseSeparableConv2d(6, 8, 3, padding=2, dilation=2, norm1="BN", norm2="BN")
    assert layer.depthwise.weight.shape == (6, 1, 3, 3)
    assert layer.pointwise.weight.shape == (8, 6, 1, 1)
    assert layer.depthwise.bias is None and layer.pointwise.bias is None
    assert layer(torch.rand(2, 6, 5, 7)).shape == (2, 8, 5, 7)


def test_separable_convolution_without_norm_has_a_bias() -> None:
    layer = DepthwiseSeparableConv2d(2, 4, activation1=nn.PReLU(), activation2=nn.ReLU())
    assert layer.depthwise.bias.tolist() == [0, 0] and layer.pointwise.bias.tolist() == [0] * 4
    assert (layer(torch.rand(1, 2, 4, 4)) >= 0).all()


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("pool", [None, [4, 6]])
def test_aspp(separable: bool, pool: list[int] | None) -> None:
    layer = ASPP(
        4,
        8,
        [1, 2, 3],
        norm="",
        activation=nn.PReLU(),
        pool_kernel_size=pool,
        dropout=0.1,
        use_depthwise_separable_conv=separable,
    )
    assert len(layer.convs) == 5
    assert {name.split(".")[0] for name in layer.state_dict()} == {"convs", "project"}
    assert layer.convs[0].activation is not layer.project.activation
    assert layer(torch.rand(2, 4, 4, 6)).shape == (2, 8, 4, 6)


def test_aspp_norm_replaces_the_bias() -> None:
    layer = ASPP(4, 8, [1, 2, 3], norm="BN", activation=None)
    assert layer.convs[1].bias is None and layer.project.bias is None
    assert layer.convs[4][1].bias is not None and layer.convs[4][1].norm is None


def test_aspp_refuses() -> None:
    with pytest.raises(AssertionError, match="3 dilations"):
        ASPP(4, 8, [1, 2], norm="", activation=None)
    layer = ASPP(4, 8, [1, 2, 3], norm="", activation=None, pool_kernel_size=(4, 4))
    with pytest.raises(ValueError, match="pool_kernel_size"):
        layer(torch.rand(1, 4, 6, 4))
