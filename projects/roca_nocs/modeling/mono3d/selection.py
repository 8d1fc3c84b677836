"""Outputs of a head with one set of numbers per class: those of one class and one yaw bin."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def select_class_from_prediction(
    predictions: Mapping[str, torch.Tensor],
    category: torch.Tensor,
    yaw_bin: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """The numbers of one class, and the residual of one bin, for every row.

    In training class and bin are those of the ground truth, at inference the predicted ones. Rows
    of the background or of padding get the numbers of some class: mask them.

    Args:
        predictions: outputs with the class in dimension -2: any of ``bbox3d`` (..., C, 6),
            ``yaw_logit`` (..., C, Q), ``yaw_resi`` (..., C, Q), ``pose6d`` (..., C, 6);
            ``uncertainty`` (..., C); and ``category_logit`` (..., C + 1), which is passed on.
            ``yaw_resi`` without ``yaw_bin`` needs ``yaw_logit``.
        category: (...) int64; values outside [0, C) stand for no class.
        yaw_bin: (...) int64, likewise in [0, Q), or None for the bin with the largest logit.

    Returns:
        ``bbox3d`` (..., 6), ``yaw_logit`` (..., Q), ``yaw_resi`` (..., 1), ``pose6d`` (..., 6),
        ``uncertainty`` (..., 1), ``category_logit`` (..., C + 1), and ``yaw_bin`` (..., 1) int64
        where there is a residual.
    """
    selected = {
        name: _of_class(predictions[name], category)
        for name in ("bbox3d", "yaw_logit", "yaw_resi", "pose6d")
        if name in predictions
    }
    if "uncertainty" in predictions:
        selected["uncertainty"] = _of_class(predictions["uncertainty"][..., None], category)
    if "category_logit" in predictions:
        selected["category_logit"] = predictions["category_logit"]
    if "yaw_resi" in selected:
        if yaw_bin is None:
            yaw_bin = selected["yaw_logit"].argmax(dim=-1)
        residual = selected["yaw_resi"]
        selected["yaw_bin"] = yaw_bin.clamp(0, residual.shape[-1] - 1)[..., None]
        selected["yaw_resi"] = residual.gather(-1, selected["yaw_bin"])
    return selected


def _of_class(outputs: torch.Tensor, category: torch.Tensor) -> torch.Tensor:
    """(..., D) of (..., C, D)."""
    num_classes, size = outputs.shape[-2:]
    index = category.clamp(0, num_classes - 1)[..., None, None].expand(*category.shape, 1, size)
    return outputs.gather(-2, index).squeeze(-2)
