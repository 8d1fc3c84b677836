"""Attention maps, mask head and post-processing of masks against the published code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from parity.future_detr_arrays import Arrays, load, numbered, parameters
from roca_nocs.modeling.transformer.mask_heads import AttentionMaps, ConvMaskHead
from roca_nocs.modeling.transformer.mask_outputs import resize_masks


def images_of_rows(batch: int, queries: int) -> torch.Tensor:
    return torch.arange(batch).repeat_interleave(queries)


def test_attention_maps(golden_dir: Path) -> None:
    golden = load(golden_dir / "future_detr" / "mh_attention_map.npz")
    batch, queries, width = golden["q"].shape
    head = AttentionMaps(width, int(golden["num_heads"]))
    head.load_state_dict(parameters(golden))
    with torch.no_grad():
        keys = head.prepare(golden["k"])
        for name, padding in (("masked", golden["padding_mask"]), ("unmasked", None)):
            found = head(keys, golden["q"].flatten(0, 1), images_of_rows(batch, queries), padding)
            expected = golden[f"out_{name}"]
            torch.testing.assert_close(found.view_as(expected), expected, atol=1e-6, rtol=1e-4)
            # All heads and cells of a query share one softmax.
            torch.testing.assert_close(found.sum(dim=(1, 2, 3)), torch.ones(batch * queries))


@pytest.mark.parametrize("layout", ["detr", "seed_r50dc5", "seed_r18"])
def test_mask_head(golden_dir: Path, layout: str) -> None:
    golden = load(golden_dir / "future_detr" / f"mask_head_{layout}_layout.npz")
    batch, queries, heads = golden["bbox_mask"].shape[:3]
    skips = numbered(golden, "fpn")
    head = ConvMaskHead(int(golden["context_dim"]), heads, golden["fpn_dims"].tolist())
    head.load_state_dict(parameters(golden))
    taps: list[torch.Tensor] = []
    head.lay3.register_forward_pre_hook(lambda _, inputs: taps.append(inputs[0]))
    with torch.no_grad():
        sizes = tuple(tuple(skip.shape[-2:]) for skip in skips)
        shared = head.prepare(golden["x"], skips, sizes)
        rows = images_of_rows(batch, queries)
        found = head(golden["bbox_mask"].flatten(0, 1), shared, rows)
    torch.testing.assert_close(found[:, None], golden["out"], atol=2e-5, rtol=1e-4)
    expected = before_third_layer(golden, head, skips)
    torch.testing.assert_close(taps[0][: len(expected)], expected, atol=2e-5, rtol=1e-4)


def before_third_layer(
    golden: Arrays, head: ConvMaskHead, skips: list[torch.Tensor]
) -> torch.Tensor:
    """What follows from the published values behind the second layer, of the first image's rows."""
    tap = golden["tap_after_lay2"]
    with torch.no_grad():
        adapted = head.adapter1(skips[0][:1])
    resized = torch.nn.functional.interpolate(tap, size=adapted.shape[-2:], mode="nearest")
    return resized + adapted


def test_postprocess_segm(golden_dir: Path) -> None:
    golden = load(golden_dir / "future_detr" / "postprocess_segm.npz")
    sizes = golden["max_target_sizes"]
    padded = tuple(sizes.amax(dim=0).tolist())
    for image, masks in enumerate(golden["pred_masks"]):
        found = resize_masks(
            masks,
            padded,
            tuple(sizes[image].tolist()),
            tuple(golden["orig_target_sizes"][image].tolist()),
            float(golden["threshold"]),
        )
        expected = golden[f"masks_image{image}"][:, 0].bool()
        assert torch.equal(found, expected), image
