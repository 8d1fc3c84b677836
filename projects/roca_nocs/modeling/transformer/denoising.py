"""Contrastive denoising of DINO (Zhang et al., ICLR 2023): noisy targets as extra queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from roca_nocs.geometry.boxes import cxcywh_to_xyxy, inverse_sigmoid, xyxy_to_cxcywh


@dataclass(frozen=True)
class DenoisingDraws:
    """The random numbers of R noisy targets.

    Attributes:
        label_flip: (R,) in [0, 1); a label is replaced below half the label noise ratio.
        new_labels: (R,) int64, what it is replaced by.
        box_sign: (R, 4) 0 or 1: each corner coordinate moves down or up.
        box_part: (R, 4) in [0, 1): how far, in units of half the size.
    """

    label_flip: torch.Tensor
    new_labels: torch.Tensor
    box_sign: torch.Tensor
    box_part: torch.Tensor

    @staticmethod
    def sample(
        rows: int,
        num_classes: int,
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> DenoisingDraws:
        """Draw the numbers of ``rows`` targets, from torch's global generator if none is given."""
        return DenoisingDraws(
            label_flip=torch.rand(rows, device=device, generator=generator),
            new_labels=torch.randint(num_classes, (rows,), device=device, generator=generator),
            box_sign=torch.randint(2, (rows, 4), device=device, generator=generator),
            box_part=torch.rand(rows, 4, device=device, generator=generator),
        )


@dataclass(frozen=True)
class DenoisingQueries:
    """M denoising queries per image, to be put before the Q matching queries.

    Attributes:
        content: (B, M, E), the embeddings of the noisy labels; zeros in unused slots.
        boxes_logits: (B, M, 4) float32, logits of the noisy cxcywh boxes; zeros in unused slots.
        attention_mask: (M + Q, M + Q) bool, true where the row must not attend to the column.
        single_padding: slots of a group: as many positives as the fullest image has targets, then
            as many negatives.
        num_groups: M / single_padding.
    """

    content: torch.Tensor
    boxes_logits: torch.Tensor
    attention_mask: torch.Tensor
    single_padding: int
    num_groups: int


# Python numbers of every batch decide the sizes: traced, each batch would be compiled anew.
@torch.compiler.disable
def build_denoising_queries(
    targets: Sequence[Mapping[str, torch.Tensor]],
    label_embedding: torch.Tensor,
    *,
    num_queries: int,
    dn_number: int,
    label_noise_ratio: float,
    box_noise_scale: float,
    draws: DenoisingDraws | None = None,
    generator: torch.Generator | None = None,
) -> DenoisingQueries | None:
    """Noisy copies of the targets in groups, each with a positive and a negative copy of every one.

    With m the largest number of targets of an image there are max(1, floor(dn_number / m)) groups.
    The i-th target of an image has slot i of the positives and of the negatives of each group.
    Corners of positives move by up to half the size times ``box_noise_scale``, those of negatives
    by one to two halves, clamped to the image; they are not put back in order, so that negatives
    can have negative sizes (as in the published code), which the logit saturates.

    Args:
        targets: per image ``labels`` (n,) int64 and ``boxes`` (n, 4) cxcywh in [0, 1].
        label_embedding: (C, E), one row per class.
        num_queries: Q, the matching queries that follow.
        dn_number: about how many positives an image gets; 0 for no denoising.
        label_noise_ratio: half of it is the probability that a label is drawn anew.
        box_noise_scale: 1 moves corners of positives by up to half the size; 0 leaves all boxes.
        draws: the random numbers to use, with a row for each copy: repeats of the batch's N targets
            in image order, positives and negatives in turn, R = 2 * num_groups * N.
        generator: source of the draws, on the device of ``label_embedding``.

    Returns:
        None if ``dn_number`` is not positive or the batch has no targets.
    """
    counts = [len(target["labels"]) for target in targets]
    most = max(counts, default=0)
    if dn_number <= 0 or most == 0:
        return None
    num_groups = max(1, dn_number // most)
    device = label_embedding.device
    repeats = 2 * num_groups
    if draws is None:
        draws = DenoisingDraws.sample(
            repeats * sum(counts), len(label_embedding), device, generator
        )
    labels = torch.cat([target["labels"] for target in targets]).repeat(repeats)
    boxes = torch.cat([target["boxes"] for target in targets]).float().repeat(repeats, 1)
    labels = torch.where(draws.label_flip < 0.5 * label_noise_ratio, draws.new_labels, labels)
    if box_noise_scale > 0:
        negative = torch.arange(repeats, device=device).remainder(2)
        negative = negative[:, None].expand(-1, sum(counts)).reshape(-1, 1)
        boxes = _move_corners(boxes, draws.box_sign, draws.box_part + negative, box_noise_scale)

    slots = repeats * most
    images, places = _slots(counts, repeats, most).to(device)
    content = label_embedding.new_zeros(len(targets), slots, label_embedding.shape[1])
    boxes_logits = boxes.new_zeros(len(targets), slots, 4)
    return DenoisingQueries(
        content=content.index_put((images, places), F.embedding(labels, label_embedding)),
        boxes_logits=boxes_logits.index_put((images, places), inverse_sigmoid(boxes)),
        attention_mask=_attention_mask(slots, 2 * most, num_queries, device),
        single_padding=2 * most,
        num_groups=num_groups,
    )


def _move_corners(
    boxes: torch.Tensor, sign: torch.Tensor, part: torch.Tensor, scale: float
) -> torch.Tensor:
    half_size = (0.5 * boxes[:, 2:]).repeat(1, 2)
    corners = cxcywh_to_xyxy(boxes) + (2 * sign - 1) * part * half_size * scale
    return xyxy_to_cxcywh(corners.clamp(0.0, 1.0))


def _slots(counts: list[int], repeats: int, most: int) -> torch.Tensor:
    """(2, repeats * N) image and slot of every copy, built on the host, where the counts are."""
    numbers = torch.tensor(counts)
    images = torch.arange(len(counts)).repeat_interleave(numbers)
    places = torch.arange(len(images)) - (numbers.cumsum(0) - numbers)[images]
    starts = most * torch.arange(repeats)[:, None]
    return torch.stack([images.repeat(repeats), (starts + places).flatten()])


def _attention_mask(
    slots: int, group_size: int, num_queries: int, device: torch.device
) -> torch.Tensor:
    """True from outside a group to its slots; all rows may see the matching queries."""
    group = torch.arange(slots + num_queries, device=device) // group_size
    group[slots:] = -1
    return (group[:, None] != group) & (group >= 0)
