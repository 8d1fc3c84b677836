"""The state of object queries, and its padded form for the decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch

NEW = -1
"""Id of a query that belongs to no object."""


@dataclass(frozen=True)
class TrackState:
    """N queries of a batch of clips, ordered by clip; C channels, K classes.

    Attributes:
        clip: (N,) int64, rising.
        query: (N, 2C), position half and content half.
        reference: (N, 2) logit of the reference point (x, y), in [0, 1] of the raster.
        ids: (N,) int64 identity, :data:`NEW` for none; -2 for a query that must not get one.
        iou: (N,) IoU of the box with its target when it last had one, in training.
        score: (N,) best class probability.
        disappear_time: (N,) int64, frames with a low score, at inference.
        embedding: (N, C) output of the last decoder layer.
        boxes: (N, 4) predicted cxcywh in [0, 1].
        logits: (N, K).
    """

    clip: torch.Tensor
    query: torch.Tensor
    reference: torch.Tensor
    ids: torch.Tensor
    iou: torch.Tensor
    score: torch.Tensor
    disappear_time: torch.Tensor
    embedding: torch.Tensor
    boxes: torch.Tensor
    logits: torch.Tensor

    def __len__(self) -> int:
        return len(self.clip)

    def rows(self, index: torch.Tensor) -> TrackState:
        """The rows of an index or a mask."""
        return self._each(lambda value: value[index])

    def replace(self, **values: torch.Tensor) -> TrackState:
        """The same with other values."""
        return dataclasses.replace(self, **values)

    def decoded(
        self, embedding: torch.Tensor, boxes: torch.Tensor, logits: torch.Tensor
    ) -> TrackState:
        """With what the decoder made of the rows: (N, C), (N, 4) and (N, K)."""
        score = logits.detach().float().sigmoid().amax(dim=-1)
        return self.replace(embedding=embedding, boxes=boxes, logits=logits, score=score)

    def _each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> TrackState:
        names = [field.name for field in dataclasses.fields(self)]
        return TrackState(**{name: function(getattr(self, name)) for name in names})


def detect_queries(query: torch.Tensor, reference: torch.Tensor, num_classes: int) -> TrackState:
    """The queries that every frame starts with, as rows without identity.

    Args:
        query: (B, Q, 2C).
        reference: (B, Q, 2 or 4) logits; those of two-stage models are boxes.
        num_classes: K.

    Returns:
        B * Q rows.
    """
    num_clips, count, channels = query.shape
    total = num_clips * count
    device = query.device
    return TrackState(
        clip=torch.arange(num_clips, device=device).repeat_interleave(count),
        query=query.flatten(0, 1),
        reference=reference.flatten(0, 1),
        ids=torch.full((total,), NEW, device=device),
        iou=torch.zeros(total, device=device),
        score=torch.zeros(total, device=device),
        disappear_time=torch.zeros(total, dtype=torch.int64, device=device),
        embedding=query.new_zeros(total, channels // 2),
        boxes=torch.zeros(total, 4, device=device),
        logits=query.new_zeros(total, num_classes),
    )


def concatenate(*states: TrackState) -> TrackState:
    """All rows, ordered by clip; within a clip those of earlier arguments come first."""
    order = torch.cat([state.clip for state in states]).argsort(stable=True)
    names = [field.name for field in dataclasses.fields(TrackState)]
    return TrackState(
        **{name: torch.cat([getattr(s, name) for s in states])[order] for name in names}
    )


@dataclass(frozen=True)
class PaddedLayout:
    """Where N rows, ordered by clip, are in a batch of B clips with S slots each.

    Attributes:
        clip: (N,) int64.
        slot: (N,) int64 position in the clip.
        padding: (B, S) bool, True where a clip has no row.
    """

    clip: torch.Tensor
    slot: torch.Tensor
    padding: torch.Tensor

    @staticmethod
    def of(clip: torch.Tensor, num_clips: int) -> PaddedLayout:
        """The layout of rows with these clips (N,), S the largest number of rows of a clip."""
        counts = clip.bincount(minlength=num_clips)
        slot = rank_in_clip(clip, counts)
        slots = torch.arange(int(counts.max()), device=clip.device)
        return PaddedLayout(clip, slot, slots >= counts[:, None])

    def pad(self, values: torch.Tensor) -> torch.Tensor:
        """(N, ...) to (B, S, ...), zero in the padding."""
        padded = values.new_zeros(*self.padding.shape, *values.shape[1:])
        return padded.index_put((self.clip, self.slot), values)

    def gather(self, padded: torch.Tensor) -> torch.Tensor:
        """(B, S, ...) to (N, ...)."""
        return padded[self.clip, self.slot]


def rank_in_clip(clip: torch.Tensor, counts: torch.Tensor | None = None) -> torch.Tensor:
    """(N,) position of each row among those of its clip.

    Args:
        clip: (N,) int64, rising.
        counts: (B,) rows of each clip, or None to count them.
    """
    if counts is None:
        counts = clip.bincount()
    first = counts.cumsum(dim=0) - counts
    return torch.arange(len(clip), device=clip.device) - first[clip]
