"""Values that tell how a training goes, beside its losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from roca_nocs.geometry.box3d_codec import Box3DCodec
from roca_nocs.geometry.yaw_bins import YawBins, wrap_angle
from roca_nocs.modeling.mono3d.decoding import decode_boxes
from roca_nocs.modeling.mono3d.selection import select_class_from_prediction

__all__ = ["class_statistics", "cube_statistics"]


@torch.no_grad()
def class_statistics(logits: torch.Tensor, classes: torch.Tensor) -> dict[str, float]:
    """How well the foreground is classified.

    Args:
        logits: (R, C + 1), background last.
        classes: (R,) int64, C for background.

    Returns:
        ``true_class_prob``, the mean probability of the true class, and ``false_class_prob``, that
        of the most probable other one, background included; nothing without foreground.
    """
    rows = ((classes >= 0) & (classes < logits.shape[1] - 1)).nonzero().squeeze(1)
    if len(rows) == 0:
        return {}
    probabilities = logits[rows].float().softmax(dim=1)
    own = classes[rows, None]
    true = probabilities.gather(1, own)
    false = probabilities.scatter(1, own, 0).amax(dim=1)
    means = torch.stack([true.mean(), false.mean()]).tolist()
    return dict(zip(("true_class_prob", "false_class_prob"), means, strict=True))


@torch.no_grad()
def cube_statistics(
    predictions: Mapping[str, torch.Tensor],
    targets: Mapping[str, torch.Tensor],
    reference: torch.Tensor,
    projection: torch.Tensor,
    codec: Box3DCodec,
    yaw_bins: YawBins,
) -> dict[str, float]:
    """Errors of the decoded boxes of R regions.

    Args:
        predictions, targets, reference, projection, codec, yaw_bins: as of
            ``criteria.cube_loss.CubeLoss``.

    Returns:
        Medians: ``depth_error``, relative; ``alpha_error``, radians; ``dims_error``, metres; with
        yaw bins ``yaw_bin_acc``, the share of right bins; nothing for no regions.
    """
    if len(reference) == 0:
        return {}
    classes = targets["category"].squeeze(1)
    alpha = targets["alpha"].squeeze(1)
    selected = select_class_from_prediction(predictions, classes)
    boxes = decode_boxes(selected, reference, classes, projection, codec, yaw_bins)
    depth, dimensions = targets["bbox3d"][:, 2], targets["bbox3d"][:, 3:]
    values = {
        "depth_error": ((boxes.depth - depth).abs() / depth).median(),
        "alpha_error": wrap_angle(boxes.alpha - alpha).abs().median(),
        "dims_error": (boxes.dimensions - dimensions).abs().median(),
    }
    if "yaw_bin" in selected:
        right = selected["yaw_bin"].squeeze(1) == yaw_bins.encode(alpha)[0]
        values["yaw_bin_acc"] = right.float().mean()
    return dict(zip(values, torch.stack([*values.values()]).tolist(), strict=True))
