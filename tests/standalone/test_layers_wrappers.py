"""Convolution with norm and activation, and small functions."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from detectron2.layers import (
    Conv2d,
    FrozenBatchNorm2d,
    ShapeSpec,
    cat,
    cross_entropy,
    move_device_like,
    nonzero_tuple,
    shapes_to_tensor,
)
from detectron2.layers.shape_spec import ShapeSpec as ShapeSpecAtHome
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F


def test_shape_spec() -> None:
    spec = ShapeSpec(channels=3, stride=4)
    assert spec == ShapeSpec(3, None, None, 4) and spec.height is None
    assert ShapeSpec is ShapeSpecAtHome and ShapeSpec.__module__ == "detectron2.layers.shape_spec"
    assert pickle.loads(pickle.dumps(spec)) == copy.deepcopy(spec) == spec
    assert OmegaConf.to_object(OmegaConf.structured(spec)) == spec


def test_conv_applies_norm_then_activation() -> None:
    torch.manual_seed(0)
    layer = Conv2d(3, 4, 3, padding=1, bias=False, norm=nn.BatchNorm2d(4), activation=F.relu)
    assert set(layer.state_dict()) == {
        "weight",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }
    x = torch.randn(2, 3, 5, 5)
    expected = F.relu(layer.norm(F.conv2d(x, layer.weight, padding=1)))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("size", [3, 40])  # fewer and more numbers in the output than weights
@pytest.mark.parametrize(
    ("channels", "options"),
    [(4, {"bias": False}), (4, {"stride": 2}), (8, {"groups": 4, "bias": False})],
)
def test_frozen_norm_of_a_conv_without_gradients(size: int, channels: int, options: dict) -> None:
    torch.manual_seed(0)
    layer = Conv2d(channels, 8, 3, padding=1, norm=FrozenBatchNorm2d(8), **options)
    for buffer in layer.norm.buffers():
        buffer.uniform_(0.5, 2)
    x = torch.randn(2, channels, size, size)
    plain = {key: value for key, value in options.items() if key != "bias"}
    expected = layer.norm(F.conv2d(x, layer.weight, layer.bias, padding=1, **plain))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
    trained = layer(x)
    torch.testing.assert_close(trained, expected)
    trained.sum().backward()
    assert layer.weight.grad is not None


def test_plain_conv_is_the_conv_of_torch() -> None:
    layer = Conv2d(2, 3, 1)
    x = torch.rand(1, 2, 4, 4)
    assert layer.norm is None and layer.activation is None
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias))


def test_conv_takes_no_image() -> None:
    assert Conv2d(2, 3, 3, padding=1)(torch.zeros(0, 2, 8, 8)).shape == (0, 3, 8, 8)


def test_cat_of_one_does_not_copy() -> None:
    x, y = torch.ones(2, 3), torch.zeros(2, 3)
    assert cat([x]) is x
    assert cat((x, y), dim=1).shape == (2, 6)
    with pytest.raises(AssertionError):
        cat(x)


def test_nonzero_tuple() -> None:
    rows, columns = nonzero_tuple(torch.tensor([[0, 1], [2, 0]]))
    assert rows.tolist() == [0, 1] and columns.tolist() == [1, 0]


def test_cross_entropy_of_nothing_has_a_gradient() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(0, dtype=torch.long))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad.shape == (0, 5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_otherwise_is_that_of_torch(reduction: str) -> None:
    logits, target = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    expected = F.cross_entropy(logits, target % 3, reduction=reduction, label_smoothing=0.1)
    actual = cross_entropy(logits, target % 3, reduction=reduction, label_smoothing=0.1)
    torch.testing.assert_close(actual, expected)


def test_shapes_and_devices() -> None:
    assert shapes_to_tensor([3, 4]).tolist() == [3, 4]
    assert move_device_like(torch.ones(1), torch.zeros(1)).device == torch.device("cpu")
