"""Masks of queries as instances and as panoptic segments."""

from __future__ import annotations

import torch

from modeling.tiny_future_detector import build_detector, randomise_heads
from roca_nocs.modeling.transformer.future_detector import Decoded
from roca_nocs.modeling.transformer.mask_outputs import (
    image_instances,
    merge_panoptic,
    resize_masks,
)

THINGS = torch.tensor([True, False])


def test_masks_belong_to_their_boxes() -> None:
    """The pairs are sorted by score; each has the mask of its query, also a query with two."""
    detector = randomise_heads(build_detector()).eval()
    torch.nn.init.normal_(detector.mask_head.out_lay.weight)
    with torch.no_grad():
        encoded = detector.encode(torch.randn(2, 3, 32, 48))
        queries = detector.initial_queries(encoded)
        decoded = detector.decode(encoded, queries.query_embed, queries.reference)
        logits = torch.randn(1, 2, 8, 3)
        decoded = Decoded(decoded.hs, logits, decoded.boxes)
        found = image_instances(
            detector,
            encoded,
            decoded,
            padded_size=(32, 48),
            image_sizes=[(32, 48), (25, 30)],
            output_sizes=[(32, 48), (50, 60)],
            count=10,
        )
        assert [len(each) for each in found] == [10, 10]
        for image, (each, size) in enumerate(zip(found, [(32, 48), (25, 30)], strict=True)):
            scores, order = logits[0, image].sigmoid().flatten().sort(descending=True)
            rows = order[:10] // 3
            torch.testing.assert_close(each.scores, scores[:10])
            assert torch.equal(each.pred_classes, order[:10] % 3)
            masks = detector.masks(encoded)(decoded.hs[-1][image, rows], torch.full((10,), image))
            expected = resize_masks(masks, (32, 48), size, each.image_size)
            assert torch.equal(each.pred_masks, expected)
            cx, cy, w, h = (decoded.boxes[-1][image, rows] * torch.tensor([1, 1, 0.5, 0.5])).T
            height, width = each.image_size
            left = ((cx - w) * width).clamp(0, width)
            bottom = ((cy + h) * height).clamp(0, height)
            torch.testing.assert_close(each.pred_boxes.tensor[:, 0], left)
            torch.testing.assert_close(each.pred_boxes.tensor[:, 3], bottom)


def test_boxes_alone() -> None:
    detector = build_detector(mask_type=None).eval()
    with torch.no_grad():
        encoded = detector.encode(torch.randn(1, 3, 32, 48))
        queries = detector.initial_queries(encoded)
        decoded = detector.decode(encoded, queries.query_embed, queries.reference)
    sizes = [(32, 48)]
    (found,) = image_instances(
        detector, encoded, decoded, padded_size=sizes[0], image_sizes=sizes, output_sizes=sizes
    )
    assert len(found) == 8 * 3
    assert not found.has("pred_masks")


def test_masks_of_one_row_and_of_nothing() -> None:
    logits = torch.tensor([[[-1.0, 1.0]]])
    found = resize_masks(logits, (2, 4), (2, 4), (2, 4))
    assert found.tolist() == [[[False, False, True, True]] * 2]
    assert resize_masks(torch.zeros(0, 3, 3), (6, 6), (6, 5), (12, 10)).shape == (0, 12, 10)


def stripes(*spans: tuple[int, int], height: int = 8, width: int = 24) -> torch.Tensor:
    logits = torch.full((len(spans), height, width), -5.0)
    for row, (start, end) in enumerate(spans):
        logits[row, :, start:end] = 5.0
    return logits


def merge(
    labels: list[int], logits: torch.Tensor, scores: list[float] | None = None, min_area: int = 5
) -> tuple[torch.Tensor, list[dict]]:
    size = tuple(logits.shape[1:])
    return merge_panoptic(
        torch.tensor(scores or [0.9] * len(labels)),
        torch.tensor(labels, dtype=torch.int64),
        logits,
        THINGS,
        padded_size=size,
        image_size=size,
        output_size=size,
        min_area=min_area,
    )


def test_stuff_of_one_class_is_one_segment() -> None:
    """Also after a round in which a segment was too small."""
    logits = stripes((0, 6), (6, 12), (12, 18), (18, 23), (23, 24))
    logits[4] = -5.0
    logits[4, 0, 23] = 6.0
    logits[3, :, 23] = 5.0
    ids, segments = merge([1, 0, 1, 0, 0], logits, [0.9, 0.95, 0.97, 0.9, 0.9])
    assert [each["category_id"] for each in segments] == [1, 0, 0]
    assert [each["area"] for each in segments] == [96, 48, 48]
    assert [each["isthing"] for each in segments] == [False, True, True]
    assert abs(segments[0]["score"] - 0.97) < 1e-6
    assert ids.dtype == torch.int32
    assert torch.equal(ids[:, 0], ids[:, 12])
    assert ids.unique().tolist() == [1, 2, 3]


def test_small_segments_leave_their_pixels_to_others() -> None:
    logits = stripes((0, 24), (3, 4))
    logits[1, 0, 3] = 9.0
    logits[1, 1:, 3] = -5.0
    ids, segments = merge([1, 0], logits, min_area=2)
    assert [each["area"] for each in segments] == [8 * 24]
    assert (ids == 1).all()
    _, segments = merge([1, 0], logits, min_area=1)
    assert [each["area"] for each in segments] == [8 * 24 - 1, 1]


def test_nothing_is_certain_enough() -> None:
    ids, segments = merge([0, 1], stripes((0, 12), (12, 24)), [0.85, 0.2])
    assert segments == []
    assert ids.tolist() == torch.zeros(8, 24).tolist()
    ids, segments = merge([], torch.zeros(0, 8, 24), [])
    assert segments == []


def test_padding_is_cut_off() -> None:
    logits = stripes((0, 12), (12, 24))
    ids, segments = merge_panoptic(
        torch.tensor([0.9, 0.9]),
        torch.tensor([0, 0]),
        logits,
        THINGS,
        padded_size=(8, 24),
        image_size=(8, 12),
        output_size=(16, 24),
    )
    assert ids.shape == (16, 24)
    assert [each["area"] for each in segments] == [16 * 24]
