"""Memory and queries of future steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from roca_nocs.geometry.boxes import inverse_sigmoid
from roca_nocs.layers.ms_deform_attn import MultiScaleDeformableAttention
from roca_nocs.layers.transformer import DetrMLP
from roca_nocs.modeling.future.flow import FlowHead, compose_flow, resize_flow, warp_by_flow
from roca_nocs.modeling.tracking.ego_motion import REFERENCE_EPSILON
from roca_nocs.modeling.tracking.propagation import zero_linear
from roca_nocs.modeling.tracking.query_interaction import QueryInteraction
from roca_nocs.modeling.tracking.track_state import PaddedLayout
from roca_nocs.modeling.transformer.encoder import DeformableEncoder
from roca_nocs.modeling.transformer.feature_levels import split_levels
from roca_nocs.modeling.transformer.future_detector import Encoded, FutureDetector

_MODES = ("autoregressive", "parallel")
_SKIPS = ("warped", "memory", "none")


@dataclass(frozen=True)
class Step:
    """What is known of N queries of a batch at the present (step 0) or at a future step.

    Attributes:
        encoded: memory of the step; None if it has none of its own.
        hs: (L, N, C) states of L decoder layers.
        logits: (L, N, K).
        boxes: (L, N, 4) cxcywh in [0, 1].
        flow: (B, 2, h, w) from the step before, on the finest level; None at the present.
        motion: (N, 3) of the masks since the present where the step has no memory, see
            :func:`~roca_nocs.modeling.future.rigid_rollout.move_rigidly`.
    """

    encoded: Encoded | None
    hs: torch.Tensor
    logits: torch.Tensor
    boxes: torch.Tensor
    flow: torch.Tensor | None = None
    motion: torch.Tensor | None = None


def decode_rows(
    detector: FutureDetector,
    encoded: Encoded,
    layout: PaddedLayout,
    query: torch.Tensor,
    reference: torch.Tensor,
    flow: torch.Tensor | None = None,
) -> Step:
    """Decode rows of a batch of clips, of which each sees only those of its own clip.

    Args:
        detector: whose decoder runs.
        encoded: memory of the B clips.
        layout: of the N rows; the detect queries come first in every clip.
        query: (N, 2C).
        reference: (N, 2) logits.
        flow: of the step.
    """
    decoded = detector.decode(
        encoded,
        layout.pad(query),
        layout.pad(reference),
        layout.padding,
        num_detect=detector.num_queries,
    )
    rows = (layout.clip, layout.slot)
    of_layers = (decoded.hs, decoded.logits, decoded.boxes)
    return Step(encoded, *(values[:, *rows] for values in of_layers), flow)


class FutureRollout(nn.Module):
    """The encoder's memory, warped by a predicted flow and refined, and queries that decode it.

    Autoregressive: the queries of a step come from those of the step before through an interaction
    module, their reference points move by a predicted displacement, and the detector's decoder
    reads the memory of the step. Parallel: a perceptron per step makes the states of the queries
    from those of the present (as in FipTR, Gui et al., ECCV 2024); only the memory rolls on.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        feedforward_dim: int = 1024,
        dropout: float = 0.0,
        num_feature_levels: int = 4,
        num_points: int = 4,
        num_layers: int = 2,
        max_steps: int = 4,
        update_query_pos: bool = True,
        mode: str = "autoregressive",
        future_skips: str = "warped",
    ) -> None:
        """
        Args:
            embed_dim: C of the detector.
            num_heads, feedforward_dim, dropout: of all attentions and perceptrons.
            num_feature_levels: L of the detector.
            num_points: points that a head samples on each level.
            num_layers: of the refinement.
            max_steps: steps with an embedding of their own; later ones share the last.
            update_query_pos: the interaction module changes positions too.
            mode: ``"autoregressive"``, or ``"parallel"`` with at most ``max_steps`` steps.
            future_skips: what the mask head gets for the backbone's maps: ``"warped"``, those of
                the present moved by the flow; ``"memory"``, the levels of the memory for the two
                coarser ones (see :meth:`attach_skips`); ``"none"``.

        Raises:
            ValueError: an unknown mode.
        """
        super().__init__()
        for name, given, known in (("mode", mode, _MODES), ("future_skips", future_skips, _SKIPS)):
            if given not in known:
                raise ValueError(f"{name} must be one of {known}, got {given!r}")
        self.mode = mode
        self.future_skips = future_skips
        self.max_steps = max_steps
        self.flow_head = FlowHead(embed_dim)
        self.encoder = DeformableEncoder(
            embed_dim,
            num_heads,
            feedforward_dim,
            dropout,
            dropout,
            num_layers,
            num_feature_levels,
            num_points,
        )
        self.step_embed = nn.Embedding(max_steps, embed_dim)
        self.refinement = nn.Parameter(torch.full((num_feature_levels,), 0.1))
        if mode == "autoregressive":
            self.interaction = QueryInteraction(
                embed_dim, feedforward_dim, num_heads, dropout, update_query_pos
            )
            self.displacement = zero_linear(embed_dim, 2)
        else:
            self.step_mlps = nn.ModuleList(
                DetrMLP(embed_dim, embed_dim, embed_dim, 3) for _ in range(max_steps)
            )
        self.skip_convs = nn.ModuleList()
        self._init_weights()

    def attach_skips(self, channels: Sequence[int]) -> None:
        """Make what turns memory into skips of the mask head, with ``future_skips="memory"``.

        Args:
            channels: of the detector's skips, from coarse to fine; empty without a mask head. The
                finest has no level of its resolution and stays away.
        """
        if self.future_skips == "memory":
            width = self.step_embed.embedding_dim
            self.skip_convs.extend(nn.Conv2d(width, number, 1) for number in channels[:2])

    def _init_weights(self) -> None:
        # Deformable attention has an initialisation of its own.
        attentions = [m for m in self.modules() if isinstance(m, MultiScaleDeformableAttention)]
        initialised = {parameter for each in attentions for parameter in each.parameters()}
        for parameter in self.encoder.parameters():
            if parameter.dim() > 1 and parameter not in initialised:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.step_embed.weight)

    def forward(
        self,
        detector: FutureDetector,
        present: Step,
        query: torch.Tensor,
        layout: PaddedLayout,
        num_steps: int,
    ) -> Iterator[Step]:
        """The steps 1 to ``num_steps``.

        Args:
            detector: whose decoder and heads are used.
            present: the decoded present.
            query: (N, 2C) of the present.
            layout: of the N rows, which stay the same.
            num_steps: F, may exceed ``max_steps`` in the autoregressive mode.

        Raises:
            ValueError: more steps than perceptrons.
        """
        if self.mode == "parallel" and num_steps > self.max_steps:
            raise ValueError(
                f"{num_steps} future steps, but the parallel mode has perceptrons for "
                f"max_steps={self.max_steps}"
            )
        accumulated: torch.Tensor | None = None
        step, encoded = present, present.encoded
        assert encoded is not None
        for number in range(num_steps):
            flow = self.flow_head(encoded.levels[0])
            accumulated = flow if accumulated is None else compose_flow(accumulated, flow)
            encoded = self._advance(encoded, flow, number)
            encoded = self._with_maps(detector, encoded, present.encoded, accumulated)
            if self.mode == "parallel":
                step = self._head_start(detector, present, encoded, flow, number)
            else:
                query = self.interaction(query, step.hs[-1], layout.clip)
                reference = self._moved(step, boxes=detector.two_stage)
                step = decode_rows(detector, encoded, layout, query, reference, flow)
            yield step

    def _moved(self, step: Step, *, boxes: bool) -> torch.Tensor:
        """(N, 2) logits of the points to look at next, or (N, 4) of boxes of the same size."""
        before = inverse_sigmoid(step.boxes[-1].detach(), REFERENCE_EPSILON)
        centre = before[:, :2] + self.displacement(step.hs[-1]).float()
        return torch.cat([centre, before[:, 2:]], dim=1) if boxes else centre

    def _advance(self, encoded: Encoded, flow: torch.Tensor, number: int) -> Encoded:
        """The memory one step later: warped, and changed a little by the refinement."""
        warped = [
            warp_by_flow(level, resize_flow(flow, level.shape[-2:])) for level in encoded.levels
        ]
        moved = replace(encoded, levels=tuple(warped))
        levels = moved.flatten()
        embedding = self.step_embed.weight[min(number, self.max_steps - 1)]
        refined = self.encoder(levels._replace(positions=levels.positions + embedding))
        maps = [
            level + share * (after - level)
            for level, after, share in zip(
                warped, split_levels(refined, levels.spatial_shapes), self.refinement, strict=True
            )
        ]
        return replace(moved, levels=tuple(maps))

    def _with_maps(
        self,
        detector: FutureDetector,
        encoded: Encoded,
        present: Encoded,
        accumulated: torch.Tensor,
    ) -> Encoded:
        """With what stands in for the backbone's maps of the present, at this step."""

        def moved(maps: torch.Tensor) -> torch.Tensor:
            return warp_by_flow(maps, resize_flow(accumulated, maps.shape[-2:]))

        finest = None if present.finest is None else moved(present.finest)
        skips: list[torch.Tensor | None] = [None] * len(present.skips)
        if self.future_skips == "warped":
            skips = [None if skip is None else moved(skip) for skip in present.skips]
        elif self.future_skips == "memory":
            for number, conv in enumerate(self.skip_convs):
                size = present.skip_sizes[number]
                # The level of the skip's size: the one whose cells are nearest to it in number.
                level = min(encoded.levels, key=lambda each: abs(each.shape[-1] - size[1]))
                skips[number] = nn.functional.interpolate(conv(level), size=size)
        projected = present.projected
        if detector.x_source == "proj":
            projected = moved(projected)
        return replace(encoded, skips=tuple(skips), finest=finest, projected=projected)

    def _head_start(
        self,
        detector: FutureDetector,
        present: Step,
        encoded: Encoded,
        flow: torch.Tensor,
        number: int,
    ) -> Step:
        """The step of a perceptron, its boxes relative to those of the present."""
        hs = self.step_mlps[number](present.hs[-1])
        base = inverse_sigmoid(present.boxes[-1].detach(), REFERENCE_EPSILON)
        last = detector.transformer.decoder.num_layers - 1  # a two-stage encoder's heads follow
        boxes = (detector.bbox_embed[last](hs).float() + base).sigmoid()
        logits = detector.class_embed[last](hs).float()
        return Step(encoded, hs[None], logits[None], boxes[None], flow)
