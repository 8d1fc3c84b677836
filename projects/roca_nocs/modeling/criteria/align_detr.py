"""The criterion of AlignDETR: losses of all supervised outputs of a set-prediction detector."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from roca_nocs.geometry.boxes import cxcywh_to_xyxy, elementwise_giou, elementwise_iou
from roca_nocs.modeling.criteria.average_count import average_count
from roca_nocs.modeling.criteria.ia_bce import (
    align_loss,
    alignment_quality,
    focal_loss,
    ia_bce,
    local_rank,
)
from roca_nocs.modeling.criteria.matcher import Matches, MixedMatcher, Predictions, Targets

logger = logging.getLogger(__name__)

_CLS_LOSSES = ("ia_bce", "align", "focal")
_WEIGHTS = {"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}


class _Pairs(NamedTuple):
    """P matched pairs of all outputs, (P,) int64 tensors on the device.

    ``query`` counts through the queries of all outputs, ``target`` through the targets of the
    batch. The first ``num_ranked`` pairs are the matcher's, the others those of denoising.
    """

    output: torch.Tensor
    image: torch.Tensor
    target: torch.Tensor
    query: torch.Tensor
    class_agnostic: torch.Tensor
    num_ranked: int


class AlignDETRCriterion(nn.Module):
    """IA-BCE, L1 and GIoU losses with rank weights (arXiv 2304.07527 v1).

    A matched pair of rank r among the queries of its target weighs w = exp(-r / tau) in the box
    losses, and its query's class target is w * max(p^alpha IoU^(1 - alpha), 0.01). Denoising
    queries belong to their targets without matching and have w = 1. All losses are sums over the
    batch divided by the number of its targets (averaged over the processes, at least 1; times the
    groups for denoising), so that the mean of the processes' losses is that of the whole batch.

    The arithmetic is float32 also under autocast. Any detector can use the criterion that returns
    what :meth:`forward` asks for.
    """

    def __init__(
        self,
        num_classes: int,
        matcher: MixedMatcher,
        match_num: Sequence[int],
        tau: float,
        alpha: float = 0.25,
        gamma: float = 2.0,
        weight_dict: Mapping[str, float] | None = None,
        two_stage_binary_cls: bool = False,
        cls_loss: str = "ia_bce",
    ) -> None:
        """
        Args:
            num_classes: C.
            matcher: assigns queries to targets.
            match_num: queries for each target, for the encoder's output, the auxiliary outputs in
                their order and the final output: one number more than decoder layers.
            tau: decay of the rank weights.
            alpha: share of the score in the quality; with "focal" the balancing factor.
            gamma: focal exponent.
            weight_dict: factors of ``loss_class``, ``loss_bbox`` and ``loss_giou``; 1, 5 and 2 if
                None. A further entry with the suffix of an output, such as ``loss_giou_enc``,
                holds for that output instead.
            two_stage_binary_cls: the encoder's output only tells objects (label 0) from background.
            cls_loss: "ia_bce"; "align", the project's own reading of the unpublished second version
                (:func:`~roca_nocs.modeling.criteria.ia_bce.align_loss`); or "focal", the loss of
                DINO, in which matched queries are full positives.
        """
        super().__init__()
        if cls_loss not in _CLS_LOSSES:
            raise ValueError(f"cls_loss must be one of {_CLS_LOSSES}, got {cls_loss!r}")
        if len(match_num) < 2 or min(match_num) < 1:
            raise ValueError(
                "match_num must hold positive numbers for the encoder, each auxiliary output and "
                f"the final output, got {list(match_num)}"
            )
        if tau <= 0:
            raise ValueError(f"tau must be positive, got {tau}")
        weight_dict = dict(_WEIGHTS if weight_dict is None else weight_dict)
        if missing := [loss for loss in _WEIGHTS if loss not in weight_dict]:
            raise ValueError(f"weight_dict has no {', '.join(missing)}, only {list(weight_dict)}")
        self.num_classes = num_classes
        self.matcher = matcher
        self.match_num = tuple(match_num)
        self.tau = tau
        self.alpha = alpha
        self.gamma = gamma
        self.weight_dict = weight_dict
        self.two_stage_binary_cls = two_stage_binary_cls
        self.cls_loss = cls_loss
        self._weights_checked = False

    # Sizes follow the number of targets and the solver is not traceable.
    @torch.compiler.disable
    def forward(self, outputs: Mapping[str, Any], targets: Targets) -> dict[str, torch.Tensor]:
        """Weighted losses.

        Args:
            outputs: ``pred_logits`` (B, Q, C) and ``pred_boxes`` (B, Q, 4) cxcywh in [0, 1] of the
                last decoder layer, and optionally

                - ``aux_outputs``: list of such dicts of the earlier layers;
                - ``enc_outputs``: such a dict of the encoder's proposals;
                - ``dn_outputs``: such a dict of the denoising queries, with ``aux_outputs`` and the
                  integers ``single_padding`` and ``num_groups`` of
                  :class:`~roca_nocs.modeling.transformer.denoising.DenoisingQueries`; None for a
                  batch without denoising queries, whose losses are then 0; no such key for a
                  detector without denoising, which gets no such losses;
                - ``dn_meta`` instead of ``dn_outputs``, as detrex's DINO has it: the dict
                  ``output_known_lbs_bboxes`` of the denoising queries, and ``single_padding`` and
                  ``dn_num``; None, or without the first, for a batch without denoising queries.

                The number of queries may differ between them.
            targets: per image ``labels`` (n,) int64 and ``boxes`` (n, 4) cxcywh in [0, 1].

        Returns:
            0-dim ``loss_class``, ``loss_bbox`` and ``loss_giou``, with suffixes ``_0``, ... for the
            auxiliary outputs, ``_enc`` for the encoder and ``_dn``, ``_dn_0``, ... for denoising.
            The keys depend on the outputs alone, not on the targets.

        Raises:
            ValueError: ``match_num``, ``num_classes`` or the targets do not fit the outputs; from
                the matcher, a target's label or box is impossible.
            FloatingPointError: an output is NaN, from the matcher.
        """
        if len(targets) != len(outputs["pred_logits"]):
            raise ValueError(
                f"{len(targets)} targets for a batch of {len(outputs['pred_logits'])} images"
            )
        outputs = _with_dn_outputs(outputs)
        supervised = self._supervised(outputs)
        dn_outputs = outputs.get("dn_outputs")
        denoising = {} if dn_outputs is None else _denoising(dn_outputs)
        everything = supervised | denoising
        predictions = list(everything.values())
        self._check_classes(predictions)
        counts = np.array([len(target["labels"]) for target in targets], dtype=np.int64)
        num_groups = 1 if dn_outputs is None else int(dn_outputs["num_groups"])
        matches = self.matcher(predictions[: len(supervised)], targets)
        num_ranked = len(matches.image)
        if dn_outputs is not None:
            single_padding = int(dn_outputs["single_padding"])
            _check_denoising(denoising.values(), counts, single_padding, num_groups)
            which = range(len(supervised), len(everything))
            known = _denoising_matches(counts, single_padding, num_groups, which)
            matches = Matches(*np.concatenate([matches, known], axis=1))

        device = outputs["pred_logits"].device
        with torch.autocast(device.type, enabled=False):
            pairs = _pairs(matches, num_ranked, predictions, counts, device)
            sums = self._sums(predictions, pairs, targets)
            groups = [1] * len(supervised) + [num_groups] * len(denoising)
            factors = [
                [
                    self._weight(loss, suffix) / g
                    for suffix, g in zip(everything, groups, strict=True)
                ]
                for loss in _WEIGHTS
            ]
            values = sums * sums.new_tensor(factors) / average_count(int(counts.sum()), device)
            losses = {
                f"{loss}{suffix}": value
                for loss, row in zip(_WEIGHTS, values, strict=True)
                for suffix, value in zip(everything, row.unbind(), strict=True)
            }
            if "dn_outputs" in outputs and dn_outputs is None:
                # The sum of nothing is 0 and still a function of the model's output.
                zero = _full_precision(outputs["pred_logits"].flatten()[:0]).sum()
                layers = ["", *(f"_{layer}" for layer in range(len(_aux(outputs))))]
                losses |= {f"{loss}_dn{layer}": zero for loss in _WEIGHTS for layer in layers}
        self._check_weights(losses)
        return losses

    def _weight(self, loss: str, suffix: str) -> float:
        return self.weight_dict.get(f"{loss}{suffix}", self.weight_dict[loss])

    def _check_weights(self, losses: Iterable[str]) -> None:
        """Warn once of weights that no loss has; the keys of the losses never change."""
        if self._weights_checked:
            return
        self._weights_checked = True
        # Published configs weigh an encoder's denoising, which does not exist.
        known = {*losses, *(f"{loss}_dn_enc" for loss in _WEIGHTS)}
        if unknown := [name for name in self.weight_dict if name not in known]:
            logger.warning(
                "weight_dict: %s are no losses of this model, which has %s", unknown, [*losses]
            )

    def _supervised(self, outputs: Mapping[str, Any]) -> dict[str, Predictions]:
        """The outputs that are matched, by the suffix of their losses."""
        aux = _aux(outputs)
        if aux and len(self.match_num) != len(aux) + 2:
            raise ValueError(
                f"match_num needs {len(aux) + 2} numbers (encoder, {len(aux)} auxiliary outputs, "
                f"final output), got {list(self.match_num)}"
            )
        found = {"": _predictions("outputs", outputs, self.match_num[-1])}
        for layer, each in enumerate(aux):
            name = f"aux_outputs[{layer}]"
            found[f"_{layer}"] = _predictions(name, each, self.match_num[1 + layer])
        if outputs.get("enc_outputs") is not None:
            found["_enc"] = _predictions(
                "enc_outputs", outputs["enc_outputs"], self.match_num[0]
            )._replace(class_agnostic=self.two_stage_binary_cls)
        return found

    def _check_classes(self, predictions: Iterable[Predictions]) -> None:
        for each in predictions:
            if each.logits.shape[-1] != self.num_classes:
                raise ValueError(
                    f"pred_logits of {each.name!r} has {each.logits.shape[-1]} classes, the "
                    f"criterion's num_classes is {self.num_classes}"
                )

    def _sums(
        self, predictions: Sequence[Predictions], pairs: _Pairs, targets: Targets
    ) -> torch.Tensor:
        """(3, outputs) sums of the class, L1 and GIoU losses over the batch."""
        logits = _full_precision(torch.cat([each.logits for each in predictions], dim=1))
        boxes = _full_precision(torch.cat([each.boxes for each in predictions], dim=1))
        labels = torch.cat([target["labels"] for target in targets])
        wanted = torch.cat([target["boxes"] for target in targets]).to(boxes)[pairs.target]

        where = pairs.image, pairs.query
        predicted = boxes[where]
        corners, wanted_corners = cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted)
        matched = (*where, labels[pairs.target] * (1 - pairs.class_agnostic))
        iou = elementwise_iou(corners, wanted_corners).detach()
        quality = alignment_quality(logits[matched], iou, self.alpha)
        weight = self._rank_weights(quality, pairs, len(labels))
        distance = weight * (predicted - wanted).abs().sum(dim=-1)
        giou = weight * (1 - elementwise_giou(corners, wanted_corners))

        if self.cls_loss == "focal":
            class_loss = focal_loss(logits, matched, self.alpha, self.gamma)
        else:
            loss = ia_bce if self.cls_loss == "ia_bce" else align_loss
            class_loss = loss(logits, matched, weight * quality, self.gamma)
        # One entry per query: its pair's, as no query has two.
        nothing = torch.zeros_like(class_loss)
        per_query = [class_loss, *(nothing.index_put(where, each) for each in (distance, giou))]
        sizes = [each.logits.shape[1] for each in predictions]
        of_outputs = torch.stack(per_query).sum(dim=1).split(sizes, dim=1)
        return torch.stack([each.sum(dim=1) for each in of_outputs], dim=1)

    def _rank_weights(self, quality: torch.Tensor, pairs: _Pairs, num_targets: int) -> torch.Tensor:
        """(P,) exp(-rank / tau) of the matcher's pairs, 1 for those of denoising."""
        ranked = slice(pairs.num_ranked)
        groups = pairs.output[ranked] * num_targets + pairs.target[ranked]
        weight = torch.ones_like(quality)
        rank = local_rank(quality[ranked], groups)
        weight[ranked] = (-rank.to(quality.dtype) / self.tau).exp()
        return weight


def _with_dn_outputs(outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The outputs with ``dn_outputs`` in the place of detrex's ``dn_meta``."""
    if "dn_meta" not in outputs:
        return outputs
    meta = outputs["dn_meta"] or {}
    known = meta.get("output_known_lbs_bboxes")
    if known is not None:
        sizes = {"single_padding": meta["single_padding"], "num_groups": meta["dn_num"]}
        known = {**known, **sizes}
    return {**outputs, "dn_outputs": known}


def _aux(outputs: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return outputs.get("aux_outputs") or []


def _predictions(name: str, output: Mapping[str, Any], k: int = 1) -> Predictions:
    return Predictions(name, output["pred_logits"], output["pred_boxes"], k)


def _denoising(outputs: Mapping[str, Any]) -> dict[str, Predictions]:
    """The denoising outputs by the suffix of their losses."""
    found = {"_dn": _predictions("dn_outputs", outputs)}
    for layer, each in enumerate(_aux(outputs)):
        found[f"_dn_{layer}"] = _predictions(f"dn_outputs.aux_outputs[{layer}]", each)
    return found


def _check_denoising(
    denoising: Iterable[Predictions], counts: np.ndarray, single_padding: int, num_groups: int
) -> None:
    positives = single_padding // 2
    for each in denoising:
        num_queries = each.logits.shape[1]
        if num_queries != single_padding * num_groups or counts.max() > positives:
            raise ValueError(
                f"{each.name!r} has {num_queries} queries in {num_groups} groups of "
                f"{single_padding}, with up to {counts.max()} targets in an image: expected "
                "num_groups * single_padding queries and no more targets than the "
                f"{positives} positive slots that a group begins with"
            )


def _denoising_matches(
    counts: np.ndarray, single_padding: int, num_groups: int, outputs: range
) -> Matches:
    """Target i of an image belongs to the i-th query of every group, in every output."""
    targets = np.concatenate([np.arange(count) for count in counts])
    starts = single_padding * np.arange(num_groups)[:, None]
    shape = (len(outputs), num_groups, len(targets))
    output = np.array(outputs)[:, None, None]
    image = np.repeat(np.arange(len(counts)), counts)
    columns = output, image, targets, starts + targets
    return Matches(*(np.broadcast_to(column, shape).ravel() for column in columns))


def _pairs(
    matches: Matches,
    num_ranked: int,
    predictions: Sequence[Predictions],
    counts: np.ndarray,
    device: torch.device,
) -> _Pairs:
    """The matches with running numbers, moved to the device in one copy."""
    first_query = np.cumsum([0, *(each.logits.shape[1] for each in predictions)])
    first_target = np.cumsum([0, *counts])
    class_agnostic = np.array([each.class_agnostic for each in predictions], dtype=np.int64)
    rows = (
        matches.output,
        matches.image,
        matches.target + first_target[matches.image],
        matches.query + first_query[matches.output],
        class_agnostic[matches.output],
    )
    output, image, target, query, agnostic = torch.from_numpy(np.stack(rows)).to(device).unbind()
    return _Pairs(output, image, target, query, agnostic, num_ranked)


def _full_precision(values: torch.Tensor) -> torch.Tensor:
    """float32, unless it is float64 already."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
