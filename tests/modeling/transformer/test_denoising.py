"""Contrastive denoising queries: placement, noise, random numbers, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from roca_nocs.geometry.boxes import inverse_sigmoid
from roca_nocs.modeling.transformer.denoising import DenoisingQueries, build_denoising_queries

COUNTS = [2, 0, 3]
NUM_QUERIES = 4
# Away from the borders, so that no corner is clamped: even negatives move by one size at most.
BOXES = torch.tensor([[0.5, 0.5, 0.2, 0.1], [0.45, 0.5, 0.1, 0.2], [0.5, 0.55, 0.1, 0.1]])


def targets() -> list[dict[str, torch.Tensor]]:
    return [{"labels": torch.arange(n), "boxes": BOXES[:n].clone()} for n in COUNTS]


def build(seed: int = 0, **options: Any) -> DenoisingQueries:
    settings = {"dn_number": 8, "label_noise_ratio": 0.0, "box_noise_scale": 1.0} | options
    queries = build_denoising_queries(
        settings.pop("targets", targets()),
        settings.pop("embedding", torch.eye(5)),
        num_queries=NUM_QUERIES,
        generator=torch.Generator().manual_seed(seed),
        **settings,
    )
    assert queries is not None
    return queries


def by_group(values: torch.Tensor) -> torch.Tensor:
    """(B, groups, positive or negative, slots, ...) of (B, M, ...)."""
    return values.unflatten(1, (2, 2, 3))


def test_placement_without_noise() -> None:
    queries = build(box_noise_scale=0.0)
    assert (queries.single_padding, queries.num_groups) == (6, 2)
    labels, boxes = by_group(queries.content), by_group(queries.boxes_logits)
    for image, target in enumerate(targets()):
        used = len(target["labels"])
        expected = torch.eye(5)[target["labels"]].expand(2, 2, -1, -1)
        torch.testing.assert_close(labels[image, :, :, :used], expected)
        expected = inverse_sigmoid(target["boxes"]).expand(2, 2, -1, -1)
        torch.testing.assert_close(boxes[image, :, :, :used], expected)
        assert not labels[image, :, :, used:].any()
        assert not boxes[image, :, :, used:].any()


def test_mask_by_the_rule() -> None:
    mask = build().attention_mask
    slots = mask.shape[0] - NUM_QUERIES
    for row in range(len(mask)):
        for column in range(len(mask)):
            same = row < slots and row // 6 == column // 6
            assert mask[row, column] == (column < slots and not same)


def corner_moves(queries: DenoisingQueries) -> torch.Tensor:
    """|move| of the corners in half sizes, (groups, positive or negative, slots, 4), last image."""
    boxes = by_group(queries.boxes_logits)[-1].sigmoid()
    centre, size = boxes.split(2, dim=-1)
    known_centre, known_size = BOXES.split(2, dim=-1)
    low = (centre - size / 2) - (known_centre - known_size / 2)
    high = (centre + size / 2) - (known_centre + known_size / 2)
    return torch.cat([low, high], dim=-1).abs() / (known_size / 2).repeat(1, 2)


@pytest.mark.parametrize("scale", [0.4, 0.9])
def test_how_far_corners_move(scale: float) -> None:
    # With these scales negatives keep positive sizes unless both sides move to the middle.
    moves = torch.stack([corner_moves(build(seed, box_noise_scale=scale)) for seed in range(20)])
    positive, negative = moves[:, :, 0], moves[:, :, 1]
    assert positive.max() <= scale + 1e-4
    assert positive.max() > 0.9 * scale
    if scale < 0.5:
        assert negative.min() >= scale - 1e-4
        assert negative.max() <= 2 * scale + 1e-4


def test_label_noise() -> None:
    targets = [{"labels": torch.zeros(500, dtype=torch.int64), "boxes": torch.rand(500, 4)}]
    embedding = torch.eye(100)
    queries = build(targets=targets, embedding=embedding, dn_number=1, label_noise_ratio=0.5)
    labels = queries.content.argmax(dim=-1)
    assert queries.num_groups == 1
    # A quarter is drawn anew, one in a hundred of which has the old label.
    assert (labels != 0).double().mean().item() == pytest.approx(0.25, abs=0.06)
    assert len(labels.unique()) > 50


def test_random_numbers() -> None:
    first, same, other = build(1), build(1), build(2)
    assert torch.equal(first.boxes_logits, same.boxes_logits)
    assert not torch.equal(first.boxes_logits, other.boxes_logits)

    def from_global_state() -> torch.Tensor:
        torch.manual_seed(5)
        arguments = {"dn_number": 8, "label_noise_ratio": 0.5, "box_noise_scale": 1.0}
        queries = build_denoising_queries(targets(), torch.eye(5), num_queries=4, **arguments)
        return queries.boxes_logits

    assert torch.equal(from_global_state(), from_global_state())


def test_gradient_of_the_embedding() -> None:
    embedding = torch.randn(5, 7, requires_grad=True)
    build(embedding=embedding).content.sum().backward()
    # Labels 0 and 1 occur in two images, 2 in one, each in two groups, positive and negative.
    assert embedding.grad[:, 0].tolist() == [8, 8, 4, 0, 0]


def test_targets_are_left_alone_and_more_of_them_than_asked_for_make_one_group() -> None:
    given = targets()
    queries = build(targets=given, dn_number=1)
    assert (queries.num_groups, queries.single_padding) == (1, 6)
    for target, before in zip(given, targets(), strict=True):
        assert torch.equal(target["boxes"], before["boxes"])
        assert torch.equal(target["labels"], before["labels"])


@pytest.mark.parametrize("dn_number", [0, -1])
def test_no_denoising(dn_number: int) -> None:
    arguments = {"label_noise_ratio": 0.5, "box_noise_scale": 1.0, "num_queries": 3}
    embedding = torch.eye(5)
    assert build_denoising_queries(targets(), embedding, dn_number=dn_number, **arguments) is None
