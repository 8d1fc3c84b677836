"""Perceptrons and the selection of class outputs."""

import pytest
import torch

from roca_nocs.layers.grouped import select_class
from roca_nocs.layers.masked_pixels import MaskedPixels
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
    pixels = MaskedPixels.of(torch.ones(2, 1, 3, 3))
    values = torch.randn(18, 4)
    torch.testing.assert_close(shared(values, pixels), single(values))


def test_code_equals_channels_spread_over_the_pixels() -> None:
    torch.manual_seed(0)
    net = SharedMLP(7, (5, 6), 2).double()
    pixels = MaskedPixels.of(torch.tensor([[0, 1, 1], [0, 0, 0], [1, 1, 1]])[:, None, None])
    values = torch.randn(5, 3, dtype=torch.float64)
    code = torch.randn(3, 4, dtype=torch.float64)
    spread = torch.cat([code[[0, 0, 2, 2, 2]], values], dim=1)
    torch.testing.assert_close(net(values, pixels, code), net(spread, pixels))
    gradients = [
        torch.autograd.grad(out.square().sum(), list(net.parameters()))
        for out in (net(values, pixels, code), net(spread, pixels))
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
    net, pixels = SharedMLP(7, (5,), 3), MaskedPixels.of(torch.zeros(0, 1, 4, 4))
    assert net(torch.zeros(0, 3), pixels, torch.zeros(0, 4)).shape == (0, 3)
