"""Coordinates as bins, and maps pasted into images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from roca_nocs.layers.canvas import pad_maps
from roca_nocs.layers.coordinate_bins import (
    BIN_RULES,
    check_bin_rule,
    decode_bins,
    decode_offsets,
    decode_outputs,
    encode_bins,
    encode_offsets,
    soft_argmax,
)
from roca_nocs.layers.paste_maps import paste_maps


@pytest.mark.parametrize("rule", BIN_RULES)
def test_bins_and_values(rule: str) -> None:
    values = torch.linspace(0, 1, 1001)
    bins = encode_bins(values, 32, rule)
    assert bins.min() == 0 and bins.max() == 31 and bins.diff().min() >= 0
    error = decode_bins(bins, 32, rule) - values
    if rule == "centre":
        assert error.abs().max() <= 1 / 64 + 1e-6 and error.mean().abs() < 1e-3
    else:  # the published rules are biased
        most = {"nocs": 1, "ganocs": 1.5}[rule] / 32
        assert error.abs().max() <= most + 1e-6 and error.mean() < -0.01


@pytest.mark.parametrize("rule", BIN_RULES)
def test_values_outside_go_to_the_nearest_bin(rule: str) -> None:
    values = torch.tensor([-0.1, 0.0, 1.0, 1.1])
    assert encode_bins(values, 4, rule).tolist() == [0, 0, 3, 3]


def test_unknown_rule() -> None:
    with pytest.raises(ValueError, match=r"bin_rule is 'floor'; expected one of"):
        check_bin_rule("floor")


@pytest.mark.parametrize("rule", BIN_RULES)
def test_expectation_of_certain_bins(rule: str) -> None:
    bins = torch.randint(16, (2, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    logits = 100 * F.one_hot(bins, 16).movedim(-1, 2).float()
    torch.testing.assert_close(soft_argmax(logits, rule), decode_bins(bins, 16, rule))


@pytest.mark.parametrize("rule", ["centre", "nocs"])
@pytest.mark.parametrize("num_bins", [7, 32])
def test_places_in_bins_lose_nothing(num_bins: int, rule: str) -> None:
    edges = torch.arange(num_bins + 1) / num_bins
    near = torch.cat([edges, edges.nextafter(torch.ones(())), edges.nextafter(torch.zeros(()))])
    values = torch.cat([torch.linspace(0, 1, 1001), near]).clamp(0, 1)
    bins = encode_bins(values, num_bins, rule)
    offsets = encode_offsets(values, bins, num_bins)
    assert 0 <= offsets.min() and offsets.max() <= 1
    assert (decode_offsets(bins, offsets, num_bins) - values).abs().max() <= 1e-6


def test_outputs_of_heads() -> None:
    random = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, 3, 2, 8, 4, 5, generator=random)
    logits, offsets = outputs.unbind(dim=2)
    bins = logits.argmax(dim=2)
    for rule in BIN_RULES:
        assert torch.equal(decode_outputs(logits, rule), decode_bins(bins, 8, rule))
    assert torch.equal(decode_outputs(logits[:, :, 0]), logits[:, :, 0])
    decoded = decode_outputs(outputs)
    assert torch.equal(decoded.mul(8).floor().long(), bins)
    # The place is that of the chosen bin: the others have no say.
    chosen = F.one_hot(bins, 8).movedim(-1, 2).bool()
    others = torch.stack([logits, torch.where(chosen, offsets, -offsets)], dim=2)
    assert torch.equal(decode_outputs(others), decoded)
    opposite = torch.stack([logits, -offsets], dim=2)
    torch.testing.assert_close(decode_outputs(opposite) + decoded, (2 * bins + 1) / 8)
    # Certain bins: the expectation is the decoded value. Places in the middle: the rule's.
    expected = soft_argmax(1000 * chosen.float(), offsets=offsets.sigmoid())
    torch.testing.assert_close(expected, decoded)
    middle = soft_argmax(logits, offsets=torch.full_like(offsets, 0.5))
    torch.testing.assert_close(middle, soft_argmax(logits))


def test_pasting_of_a_ramp_and_its_gradient() -> None:
    """A linear map is met exactly between the centres of its outer cells."""
    x = (torch.arange(10) + 0.5) / 10
    maps = torch.stack([x.expand(10, 10), x[:, None].expand(10, 10)])[None].requires_grad_()
    image = paste_maps(maps, torch.tensor([[4.0, -3, 24, 17]]), (12, 30))
    expected = ((torch.arange(4, 24) - 4 + 0.5) / 20).clamp(0.05, 0.95)
    torch.testing.assert_close(image[0, 0, :, 4:24], expected.expand(12, 20))
    rows = ((torch.arange(12) + 3 + 0.5) / 20).clamp(0.05, 0.95)
    torch.testing.assert_close(image[0, 1, :, 4:24], rows[:, None].expand(12, 20))
    outside = torch.cat([image[..., :4], image[..., 24:]], dim=-1)
    assert not outside.any()
    image.sum().backward()
    assert maps.grad.sum() == pytest.approx(2 * 12 * 20)


def test_boxes_without_area_and_no_maps() -> None:
    boxes = torch.tensor([[5.0, 5, 5, 9], [50, 50, 60, 60]])
    assert not paste_maps(torch.ones(2, 1, 4, 4), boxes, (20, 20)).any()
    assert paste_maps(torch.ones(0, 3, 4, 4), boxes[:0], (20, 20)).shape == (0, 3, 20, 20)


def test_maps_on_one_canvas() -> None:
    maps = [torch.ones(2, 3, 4), None, torch.full((2, 5, 1), 2.0)]
    canvas = pad_maps(maps, 2, (5, 4), device=torch.device("cpu"))
    assert canvas.shape == (3, 2, 5, 4)
    assert canvas.flatten(1).sum(dim=1).tolist() == [24, 0, 20]
    assert (canvas[0, :, :3] == 1).all() and (canvas[2, :, :, 0] == 2).all()
