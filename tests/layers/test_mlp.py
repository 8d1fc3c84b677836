"""Perceptrons and the selection of class outputs."""

import pytest
import torch

from roca_nocs.layers.grouped import select_class
from roca_nocs.layers.mlp import MLP, SharedMLP


def test_parameter_names() -> None:
    names = [name for name, _ in MLP(4, (5, 6), 3).named_parameters()]
    assert names == [
        f"{layer}.{kind}"
        for layer in ("hiddens.0", "hiddens.2", "output")
        for kind in ("weight", "bias")
    ]
    shapes = {name: tuple(p.shape) for name, p in SharedMLP(4, (5, 6)).named_parameters()}
    assert shapes == {
        "hiddens.0.weight": (5, 4, 1, 1),
        "hiddens.0.bias": (5,),
        "hiddens.1.weight": (6, 5, 1, 1),
        "hiddens.1.bias": (6,),
    }


def test_shared_perceptron_is_the_same_at_every_pixel() -> None:
    torch.manual_seed(0)
    shared, single = SharedMLP(4, (5, 6), 3), MLP(4, (5, 6), 3)
    for ours, theirs in zip(shared.parameters(), single.parameters(), strict=True):
        theirs.data = ours.data.flatten(1) if ours.dim() > 1 else ours.data
    maps = torch.randn(2, 4, 3, 3)
    expected = single(maps.permute(0, 2, 3, 1).reshape(-1, 4)).reshape(2, 3, 3, 3)
    torch.testing.assert_close(shared(maps), expected.permute(0, 3, 1, 2))


def test_code_equals_channels_spread_over_the_pixels() -> None:
    torch.manual_seed(0)
    net = SharedMLP(7, (5, 6), 2).double()
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    code = torch.randn(2, 4, dtype=torch.float64)
    spread = torch.cat([code[..., None, None].expand(-1, -1, 4, 4), maps], dim=1)
    torch.testing.assert_close(net(maps, code), net(spread))
    gradients = [
        torch.autograd.grad(out.square().sum(), list(net.parameters()))
        for out in (net(maps, code), net(spread))
    ]
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("trailing", [(), (2, 2)])
def test_select_class(trailing: tuple[int, ...]) -> None:
    outputs = torch.randn(4, 6, *trailing)
    classes = torch.tensor([0, 2, 1, 2])
    selected = select_class(outputs, classes, 2)
    for row, category in enumerate(classes.tolist()):
        assert torch.equal(selected[row], outputs[row, 2 * category : 2 * category + 2])
    assert select_class(outputs[:0], classes[:0], 2).shape == (0, 2, *trailing)


def test_no_instances() -> None:
    assert MLP(4, (5,), 3)(torch.zeros(0, 4)).shape == (0, 3)
    net = SharedMLP(7, (5,), 3)
    assert net(torch.zeros(0, 3, 4, 4), torch.zeros(0, 4)).shape == (0, 3, 4, 4)
