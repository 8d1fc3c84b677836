"""Lists of the pixels of masks."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from roca_nocs.layers.masked_pixels import MaskedPixels


@given(st.integers(0, 4), st.integers(1, 3), st.floats(0, 1), st.integers(0, 1000))
def test_gather_and_scatter(count: int, channels: int, density: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    masks = (torch.rand(count, 1, 3, 5, generator=random) < density).float()
    maps = torch.randn(count, channels, 3, 5, generator=random)
    pixels = MaskedPixels.of(masks)
    values = pixels.gather(maps)
    assert values.shape == (int(masks.sum()), channels)
    assert torch.equal(pixels.scatter(values), maps * masks)
    of_instance = torch.arange(count)[:, None]
    assert torch.equal(pixels.scatter(pixels.spread(of_instance + 1)) > 0, masks > 0)
    expected = (maps.relu() * masks).flatten(2).amax(dim=2)
    assert torch.equal(pixels.maximum(values), expected)


def test_gradients() -> None:
    masks = torch.tensor([[1.0, 0, 1], [0, 0, 0]])[:, None, None]
    pixels = MaskedPixels.of(masks)
    maps = torch.randn(2, 2, 1, 3, dtype=torch.float64, requires_grad=True)
    code = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)

    def through(maps: torch.Tensor, code: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = pixels.gather(maps) * pixels.spread(code)
        return pixels.scatter(values), pixels.maximum(values)

    assert torch.autograd.gradcheck(through, (maps, code))


def test_instances_without_pixels_have_no_gradient() -> None:
    pixels = MaskedPixels.of(torch.zeros(2, 1, 4, 4))
    maps = torch.randn(2, 3, 4, 4, requires_grad=True)
    pixels.maximum(pixels.gather(maps)).sum().backward()
    assert not maps.grad.any()
