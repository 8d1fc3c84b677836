"""Frozen batch normalisation and the lookup of norms."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import CNNBlockBase, FrozenBatchNorm2d, get_norm
from torch import nn
from torch.nn import functional as F


def random_state(channels: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    names = ("weight", "bias", "running_mean", "running_var")
    return {name: torch.rand(channels, generator=generator) + 0.1 for name in names}


def test_a_fresh_layer_is_the_identity() -> None:
    layer = FrozenBatchNorm2d(4)
    assert set(layer.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    assert list(layer.parameters()) == []
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_equals_batch_norm_in_evaluation(requires_grad: bool, training: bool) -> None:
    layer = FrozenBatchNorm2d(3, eps=1e-3).train(training)
    state = random_state(3)
    layer.load_state_dict(state)
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
    expected = F.batch_norm(
        x, state["running_mean"], state["running_var"], state["weight"], state["bias"], eps=1e-3
    )
    output = layer(x.requires_grad_(requires_grad))
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(layer.running_mean, state["running_mean"])


def test_gradient() -> None:
    layer = FrozenBatchNorm2d(2).double()
    layer.load_state_dict(random_state(2))
    x = torch.randn(1, 2, 2, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_keeps_half_precision(requires_grad: bool) -> None:
    x = torch.ones(1, 2, 3, 3, dtype=torch.bfloat16, requires_grad=requires_grad)
    assert FrozenBatchNorm2d(2)(x).dtype == torch.bfloat16


def test_old_state_dicts_get_neutral_statistics() -> None:
    layer = FrozenBatchNorm2d(2)
    layer.load_state_dict(random_state(2))
    affine = {"weight": torch.ones(2), "bias": torch.zeros(2)}
    layer.load_state_dict(affine)
    assert layer.running_mean.tolist() == [0, 0] and layer.running_var.tolist() == [1, 1]


def test_new_state_dicts_must_be_complete() -> None:
    state = nn.Sequential(FrozenBatchNorm2d(2)).state_dict()
    assert state._metadata["0"]["version"] == 3
    del state["0.running_mean"]
    with pytest.raises(RuntimeError, match="running_mean"):
        nn.Sequential(FrozenBatchNorm2d(2)).load_state_dict(state)


@pytest.mark.parametrize("norm_class", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_conversion(norm_class: type[nn.Module]) -> None:
    norm = norm_class(3, eps=1e-4)
    norm.load_state_dict(random_state(3) | {"num_batches_tracked": torch.tensor(7)})
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Sequential(norm, nn.BatchNorm1d(3)))
    assert FrozenBatchNorm2d.convert_frozen_batchnorm(model) is model
    frozen = model[1][0]
    assert isinstance(frozen, FrozenBatchNorm2d) and frozen.eps == 1e-4
    assert isinstance(model[1][1], nn.BatchNorm1d)
    for name, value in norm.state_dict().items():
        assert torch.equal(frozen.state_dict()[name], value), name


def test_conversion_of_a_norm_returns_a_new_module() -> None:
    norm = nn.BatchNorm2d(2, affine=False)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
    assert isinstance(frozen, FrozenBatchNorm2d)
    assert frozen.weight.tolist() == [1, 1] and frozen.bias.tolist() == [0, 0]


@pytest.mark.standalone_only
def test_a_frozen_copy_does_not_follow_its_source() -> None:
    norm = nn.BatchNorm2d(2)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
    norm(torch.ones(1, 2, 2, 2))
    assert frozen.running_mean.tolist() == [0, 0]
    with pytest.raises(ValueError, match="track_running_stats"):
        FrozenBatchNorm2d.convert_frozen_batchnorm(nn.BatchNorm2d(2, track_running_stats=False))


@pytest.mark.parametrize(
    ("name", "norm_class"),
    [
        ("BN", nn.BatchNorm2d),
        ("SyncBN", nn.SyncBatchNorm),
        ("FrozenBN", FrozenBatchNorm2d),
        ("GN", nn.GroupNorm),
        (nn.InstanceNorm2d, nn.InstanceNorm2d),
    ],
)
def test_get_norm(name: object, norm_class: type[nn.Module]) -> None:
    assert isinstance(get_norm(name, 64), norm_class)


def test_group_norm_has_32_groups() -> None:
    assert get_norm("GN", 64).num_groups == 32


@pytest.mark.parametrize("name", [None, ""])
def test_no_norm(name: object) -> None:
    assert get_norm(name, 8) is None


def test_unknown_norm() -> None:
    with pytest.raises(KeyError):
        get_norm("InstanceNorm", 8)


def test_layer_norm_works_on_channels() -> None:
    layer = get_norm("LN", 4)
    assert layer.eps == 1e-6 and set(layer.state_dict()) == {"weight", "bias"}
    nn.init.uniform_(layer.weight)
    x = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    last = F.layer_norm(x.permute(0, 2, 3, 1), (4,), layer.weight, layer.bias, eps=1e-6)
    torch.testing.assert_close(layer(x), last.permute(0, 3, 1, 2))


def test_freezing_a_block() -> None:
    block = CNNBlockBase(3, 4, 2)
    block.conv = nn.Conv2d(3, 4, 1)
    block.norm = nn.BatchNorm2d(4)
    assert (block.in_channels, block.out_channels, block.stride) == (3, 4, 2)
    assert block.freeze() is block
    assert not any(parameter.requires_grad for parameter in block.parameters())
    assert isinstance(block.norm, FrozenBatchNorm2d)
