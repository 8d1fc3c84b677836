"""Costs of matching within each image against one matrix over the batch, and overlaps of pairs."""

import torch
from timing import compare

from roca_nocs.geometry.boxes import (
    cxcywh_to_xyxy,
    elementwise_giou,
    elementwise_iou,
    pairwise_iou_giou,
)
from roca_nocs.modeling.criteria.matcher import MixedMatcher, Predictions

BATCH, QUERIES, CLASSES = 16, 900, 80


def random_boxes(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """(*shape, 4) cxcywh inside the unit square."""
    low, high = torch.rand(2, *shape, 2, generator=generator).sort(dim=0).values
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def across_the_batch(
    matcher: MixedMatcher,
    output: Predictions,
    labels: torch.Tensor,
    boxes: torch.Tensor,
) -> torch.Tensor:
    """The usual form: all queries of the batch with all its targets, of which each image then uses
    its own block. (B Q, N), with the focal cost of all classes."""
    p = output.logits.flatten(0, 1).sigmoid()
    positive = matcher.alpha * (1 - p).pow(matcher.gamma) * -(p + 1e-8).log()
    negative = (1 - matcher.alpha) * p.pow(matcher.gamma) * -(1 - p + 1e-8).log()
    predicted = output.boxes.flatten(0, 1)
    _, giou = pairwise_iou_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(boxes))
    return (
        matcher.cost_class * (positive - negative)[:, labels]
        + matcher.cost_bbox * torch.cdist(predicted, boxes, p=1)
        - matcher.cost_giou * giou
    )


def compare_costs(generator: torch.Generator) -> None:
    counts = torch.randint(5, 16, (BATCH,), generator=generator)
    images = torch.arange(BATCH).repeat_interleave(counts)
    labels = torch.randint(CLASSES, (len(images),), generator=generator)
    boxes = random_boxes(len(images), generator=generator)
    logits = torch.randn(BATCH, QUERIES, CLASSES, generator=generator)
    output = Predictions("outputs", logits, random_boxes(BATCH, QUERIES, generator=generator), k=1)
    matcher = MixedMatcher()

    whole = across_the_batch(matcher, output, labels, boxes).view(BATCH, QUERIES, -1)
    own = whole[images, :, torch.arange(len(images))]
    torch.testing.assert_close(matcher.costs(output, images, labels, boxes), own)
    compare(
        f"matching costs, batch {BATCH}, {QUERIES} queries, {len(images)} targets, "
        "vs one matrix over the batch",
        lambda: across_the_batch(matcher, output, labels, boxes),
        lambda: matcher.costs(output, images, labels, boxes),
    )


def compare_overlaps(generator: torch.Generator) -> None:
    for pairs in (300, 2000):
        a, b = (cxcywh_to_xyxy(random_boxes(pairs, generator=generator)) for _ in range(2))

        def diagonals(a: torch.Tensor = a, b: torch.Tensor = b) -> list[torch.Tensor]:
            return [torch.diag(overlap) for overlap in pairwise_iou_giou(a, b)]

        compare(
            f"IoU and GIoU of {pairs} matched pairs vs the diagonal of all pairs",
            diagonals,
            lambda a=a, b=b: (elementwise_iou(a, b), elementwise_giou(a, b)),
        )


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    compare_costs(generator)
    compare_overlaps(generator)


if __name__ == "__main__":
    main()
