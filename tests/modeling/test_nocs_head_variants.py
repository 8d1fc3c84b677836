"""Forms of the NOCS head: one tower for all axes, and places in the bins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from roca_nocs.engine.config import load_config
from roca_nocs.layers.stored_batch_norm import StoredBatchNorm2d
from roca_nocs.modeling.roi_heads.nocs_head import NocsHead

CHANNELS, CLASSES, BINS, REGIONS, SIDE = 5, 3, 4, 6, 4


def build(**options: Any) -> NocsHead:
    torch.manual_seed(0)
    settings = {"num_bins": BINS, "conv_dims": (6, 7, 8), **options}
    return NocsHead(in_channels=CHANNELS, num_classes=CLASSES, **settings)


def inputs(count: int = REGIONS) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    features = torch.randn(count, CHANNELS, SIDE, SIDE, generator=random)
    return features, torch.arange(count) % CLASSES


def test_a_shared_tower_is_three_towers_with_the_same_weights() -> None:
    shared, separate = build(shared_tower=True).eval(), build().eval()
    state = {}
    for name, tensor in shared.state_dict().items():
        name = name.removeprefix("head.xyz.")
        for row, axis in enumerate("xyz"):
            own = tensor
            if name.startswith("1.2."):  # the predictor
                own = tensor.unflatten(0, (CLASSES, 3, BINS))[:, row].flatten(0, 1)
            state[f"head.{axis}.{name}"] = own
    separate.load_state_dict(state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(shared(*inputs()), separate(*inputs()))


def test_size_of_the_published_shared_tower() -> None:
    """8 convolutions of 512 channels with normalisation, the upsampling, three predictors."""
    with torch.device("meta"):
        head = NocsHead(
            in_channels=256, num_classes=6, conv_dims=[512] * 8 + [256], shared_tower=True
        )
    convolutions = 9 * 512 * (256 + 7 * 512) + 8 * 2 * 512
    upsampling = 4 * 512 * 256 + 256
    predictors = 3 * (256 + 1) * 6 * 32
    found = sum(parameter.numel() for parameter in head.parameters())
    assert found == convolutions + upsampling + predictors == 18_375_488


@pytest.mark.parametrize("count", [REGIONS, 0])
@pytest.mark.parametrize("num_bins", [BINS, 1])
@pytest.mark.parametrize("head_per_class", [False, True])
def test_shared_tower_learns_everywhere(head_per_class: bool, num_bins: int, count: int) -> None:
    head = build(shared_tower=True, head_per_class=head_per_class, num_bins=num_bins)
    outputs = head(*inputs(count))
    bins = () if num_bins == 1 else (num_bins,)
    assert outputs.shape == (count, 3, *bins, 2 * SIDE, 2 * SIDE)
    outputs.square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() == (count > 0), name


@pytest.mark.parametrize("style", ["original", "tiny"])
def test_towers_of_every_class_agree_with_one_for_all(style: str) -> None:
    """Classes and axes are not mixed up: a class's own predictor has the rows of its class."""
    one = build(shared_tower=True, style=style).eval()
    own = build(shared_tower=True, style=style, head_per_class=True).eval()
    state = {}
    for name, tensor in one.state_dict().items():
        for row in range(CLASSES):
            part = tensor
            if tensor.ndim and len(tensor) == CLASSES * 3 * BINS:  # the predictor
                part = tensor.unflatten(0, (CLASSES, -1))[row]
            state[name.replace("head.", f"head.{row}.", 1)] = part
    own.load_state_dict(state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(one(*inputs()), own(*inputs()))


@pytest.mark.parametrize("count", [REGIONS, 0])
@pytest.mark.parametrize("shared_tower", [False, True])
@pytest.mark.parametrize("head_per_class", [False, True])
def test_bins_with_offsets(head_per_class: bool, shared_tower: bool, count: int) -> None:
    head = build(bin_offsets=True, head_per_class=head_per_class, shared_tower=shared_tower)
    outputs = head(*inputs(count))
    assert outputs.shape == (count, 3, 2, BINS, 2 * SIDE, 2 * SIDE)
    assert outputs.dtype == torch.float32
    decoded = head.decode(outputs)
    bins = outputs[:, :, 0].argmax(dim=2)
    assert decoded.shape == bins.shape
    assert torch.equal((BINS * decoded).floor().long(), bins)
    expectation = head.expectation(outputs)
    assert ((expectation > 0) & (expectation < 1)).all()
    expectation.square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() == (count > 0), name


def test_offsets_come_after_the_bins_of_their_class_and_axis() -> None:
    with_offsets, bins = build(bin_offsets=True).eval(), build().eval()
    state = {
        name: tensor.unflatten(0, (CLASSES, 2, BINS))[:, 0].flatten(0, 1)
        if ".1.2." in name
        else tensor
        for name, tensor in with_offsets.state_dict().items()
    }
    bins.load_state_dict(state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(with_offsets(*inputs())[:, :, 0], bins(*inputs()))


@pytest.mark.parametrize("options", [{"num_bins": 1}, {"bin_rule": "ganocs"}], ids=str)
def test_offsets_need_bins_with_edges(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="bin_offsets needs more than one bin and the rule"):
        build(bin_offsets=True, **options)


def test_stored_statistics_stay_and_their_affine_map_learns() -> None:
    stored, usual = build(norm="StoredBN"), build(norm="BN")
    state = {  # positive, so that no rectifier cuts its inputs off
        name: tensor + torch.rand(tensor.shape) if tensor.is_floating_point() else tensor
        for name, tensor in usual.state_dict().items()
    }
    usual.load_state_dict(state)
    stored.load_state_dict(state, strict=True)
    outputs = stored.train()(*inputs())
    torch.testing.assert_close(outputs, usual.eval()(*inputs()))
    # A sample of its own has the same output: nothing depends on the batch.
    features, classes = inputs()
    torch.testing.assert_close(stored(features[:1], classes[:1]), outputs[:1])
    outputs.square().sum().backward()
    for norm in (each for each in stored.modules() if isinstance(each, StoredBatchNorm2d)):
        assert norm.weight.grad.abs().sum() > 0 and norm.bias.grad.abs().sum() > 0
    for name, tensor in stored.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_norms_of_the_official_configs_are_stored() -> None:
    folder = Path(__file__).parents[2] / "configs/nocs"
    names = sorted(folder.glob("camera_real_r50_fpn*.py"))
    assert len(names) == 3
    for path in names:
        with torch.device("meta"):
            head = instantiate(load_config(path).model.roi_heads.nocs_head)
        norms = [each for each in head.modules() if isinstance(each, nn.BatchNorm2d)]
        assert len(norms) == 12 and all(isinstance(each, StoredBatchNorm2d) for each in norms)
        assert all(each.weight.requires_grad and each.bias.requires_grad for each in norms)
