"""From the decoded queries of a frame to the track queries of the next one."""

from __future__ import annotations

import torch
from torch import nn

from roca_nocs.geometry.bev import BevGrid, relative_pose
from roca_nocs.modeling.tracking.ego_motion import carry_centres
from roca_nocs.modeling.tracking.fp_insertion import (
    false_positive_rows,
    random_drop,
    surviving,
)
from roca_nocs.modeling.tracking.query_interaction import QueryInteraction
from roca_nocs.modeling.tracking.track_state import TrackState, concatenate

_EXCLUDED = -2


class TrackPropagation(nn.Module):
    """Selection of tracks, their interaction, and the motion of the vehicle that sees them.

    In training tracks that fit their targets survive, some are dropped (their objects are born
    again in the next frame), and rows without identity are added as false tracks. At inference all
    rows with an identity survive.
    """

    def __init__(
        self,
        interaction: QueryInteraction,
        *,
        drop: float = 0.1,
        fp_ratio: float = 0.3,
        fp_id_excluded: bool = False,
        motion_bias: bool = False,
    ) -> None:
        """
        Args:
            interaction: what happens between the tracks of a clip.
            drop: probability that training loses a track.
            fp_ratio: probability that training adds a false track for a track.
            fp_id_excluded: false tracks may not be matched with newborn objects in the next frame;
                in MOTR's code they may.
            motion_bias: add a learned displacement to the centre of a track.
        """
        super().__init__()
        self.track_embed = interaction
        self.drop = drop
        self.fp_ratio = fp_ratio
        self.fp_id_excluded = fp_id_excluded
        self.displacement = zero_linear(interaction.embed_dim, 2) if motion_bias else None

    def forward(
        self,
        state: TrackState,
        pose: torch.Tensor,
        next_pose: torch.Tensor,
        grid: BevGrid,
        next_ids: torch.Tensor | None = None,
        next_clip: torch.Tensor | None = None,
    ) -> TrackState:
        """
        Args:
            state: all decoded queries of a frame.
            pose, next_pose: (B, 3) float64 (x, y, yaw) of the vehicle in the world, in this frame
                and in the next one.
            grid: of the rasters.
            next_ids, next_clip: (M,) int64, identities and clips of the targets in the next frame,
                in training: a track that leaves the raster is then kept while its target does not.

        Returns:
            The track queries of the next frame.
        """
        tracks = self._survivors(state) if self.training else state.rows(state.ids >= 0)
        query = self.track_embed(tracks.query, tracks.embedding, tracks.clip)
        centres = tracks.boxes[:, :2].detach()
        if self.displacement is not None:
            centres = centres + self.displacement(tracks.embedding).float()
        motion = relative_pose(next_pose, pose)[tracks.clip]
        reference, near = carry_centres(centres, motion, grid)
        if next_ids is not None and next_clip is not None:
            same = (tracks.ids[:, None] == next_ids) & (tracks.clip[:, None] == next_clip)
            near = near | same.any(dim=1)
        return tracks.replace(query=query, reference=reference).rows(near)

    def _survivors(self, state: TrackState) -> TrackState:
        active = random_drop(surviving(state.ids, state.iou), self.drop)
        rows = false_positive_rows(active, state.ids, state.boxes, state.clip, self.fp_ratio)
        false = state.rows(rows)
        if self.fp_id_excluded:
            false = false.replace(ids=torch.full_like(false.ids, _EXCLUDED))
        return concatenate(state.rows(active), false)


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts as zero."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
