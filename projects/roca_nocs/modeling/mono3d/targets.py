"""Training targets of anchors and of padded proposals; no gradients.

Ground truth is padded (:func:`~roca_nocs.modeling.mono3d.padding.pad_ground_truth`), fields
(B, n, ...) with ``valid`` (B, n, 1). Its padded rows take part in nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, pairwise_ioa, pairwise_iou

from roca_nocs.geometry.box3d_codec import Box3DCodec, ImageBoxes3D

BoxMatcher = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Rows and labels (1, 0, -1) of the columns of a matrix of IoUs; detectron2's ``Matcher``."""

_LEAST_COVERED = 0.5


@torch.no_grad()
def make_auxi(
    gt: Mapping[str, torch.Tensor],
    anchors: torch.Tensor,
    proposals: torch.Tensor,
    proposal_valid: torch.Tensor,
    *,
    anchor_matcher: BoxMatcher,
    proposal_matcher: BoxMatcher,
    box2box_transform: Box2BoxTransform,
    codec: Box3DCodec,
    focal: torch.Tensor,
    ignore_boxes: Sequence[torch.Tensor] | None = None,
    num_sampled: int | None = 256,
    positive_fraction: float = 0.5,
) -> dict[str, dict[str, torch.Tensor]]:
    """All targets of a batch.

    Arguments as of :func:`make_feature` and :func:`make_align`.

    Returns:
        ``gt_feature`` and ``gt_aligned``, their results, and ``valid``: the masks ``gt``
        (B, n, 1) and ``proposals`` (B, K, 1).
    """
    return {
        "gt_feature": make_feature(
            gt,
            anchors,
            anchor_matcher,
            box2box_transform,
            ignore_boxes=ignore_boxes,
            num_sampled=num_sampled,
            positive_fraction=positive_fraction,
        ),
        "gt_aligned": make_align(
            gt,
            proposals,
            proposal_valid,
            proposal_matcher,
            codec,
            focal,
            ignore_boxes=ignore_boxes,
        ),
        "valid": {"gt": gt["valid"], "proposals": proposal_valid},
    }


@torch.no_grad()
def make_feature(
    gt: Mapping[str, torch.Tensor],
    anchors: torch.Tensor,
    matcher: BoxMatcher,
    box2box_transform: Box2BoxTransform,
    *,
    ignore_boxes: Sequence[torch.Tensor] | None = None,
    num_sampled: int | None = 256,
    positive_fraction: float = 0.5,
) -> dict[str, torch.Tensor]:
    """Targets of every anchor.

    Args:
        gt: padded ground truth.
        anchors: (N, 4) XYXY, the same for all images.
        matcher: thresholds 0.3 and 0.7, with low-quality matches.
        box2box_transform: of the region proposal network.
        ignore_boxes: for each image (M, 4), where background is not known to be background.
        num_sampled: anchors of an image that are trained, drawn from torch's generator; None: all.
        positive_fraction: largest share of positives among them.

    Returns:
        ``object`` (B, N, 1) int64: 1 positive, 0 negative, -1 neither or not drawn. ``index``
        (B, N, 1) int64: row of the ground truth, -1 for none. ``iou`` (B, N, 1): the largest. For
        positives, and 0 elsewhere: ``bbox2d`` (B, N, 4) and ``bbox2d_logit`` (B, N, 4), the deltas
        from the anchor; ``bbox3d`` (B, N, 6); ``rotation_y``, ``alpha`` (B, N, 1); ``has3d`` (B, N,
        1) bool; ``category`` (B, N, 1), -1 elsewhere.
    """
    everywhere = torch.ones(len(anchors), dtype=torch.bool, device=anchors.device)
    match = _match_images(
        gt,
        [anchors] * len(gt["valid"]),
        [everywhere] * len(gt["valid"]),
        matcher,
        ignore_boxes,
    )
    # Targets are those of all positives, before some of them are drawn.
    positive = match.label == 1
    targets = _gather(gt, match, positive)
    image, anchor = positive.nonzero(as_tuple=True)
    deltas = box2box_transform.get_deltas(anchors[anchor], targets["bbox2d"][image, anchor])
    targets["bbox2d_logit"] = torch.zeros_like(targets["bbox2d"])
    targets["bbox2d_logit"][image, anchor] = deltas
    targets["category"] = torch.where(positive[..., None], targets["category"], -1)
    if num_sampled is not None:
        for row in match.label:
            sampled = torch.cat(subsample_labels(row, num_sampled, positive_fraction, 0))
            drawn = row[sampled]
            row.fill_(-1)
            row[sampled] = drawn
    return {"object": match.label[..., None], **targets}


@torch.no_grad()
def make_align(
    gt: Mapping[str, torch.Tensor],
    proposals: torch.Tensor,
    proposal_valid: torch.Tensor,
    matcher: BoxMatcher,
    codec: Box3DCodec,
    focal: torch.Tensor,
    *,
    ignore_boxes: Sequence[torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Targets of every proposal.

    Args:
        gt: padded ground truth.
        proposals: (B, K, 4) XYXY.
        proposal_valid: (B, K, 1) bool.
        matcher: threshold 0.5, without low-quality matches.
        codec: of C classes.
        focal: (B,) f_y at the network's resolution, pixels.
        ignore_boxes: as in :func:`make_feature`.

    Returns:
        ``object`` (B, K, 1) int64: 1 foreground, 0 background, -1 padding or ignored. ``category``
        (B, K, 1) int64: C for background, -1 for padding or ignored. ``index`` (B, K, 1) int64: row
        of the ground truth, -1 for none. ``iou`` (B, K, 1): the largest. For foreground, and 0
        elsewhere: ``bbox2d`` (B, K, 4), ``bbox3d`` (B, K, 6), ``rotation`` (B, K, 3, 3),
        ``rotation_y``, ``alpha`` (B, K, 1), ``has3d`` (B, K, 1) bool, and, only where it is true,
        ``bbox3d_logit`` (B, K, 6), encoded relative to the proposal.
    """
    valid = proposal_valid.squeeze(-1)
    match = _match_images(gt, proposals, valid, matcher, ignore_boxes)
    foreground = match.label == 1
    targets = _gather(gt, match, foreground, ("rotation",))
    num_classes = len(codec.priors.depth)
    background = torch.where(match.label == 0, num_classes, -1)[..., None]
    targets["category"] = torch.where(foreground[..., None], targets["category"], background)
    targets["bbox3d_logit"] = torch.zeros_like(targets["bbox3d"])
    rows = targets["has3d"].squeeze(-1).nonzero(as_tuple=True)
    numbers = targets["bbox3d"][rows]
    targets["bbox3d_logit"][rows] = codec.encode(
        ImageBoxes3D(numbers[:, :2], numbers[:, 2], numbers[:, 3:]),
        proposals[rows],
        targets["category"].squeeze(-1)[rows],
        focal[rows[0]],
    )
    return {"object": match.label[..., None], **targets}


def covered_by_ignore(boxes: torch.Tensor, ignore_boxes: torch.Tensor) -> torch.Tensor:
    """Boxes of which at least half lies in one of the regions to ignore.

    Args:
        boxes: (N, 4) XYXY.
        ignore_boxes: (M, 4) XYXY.

    Returns:
        (N,) bool.
    """
    share = pairwise_ioa(Boxes(ignore_boxes), Boxes(boxes))
    return (share >= _LEAST_COVERED).any(dim=0)


class _Match(NamedTuple):
    """``label`` and ``row`` (B, K) int64 (row -1 unless the label is 1), ``iou`` (B, K)."""

    label: torch.Tensor
    row: torch.Tensor
    iou: torch.Tensor


def _match_images(
    gt: Mapping[str, torch.Tensor],
    boxes: Sequence[torch.Tensor] | torch.Tensor,
    valid: Sequence[torch.Tensor] | torch.Tensor,
    matcher: BoxMatcher,
    ignore_boxes: Sequence[torch.Tensor] | None,
) -> _Match:
    matches = []
    # One image at a time: together their matrices of IoUs would take gigabytes.
    for image, (own, own_valid) in enumerate(zip(boxes, valid, strict=True)):
        ignored = None if ignore_boxes is None else ignore_boxes[image]
        known = gt["valid"][image].squeeze(-1)
        matches.append(_match(gt["bbox2d"][image], known, own, own_valid, matcher, ignored))
    return _Match(*(torch.stack(parts) for parts in zip(*matches, strict=True)))


def _match(
    gt_boxes: torch.Tensor,
    gt_valid: torch.Tensor,
    boxes: torch.Tensor,
    valid: torch.Tensor,
    matcher: BoxMatcher,
    ignore_boxes: torch.Tensor | None,
) -> _Match:
    boxes = torch.where(valid[:, None], boxes, 0.0)
    rows = gt_valid.nonzero().squeeze(1)
    quality = pairwise_iou(Boxes(gt_boxes[rows]), Boxes(boxes))
    # A ground truth that no box meets would be matched, for want of a better one, with all of them.
    met = (quality > 0).any(dim=1)
    rows, quality = rows[met], quality[met]
    if len(rows):
        iou = quality.amax(dim=0)
    else:
        iou = quality.new_zeros(len(boxes))
    found, label = matcher(quality)
    label = label.long()
    if ignore_boxes is not None:
        label = torch.where((label == 0) & covered_by_ignore(boxes, ignore_boxes), -1, label)
    label = torch.where(valid, label, -1)
    index = torch.full_like(label, -1)
    positive = (label == 1).nonzero().squeeze(1)
    index[positive] = rows[found[positive]]
    return _Match(label, index, torch.where(valid, iou, 0.0))


def _gather(
    gt: Mapping[str, torch.Tensor],
    match: _Match,
    positive: torch.Tensor,
    more: Sequence[str] = (),
) -> dict[str, torch.Tensor]:
    """Fields (B, K, ...) of the matched ground truth, 0 where not positive; index and iou."""
    image, row = positive.nonzero(as_tuple=True)
    chosen = match.row[image, row]
    gathered = {"index": match.row[..., None], "iou": match.iou[..., None]}
    for name in ("bbox2d", "bbox3d", "rotation_y", "alpha", "has3d", "category", *more):
        values = gt[name]
        field = values.new_zeros(*match.label.shape, *values.shape[2:])
        field[image, row] = values[image, chosen]
        gathered[name] = field
    return gathered
