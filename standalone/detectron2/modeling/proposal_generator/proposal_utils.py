"""Selection of the best proposals and their mixture with ground truth."""

import math
from collections.abc import Sequence

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances

# Ground-truth boxes join the proposals with a probability of 1 - 1e-10 of being an object.
GT_OBJECTNESS_LOGIT = math.log((1.0 - 1e-10) / 1e-10)


def _best_of_each_level(
    proposals: Sequence[torch.Tensor], logits: Sequence[torch.Tensor], limit: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keep the ``limit`` highest logits of each level; levels side by side in the result.

    Returns:
        Boxes ``(N, P, 4)``, logits ``(N, P)`` and the level ``(P,)`` each of them comes from.
    """
    boxes, scores, levels = [], [], []
    for level, (level_boxes, level_logits) in enumerate(zip(proposals, logits, strict=True)):
        count = min(limit, level_logits.shape[1])
        best_logits, best = level_logits.topk(count, dim=1)
        boxes.append(level_boxes.take_along_dim(best[:, :, None], dim=1))
        scores.append(best_logits)
        levels.append(best.new_full((count,), level))
    return torch.cat(boxes, dim=1), torch.cat(scores, dim=1), torch.cat(levels)


def find_top_rpn_proposals(
    proposals: Sequence[torch.Tensor],
    pred_objectness_logits: Sequence[torch.Tensor],
    image_sizes: Sequence[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """Reduce dense predictions to a short list of proposals per image.

    Args:
        proposals: one ``(N, A_l, 4)`` tensor per level, XYXY in pixels of the network input.
        pred_objectness_logits: one ``(N, A_l)`` tensor per level.
        image_sizes: ``(height, width)`` of the N images before padding; boxes are clipped to it.
        nms_thresh: boxes of one level overlapping more than this suppress each other.
        pre_nms_topk: boxes kept per image and level before suppression.
        post_nms_topk: boxes kept per image over all levels after suppression.
        min_box_size: boxes need both sides longer than this many pixels.
        training: whether a non-finite prediction is an error or is dropped.

    Returns:
        N instances with ``proposal_boxes`` and ``objectness_logits``, best first.

    Raises:
        FloatingPointError: a prediction is not finite during training.
    """
    boxes, scores, levels = _best_of_each_level(proposals, pred_objectness_logits, pre_nms_topk)
    finite = torch.isfinite(boxes).all(dim=2) & torch.isfinite(scores)
    all_finite = bool(finite.all())
    if training and not all_finite:
        raise FloatingPointError(
            "Predicted boxes or scores contain Inf/NaN. Training has diverged."
        )

    results = []
    for index, image_size in enumerate(image_sizes):
        image_boxes, image_scores, image_levels = Boxes(boxes[index]), scores[index], levels
        if not all_finite:
            valid = finite[index]
            image_boxes, image_scores = image_boxes[valid], image_scores[valid]
            image_levels = image_levels[valid]
        image_boxes.clip(image_size)
        large = image_boxes.nonempty(threshold=min_box_size)
        image_boxes, image_scores = image_boxes[large], image_scores[large]
        keep = batched_nms(image_boxes.tensor, image_scores, image_levels[large], nms_thresh)
        keep = keep[:post_nms_topk]
        results.append(
            Instances(
                image_size,
                proposal_boxes=image_boxes[keep],
                objectness_logits=image_scores[keep],
            )
        )
    return results


def add_ground_truth_to_proposals(
    gt: Sequence[Instances] | Sequence[Boxes], proposals: list[Instances]
) -> list[Instances]:
    """Append the ground-truth boxes of each image to its proposals.

    Args:
        gt: one element per image, instances with ``gt_boxes`` or the boxes themselves.
        proposals: one element per image, with ``proposal_boxes`` and ``objectness_logits``.

    Returns:
        One new instances object per image, the ground truth last.

    Raises:
        ValueError: ``gt`` and ``proposals`` describe different numbers of images.
    """
    assert gt is not None, "add_ground_truth_to_proposals needs ground truth, got None"
    if len(proposals) != len(gt):
        raise ValueError(
            f"proposals and gt should have the same length as the number of images: "
            f"got {len(proposals)} proposals and {len(gt)} ground truths"
        )
    return [
        add_ground_truth_to_proposals_single_image(gt_image, proposals_image)
        for gt_image, proposals_image in zip(gt, proposals, strict=True)
    ]


def add_ground_truth_to_proposals_single_image(
    gt: Instances | Boxes, proposals: Instances
) -> Instances:
    """One image of :func:`add_ground_truth_to_proposals`."""
    if isinstance(gt, Boxes):
        gt = Instances(proposals.image_size, gt_boxes=gt)
    as_proposals = Instances(proposals.image_size, **gt.get_fields())
    as_proposals.proposal_boxes = gt.gt_boxes
    as_proposals.objectness_logits = proposals.objectness_logits.new_full(
        (len(gt.gt_boxes),), GT_OBJECTNESS_LOGIT
    )
    for name in proposals.get_fields():
        assert as_proposals.has(name), (
            f"The attribute '{name}' in `proposals` does not exist in `gt`"
        )
    return Instances.cat([proposals, as_proposals])
