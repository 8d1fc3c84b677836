"""The single-frame network: sizes for every backbone, masks, batches, precision, gradients."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest
import torch
from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.tiny_future_detector import build_detector, randomise_heads
from roca_nocs.modeling.backbone.raster_resnet import build_raster_resnet
from roca_nocs.modeling.transformer.feature_levels import choose_features
from roca_nocs.modeling.transformer.future_detector import Encoded, FutureDetector

Size = tuple[int, int]
ONE_LAYER = {"enc_layers": 1, "dec_layers": 1}


def full_size(depth: int, dilation: bool = False, **changes: Any) -> FutureDetector:
    with torch.device("meta"):
        backbone = build_raster_resnet(depth, dilation=dilation)
        return FutureDetector(backbone=backbone, num_classes=250, **ONE_LAYER, **changes).eval()


def encode_on_meta(detector: FutureDetector, size: Size) -> Encoded:
    with torch.no_grad():
        return detector.encode(torch.empty(1, 3, *size, device="meta"))


@pytest.mark.parametrize(
    ("depth", "dilation", "size", "tokens", "masks"),
    [
        (50, True, (800, 1201), 23650, (200, 301)),
        (50, False, (800, 1201), 20097, (200, 301)),
        (18, False, (800, 1201), 20097, (200, 301)),
        (34, False, (800, 1600), 26575, (200, 400)),
        (18, False, (800, 1600), 26575, (200, 400)),
        (50, False, (800, 1600), 26575, (200, 400)),
        (101, False, (800, 1600), 26575, (200, 400)),
    ],
)
def test_published_sizes(depth: int, dilation: bool, size: Size, tokens: int, masks: Size) -> None:
    detector = full_size(depth, dilation)
    encoded = encode_on_meta(detector, size)
    assert encoded.flatten().tokens.shape == (1, tokens, 256)
    assert encoded.levels[detector.seg_level].shape == (1, 256, 25, -(-size[1] // 32))
    assert detector.mask_stride == 4
    with torch.no_grad():
        queries = detector.initial_queries(encoded)
        decoded = detector.decode(encoded, queries.query_embed, queries.reference)
        assert decoded.hs.shape == (1, 1, 300, 256)
        assert decoded.logits.shape == (1, 1, 300, 250)
        assert decoded.boxes.shape == (1, 1, 300, 4)
        rows = decoded.hs[-1][0, :5]
        images = torch.zeros(5, dtype=torch.int64, device="meta")
        assert detector.masks(encoded)(rows, images).shape == (5, *masks)


@pytest.mark.parametrize(
    ("depth", "dilation", "skips"),
    [
        (50, True, [(1024, 25, 38), (512, 25, 38), (256, 50, 76)]),
        (18, False, [(256, 13, 19), (128, 25, 38), (64, 50, 76)]),
    ],
    ids=["R50-DC5", "R18"],
)
def test_strided_skips(depth: int, dilation: bool, skips: list[tuple[int, int, int]]) -> None:
    """Half the channels and resolution of the last three features: masks at a sixteenth."""
    detector = full_size(depth, dilation, skip_mode="strided")
    encoded = encode_on_meta(detector, (800, 1201))
    assert [skip.shape[1:] for skip in encoded.skips] == skips
    assert detector.mask_stride == 16
    keys = detector.bbox_attention.prepare(encoded.levels[detector.seg_level])
    rows = torch.empty(300, 256, device="meta")
    images = torch.zeros(300, dtype=torch.int64, device="meta")
    assert detector.bbox_attention(keys, rows, images).shape == (300, 8, 25, 38)
    assert detector.masks(encoded)(rows[:2], images[:2]).shape == (2, 50, 76)


def test_features_of_a_pyramid_are_chosen_by_stride() -> None:
    """An FPN lists a finer feature before the levels and a coarser one after them."""
    with torch.device("meta"):
        pyramid = FPN(
            build_raster_resnet(50),
            ["res2", "res3", "res4", "res5"],
            64,
            top_block=LastLevelMaxPool(),
        )
        detector = FutureDetector(
            backbone=pyramid, num_classes=250, num_semantic_classes=2, **ONE_LAYER
        ).eval()
    assert detector.neck.in_features == ("p3", "p4", "p5")
    assert detector.level_strides == (8, 16, 32, 64)
    assert detector.skip_features == ("p4", "p3", "p2")
    assert (detector.seg_level, detector.mask_stride) == (2, 4)
    encoded = encode_on_meta(detector, (800, 1600))
    assert encoded.flatten().tokens.shape == (1, 26575, 256)
    rows, images = torch.empty(5, 256, device="meta"), torch.zeros(5, device="meta").long()
    assert detector.masks(encoded)(rows, images).shape == (5, 200, 400)
    assert detector.semantic(encoded).shape == (1, 2, 200, 400)


def test_choice_of_features() -> None:
    """The order of the names does not matter; a dilated stage stands for the next stride."""
    plain = {"c": 16, "a": 4, "d": 32, "b": 8, "e": 64}
    assert choose_features(plain, (2, 4, 8), "x") == ("b", "c", "d")
    dilated = {"a": 4, "b": 8, "c": 16, "d": 16}
    assert choose_features(dilated, (2, 4, 8), "x") == ("b", "c", "d")
    assert choose_features(dilated, (4, 2, 1), "x") == ("c", "b", "a")
    for lacking in ({"a": 4, "c": 16, "d": 32}, {"a": 4, "b": 8, "c": 16}, {"a": 4, "d": 32}):
        with pytest.raises(ValueError, match=r"x needs .*strides \[8, 16, 32\].*'a': 4"):
            choose_features(lacking, (2, 4, 8), "x")
    with pytest.raises(ValueError, match=r"strides \[4, 8, 16\]"):
        choose_features({"a": 4, "d": 32}, (4, 2, 1), "x")


def test_widths_follow_from_the_backbone() -> None:
    count = {18: 1_073_049, 50: 1_202_073}
    for depth, expected in count.items():
        head = full_size(depth).mask_head
        assert sum(p.numel() for p in head.parameters()) == expected


@pytest.mark.parametrize(("stem", "stride"), [(1, 1), (2, 2), (4, 4)])
def test_stem_strides(stem: int, stride: int) -> None:
    detector = build_detector(in_channels=5, stem_stride=stem).eval()
    assert detector.level_strides == tuple(stem * factor for factor in (2, 4, 8, 16))
    assert detector.level_strides[detector.seg_level] == 8 * stem
    with torch.no_grad():
        encoded = detector.encode(torch.randn(1, 5, 24 * stem, 32 * stem))
        queries = torch.randn(2, 32)
        masks = detector.masks(encoded)(queries, torch.zeros(2, dtype=torch.int64))
    assert detector.mask_stride == stride
    assert masks.shape == (2, 24, 32)
    assert detector.semantic(encoded).shape == (1, 2, 24, 32)


def test_level_of_the_masks_is_chosen_by_stride() -> None:
    assert full_size(50, True).seg_level == 3  # the extra level: strides 8, 16, 16, 32
    assert full_size(50).seg_level == 2
    assert full_size(50, True, seg_stride=16).seg_level == 2
    assert full_size(50, seg_stride=1000).seg_level == 3


def rows_of(detector: FutureDetector, encoded: Encoded) -> tuple[torch.Tensor, torch.Tensor]:
    queries = detector.initial_queries(encoded)
    hs = detector.decode(encoded, queries.query_embed, queries.reference).hs[-1]
    return hs.flatten(0, 1), torch.arange(len(hs)).repeat_interleave(hs.shape[1])


@pytest.mark.parametrize(
    "changes",
    [{"mask_type": "conv"}, {"mask_type": "dot"}, {"mask_type": "dot", "mask_window": True}],
    ids=str,
)
@settings(max_examples=3)
@given(chunk=st.integers(1, 20), seed=st.integers(0, 100))
def test_chunks_and_parts_are_exact(changes: dict[str, Any], chunk: int, seed: int) -> None:
    detector = build_detector(**changes).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        encoded = detector.encode(torch.randn(2, 3, 32, 48, generator=generator))
        rows, images = rows_of(detector, encoded)
        boxes = torch.rand(len(rows), 4, generator=generator)
        whole = detector.masks(encoded, chunk=len(rows))(rows, images, boxes)
        torch.testing.assert_close(detector.masks(encoded, chunk=chunk)(rows, images, boxes), whole)
        order = torch.randperm(len(rows), generator=generator)[:5]
        found = detector.masks(encoded)(rows[order], images[order], boxes[order])
    torch.testing.assert_close(found, whole[order])


@pytest.mark.parametrize("two_stage", [False, True])
def test_padding_changes_nothing(two_stage: bool) -> None:
    """Neither queries that only fill the batch nor padded cells change anything."""
    detector = randomise_heads(build_detector(two_stage=two_stage)).eval()
    with torch.no_grad():
        alone = detector.encode(torch.randn(1, 3, 32, 48))
        queries = detector.initial_queries(alone)
        expected = detector.decode(alone, queries.query_embed, queries.reference)
        extra = torch.randn(1, 3, 64)
        embed = torch.cat([queries.query_embed, extra], dim=1)
        more = torch.randn(1, 3, queries.reference.shape[-1])
        reference = torch.cat([queries.reference, more], dim=1)
        padding = torch.zeros(1, embed.shape[1], dtype=torch.bool)
        padding[:, -3:] = True
        found = detector.decode(alone, embed, reference, query_padding=padding)
        count = expected.hs.shape[2]
        torch.testing.assert_close(found.boxes[:, :, :count], expected.boxes)
        torch.testing.assert_close(found.hs[:, :, :count], expected.hs)

        grown = pad_right(alone, cells=3)
        found = detector.decode(grown, queries.query_embed, queries.reference)
    torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-5, rtol=1e-4)


def pad_right(encoded: Encoded, cells: int) -> Encoded:
    """Every level with some columns of noise that are padding."""
    levels, padding, positions = [], [], []
    for level, mask, position in zip(
        encoded.levels, encoded.padding, encoded.positions, strict=True
    ):
        noise = torch.randn(*level.shape[:3], cells)
        levels.append(torch.cat([level, noise], dim=3))
        positions.append(torch.cat([position, noise], dim=3))
        more = torch.ones(*mask.shape[:2], cells, dtype=torch.bool)
        padding.append(torch.cat([mask, more], dim=2))
    return dataclasses.replace(
        encoded, levels=tuple(levels), padding=tuple(padding), positions=tuple(positions)
    )


def test_track_queries_attend_to_each_other() -> None:
    """Of a padded batch every clip gives what it gives alone, also one without tracks."""
    detector = randomise_heads(build_detector(extra_track_attn=True)).eval()
    counts, detect = [3, 0, 1], 8
    with torch.no_grad():
        encoded = detector.encode(torch.randn(3, 3, 32, 48))
        queries = detector.initial_queries(encoded)
        embed = torch.cat([queries.query_embed, torch.randn(3, 3, 64)], dim=1)
        reference = torch.cat([queries.reference, torch.randn(3, 3, 2)], dim=1)
        padding = torch.arange(11) >= torch.tensor(counts)[:, None] + detect
        batch = detector.decode(encoded, embed, reference, padding, num_detect=detect)
        for image, count in enumerate(counts):
            end = detect + count
            alone = dataclasses.replace(
                encoded,
                **{
                    name: tuple(x[image : image + 1] for x in getattr(encoded, name))
                    for name in ("levels", "padding", "positions")
                },
            )
            found = detector.decode(
                alone,
                embed[image : image + 1, :end],
                reference[image : image + 1, :end],
                num_detect=detect,
            )
            expected = batch.boxes[:, image : image + 1, :end]
            torch.testing.assert_close(found.boxes, expected, atol=1e-5, rtol=1e-4)
        without = detector.decode(encoded, embed, reference, padding)
    assert torch.isfinite(batch.hs).all()
    assert not torch.allclose(without.boxes[:, 0], batch.boxes[:, 0], atol=1e-5)
    assert torch.equal(without.boxes[:, 1, :detect], batch.boxes[:, 1, :detect])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mask_type": "dot"},
        {"mask_type": "dot", "mask_window": True, "semantic_dim": 8},
        {"skip_mode": "strided", "x_source": "proj"},
        {"with_box_refine": False, "semantic_levels": "single_level"},
        {"num_feature_levels": 1},
    ],
    ids=str,
)
def test_gradients_reach_every_parameter(changes: dict[str, Any]) -> None:
    detector = randomise_heads(build_detector(**changes)).train()
    encoded = detector.encode(torch.randn(2, 3, 32, 48))
    queries = detector.initial_queries(encoded)
    decoded = detector.decode(encoded, queries.query_embed, queries.reference)
    rows, images = decoded.hs[-1].flatten(0, 1), torch.arange(2).repeat_interleave(8)
    outputs = (
        decoded.logits,
        decoded.boxes,
        detector.masks(encoded)(rows, images, decoded.boxes[-1].flatten(0, 1)),
        detector.semantic(encoded),
    )
    sum((x * torch.randn_like(x)).sum() for x in outputs).backward()
    missing = [n for n, p in detector.named_parameters() if p.grad is None]
    assert missing == []
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters())


def test_no_masks_keep_the_graph() -> None:
    detector = build_detector().train()
    encoded = detector.encode(torch.randn(1, 3, 32, 48))
    none = torch.zeros(0, dtype=torch.int64)
    masks = detector.masks(encoded)(torch.zeros(0, 32), none)
    assert masks.shape == (0, 16, 24)
    masks.sum().backward()
    assert all(p.grad is not None for p in detector.mask_head.parameters())


@pytest.mark.parametrize("mask_type", ["conv", "dot"])
def test_bfloat16(mask_type: str) -> None:
    detector = build_detector(mask_type=mask_type).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        encoded = detector.encode(torch.randn(1, 3, 32, 48))
        queries = detector.initial_queries(encoded)
        decoded = detector.decode(encoded, queries.query_embed, queries.reference)
        masks = detector.masks(encoded)(decoded.hs[-1][0], torch.zeros(8, dtype=torch.int64))
    assert decoded.boxes.dtype == decoded.logits.dtype == torch.float32
    assert all(torch.isfinite(x).all() for x in (decoded.boxes, decoded.logits, masks))


def test_padding_of_a_whole_image() -> None:
    detector = build_detector().eval()
    padding = torch.zeros(2, 32, 48, dtype=torch.bool)
    padding[1] = True
    with pytest.raises(ValueError, match="nothing but padding"):
        detector.encode(torch.zeros(2, 3, 32, 48), padding)


def test_holes_in_a_raster_stay_finite() -> None:
    """Cells without data may lie anywhere, also all along the first row and column."""
    detector = build_detector().eval()
    padding = torch.ones(1, 32, 48, dtype=torch.bool)
    padding[:, 10:25, 15:40] = False
    with torch.no_grad():
        encoded = detector.encode(torch.randn(1, 3, 32, 48), padding, whole=True)
        rows, images = rows_of(detector, encoded)
        masks = detector.masks(encoded)(rows, images)
    assert torch.isfinite(rows).all()
    assert torch.isfinite(masks).all()


def test_objects_keep_their_place_beside_cells_without_data() -> None:
    """A query reads the memory at its reference point of the whole raster, or of the image's area
    without padding."""
    detector = build_detector(dec_layers=1, dec_n_points=1).eval()
    for layer in detector.transformer.decoder.layers:
        torch.nn.init.zeros_(layer.attentions[1].sampling_offsets.bias)
    images = torch.randn(1, 3, 64, 96)
    unknown = torch.zeros(1, 64, 96, dtype=torch.bool)
    unknown[..., 48:] = True
    embed = torch.randn(1, 1, 64)
    reference = torch.tensor([[[0.25, 0.5]]]).logit()

    def column_read(padding: torch.Tensor | None, whole: bool) -> float:
        """Where the output of the query depends on the finest level, as a share of its width."""
        encoded = detector.encode(images, padding, whole=whole)
        level = encoded.levels[0].detach().requires_grad_()
        moved = dataclasses.replace(encoded, levels=(level, *encoded.levels[1:]))
        detector.decode(moved, embed, reference).hs.pow(2).sum().backward()
        weight = level.grad.abs().sum(dim=(0, 1, 2))
        return float((weight * (torch.arange(len(weight)) + 0.5)).sum() / weight.sum() / 24)

    assert column_read(None, True) == pytest.approx(0.25, abs=0.02)
    assert column_read(unknown, True) == pytest.approx(0.25, abs=0.02)
    assert column_read(unknown, False) == pytest.approx(0.125, abs=0.02)
    with torch.no_grad():
        whole, plain = (detector.encode(images, each, whole=True) for each in (unknown, None))
    for found, expected in zip(whole.positions, plain.positions, strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(whole.flatten().centers, plain.flatten().centers)


def test_missing_skips_add_nothing() -> None:
    detector = build_detector().eval()
    torch.nn.init.ones_(detector.mask_head.adapter2.bias)
    with torch.no_grad():
        encoded = detector.encode(torch.randn(1, 3, 32, 48))
        rows, images = rows_of(detector, encoded)
        without = dataclasses.replace(encoded, skips=(None, None, None))
        found = detector.masks(without)(rows, images)
        for number in (1, 2, 3):
            adapter = getattr(detector.mask_head, f"adapter{number}")
            torch.nn.init.zeros_(adapter.weight)
            torch.nn.init.zeros_(adapter.bias)
        torch.testing.assert_close(found, detector.masks(encoded)(rows, images))


def test_what_enters_the_encoder_can_be_changed() -> None:
    detector = build_detector().eval()
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        plain = detector.encode(images)
        same = detector.encode(images, fuse=lambda levels: levels.tokens)
        other = detector.encode(images, fuse=lambda levels: levels.tokens + 1)
    assert torch.equal(plain.levels[0], same.levels[0])
    assert not torch.allclose(plain.levels[0], other.levels[0])


def test_few_cells_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    detector = build_detector().eval()
    with caplog.at_level(logging.WARNING), torch.no_grad():
        for _ in range(2):
            detector.encode(torch.zeros(1, 3, 32, 48))
    assert [record.message for record in caplog.records] == [
        "masks start from a map of 2x3 cells only: give larger images, or a smaller stride of the "
        "stem or of seg_stride"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_dim": 64, "gn_groups": 8}, "hidden_dim must be a multiple of 128.*got 64"),
        ({"hidden_dim": 192, "gn_groups": 8}, "hidden_dim must be a multiple of 128.*got 192"),
        ({"hidden_dim": 128, "gn_groups": 8}, "nheads must be a multiple of .*got 4"),
        ({"hidden_dim": 48}, "hidden_dim must be a multiple of 32 .*got 48"),
        ({"two_stage": True, "with_box_refine": False}, "two_stage=True needs"),
        ({"skip_mode": "diagonal"}, "skip_mode must be one of .*'diagonal'"),
        ({"mask_type": "cnov"}, "mask_type must be one of .*'cnov'"),
        ({"mask_window": True}, "mask_window=True needs mask_type='dot', got 'conv'"),
        ({"semantic_dim": 12, "gn_groups": 8}, "hidden_dim must be"),
    ],
)
def test_numbers_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_detector(**changes)


def test_parts_that_are_not_there() -> None:
    detector = build_detector(mask_type=None, num_semantic_classes=0).eval()
    with torch.no_grad():
        encoded = detector.encode(torch.randn(1, 3, 32, 48))
    with pytest.raises(ValueError, match="no mask head"):
        detector.masks(encoded)(torch.zeros(1, 32), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="no semantic head"):
        detector.semantic(encoded)


def test_initial_classes_and_boxes() -> None:
    """As published: one class in a hundred, boxes of sigmoid(-2) around the points."""
    detector = build_detector().eval()
    with torch.no_grad():
        encoded = detector.encode(torch.randn(1, 3, 32, 48))
        queries = detector.initial_queries(encoded)
        boxes = detector.decode(encoded, queries.query_embed, queries.reference).boxes
    assert torch.allclose(detector.class_embed[0].bias.sigmoid(), torch.tensor(0.01))
    torch.testing.assert_close(boxes[0, ..., :2], queries.reference.sigmoid())
    size = torch.tensor(-2.0).sigmoid()
    torch.testing.assert_close(boxes[..., 2:], size.expand_as(boxes[..., 2:]))
