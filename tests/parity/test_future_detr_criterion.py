"""Mask losses, and matching and losses of a frame, against the code of DETR and its successor."""

from __future__ import annotations

from pathlib import Path

import torch

from parity.aligndetr_arrays import load
from roca_nocs.modeling.criteria import ClipCriterion, MixedMatcher
from roca_nocs.modeling.criteria.clip_loss import LossSums
from roca_nocs.modeling.criteria.clip_matching import FrameTargets
from roca_nocs.modeling.criteria.mask_loss import mask_losses, sigmoid_focal, upsample
from roca_nocs.modeling.transformer.detections import select_detections

CLOSE = {"atol": 1e-6, "rtol": 1e-4}


def test_mask_losses(golden_dir: Path) -> None:
    golden = load(golden_dir / "future_detr" / "mask_losses.npz")
    targets, count = golden["targets"], float(golden["num_boxes"])
    logits = golden["logits"].float().requires_grad_()
    focal, dice = (each.sum() / count for each in mask_losses(logits[:, None], targets[:, None]))
    for name, loss in (("focal_mean1", focal), ("dice", dice)):
        torch.testing.assert_close(loss, golden[name], **CLOSE)
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        torch.testing.assert_close(gradient, golden[f"{name}_grad"], **CLOSE)
    plain = sigmoid_focal(logits, targets, alpha=-1, gamma=1.5).mean(dim=1).sum() / count
    torch.testing.assert_close(plain, golden["focal_mean1_noalpha_gamma1p5"], **CLOSE)
    total = sigmoid_focal(logits, targets).sum() / count
    torch.testing.assert_close(total, golden["focal_sum_over_dim1"], **CLOSE)


def test_set_criterion(golden_dir: Path) -> None:
    golden = load(golden_dir / "future_detr" / "set_criterion.npz")
    logits, boxes, masks = (golden[f"pred_{n}"].float() for n in ("logits", "boxes", "masks"))
    images, queries = logits.shape[:2]
    targets = FrameTargets.of(
        [
            {
                "boxes": golden[f"tgt_boxes{i}"],
                "labels": golden[f"tgt_labels{i}"],
                "masks": golden[f"tgt_masks{i}"],
                "ids": torch.arange(1, 1 + len(golden[f"tgt_labels{i}"])),
            }
            for i in range(images)
        ],
        torch.device("cpu"),
    )
    criterion = ClipCriterion(
        matcher=MixedMatcher(
            *(float(golden[f"cost_{name}"]) for name in ("class", "bbox", "giou")),
            alpha=float(golden["focal_alpha"]),
        ),
        weight_class=1,
        weight_bbox=1,
        weight_giou=1,
        weight_mask=1,
        weight_dice=1,
        alpha=float(golden["focal_alpha"]),
    )
    clip = torch.arange(images).repeat_interleave(queries)
    rows = logits.flatten(0, 1)[None], boxes.flatten(0, 1)[None]
    assigned = criterion.matcher(torch.full_like(clip, -1), clip, *rows, targets)
    first = 0
    for image in range(images):
        of_image = assigned[0, image * queries : (image + 1) * queries]
        src = (of_image >= 0).nonzero()[0]
        assert src.tolist() == golden[f"match_src{image}"].tolist()
        assert (of_image[src] - first).tolist() == golden[f"match_tgt{image}"].tolist()
        first += len(golden[f"tgt_labels{image}"])

    sums = LossSums()
    sums.count = len(targets)
    criterion.frame(sums, "", *rows, assigned, targets)
    matched = torch.from_numpy(assigned[0])
    found = (matched >= 0).nonzero().flatten()
    size = (targets.masks.shape[-2], targets.masks.shape[-1])
    criterion.masks(
        sums, "", upsample(masks.flatten(0, 1)[found], size), targets.masks[matched[found]]
    )
    losses = sums.losses(torch.device("cpu"))
    names = {"class": "ce", "bbox": "bbox", "giou": "giou", "mask": "mask", "dice": "dice"}
    for ours, theirs in names.items():
        expected = golden[f"loss_{theirs}"]
        torch.testing.assert_close(losses[f"loss_{ours}"], expected, atol=1e-5, rtol=1e-4)

    sizes = [tuple(size) for size in golden["target_sizes"].tolist()]
    scores, labels, found_boxes = select_detections(logits, boxes, sizes, 100)
    for image in range(images):
        torch.testing.assert_close(scores[image], golden[f"pp_scores{image}"], **CLOSE)
        assert labels[image].tolist() == golden[f"pp_labels{image}"].tolist()
        torch.testing.assert_close(
            found_boxes[image], golden[f"pp_boxes{image}"], atol=1e-4, rtol=1e-5
        )
