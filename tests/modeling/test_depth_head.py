"""The depth head on odd batches and in half precision."""

from __future__ import annotations

import pytest
import torch

from roca_nocs.modeling.dense_heads import DepthHead


def make_head(**kwargs: object) -> DepthHead:
    torch.manual_seed(0)
    return DepthHead(in_channels=6, level_channels=3, hidden_channels=8, **kwargs)


def pyramid(height: int, width: int, count: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"p{level}": torch.randn(count, 6, height >> level, width >> level, generator=generator)
        for level in (2, 3, 4, 5)
    }


@torch.no_grad()
def test_squeezing_changes_nothing_without_padding() -> None:
    features, size = pyramid(64, 96), (64, 96)
    features_out, depth = make_head()(features, [size, size], size)
    assert features_out.shape == (2, 12, 16, 24)
    assert depth.shape == (2, 1, 64, 96)
    squeezed = make_head(squeeze_padding=True)(features, [size, size], size)
    torch.testing.assert_close(squeezed, (features_out, depth), rtol=0, atol=0)


@torch.no_grad()
def test_depth_starts_about_the_initial_one() -> None:
    features, size = pyramid(64, 96), (64, 96)
    depths = [make_head(initial_depth=each)(features, [size, size], size)[1] for each in (0.0, 3.0)]
    torch.testing.assert_close(depths[1], depths[0] + 3)


@torch.no_grad()
def test_sizes_with_padding() -> None:
    features, padded = pyramid(64, 96), (64, 96)
    assert make_head()(features, [(60, 90), (33, 17)], padded)[1].shape == (2, 1, 64, 96)
    depth_features, depth = make_head(squeeze_padding=True)(features, [(60, 88)] * 2, padded)
    assert depth_features.shape == (2, 12, 15, 22)
    assert depth.shape == (2, 1, 60, 88)


def test_sizes_that_cannot_be() -> None:
    features, padded = pyramid(64, 96), (64, 96)
    with pytest.raises(ValueError, match=r"one size .*\[\(32, 32\), \(60, 88\)\]"):
        make_head(squeeze_padding=True)(features, [(60, 88), (32, 32)], padded)
    with pytest.raises(ValueError, match=r"\(60, 90\)"):
        make_head(squeeze_padding=True)(features, [(60, 90)] * 2, padded)
    with pytest.raises(ValueError, match=r"\(66, 96\)"):
        make_head()(features, [(60, 88)] * 2, (66, 96))


def test_no_images() -> None:
    head = make_head(gradient_loss_weight=1.0, normal_loss_weight=1.0)
    depth = head(pyramid(64, 96, count=0), [], (64, 96))[1]
    assert depth.shape == (0, 1, 64, 96)
    losses = head.losses(depth, torch.zeros(0, 1, 64, 96))
    assert {name: loss.item() for name, loss in losses.items()} == dict.fromkeys(losses, 0.0)


def test_losses_without_known_depth() -> None:
    head = make_head(gradient_loss_weight=1.0, normal_loss_weight=1.0)
    depth = torch.randn(2, 1, 8, 8, requires_grad=True)
    losses = head.losses(depth, torch.zeros(2, 1, 8, 8))
    assert {name: loss.item() for name, loss in losses.items()} == dict.fromkeys(losses, 0.0)
    sum(losses.values()).backward()
    assert depth.grad.abs().sum() == 0


def test_images_without_known_depth_do_not_count() -> None:
    head = make_head(gradient_loss_weight=2.0, normal_loss_weight=3.0)
    generator = torch.Generator().manual_seed(0)
    depth, gt_depth = torch.rand(2, 3, 1, 8, 8, generator=generator)
    gt_depth[:, :, :3] = 0
    gt_depth[1] = 0
    kept = [0, 2]
    torch.testing.assert_close(
        head.losses(depth, gt_depth), head.losses(depth[kept], gt_depth[kept])
    )


def test_loss_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, 1, 8, 8, generator=generator)
    one = make_head(gradient_loss_weight=1.0, normal_loss_weight=1.0).losses(*maps)
    weighted = make_head(gradient_loss_weight=2.0, normal_loss_weight=3.0).losses(*maps)
    assert list(make_head().losses(*maps)) == ["loss_image_depth"]
    factors = {"loss_image_depth": 1, "loss_grad_x": 2, "loss_grad_y": 2, "loss_normal": 3}
    torch.testing.assert_close(weighted, {name: one[name] * f for name, f in factors.items()})


def test_autocast_gives_single_precision_depth() -> None:
    head, features, size = make_head(), pyramid(64, 96), (64, 96)
    expected = head(features, [size] * 2, size)[1]
    with torch.autocast("cpu", torch.bfloat16):
        depth_features, depth = head(features, [size] * 2, size)
        losses = head.losses(depth, torch.ones(2, 1, 64, 96, dtype=torch.bfloat16))
    assert depth_features.dtype == torch.bfloat16
    assert depth.dtype == losses["loss_image_depth"].dtype == torch.float32
    torch.testing.assert_close(depth, expected, rtol=0.05, atol=0.02)
    losses["loss_image_depth"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
