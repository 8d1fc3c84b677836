"""What inference carries from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from roca_nocs.modeling.tracking.track_state import TrackState


@dataclass(frozen=True)
class Stream:
    """B clips as their last frame leaves them; C channels.

    Attributes:
        state: all queries of the frame, with the ids and missed frames of the tracker.
        next_id: (B,) int64 id of the next track of each clip.
        memory: (B, C, h, w) of each level, the encoder's memory of the frame.
        pose: (B, 3) float64 (x, y, yaw) of the vehicle in the world.
    """

    state: TrackState
    next_id: torch.Tensor
    memory: tuple[torch.Tensor, ...]
    pose: torch.Tensor
