"""The single-frame network of FutureDETR: backbone, transformer, boxes, masks, semantics.

B images, L levels, Q queries, C channels, K classes, N decoder layers. Nothing here knows of time:
whoever carries queries or memory through time calls :meth:`FutureDetector.encode`,
:meth:`~FutureDetector.decode`, :meth:`~FutureDetector.masks` and
:meth:`~FutureDetector.semantic` with what it carries.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import torch
from detectron2.modeling import Backbone
from torch import nn

from roca_nocs.layers.neck import ChannelMapper
from roca_nocs.layers.position import PositionEmbeddingLearned, PositionEmbeddingSine
from roca_nocs.modeling.transformer.deformable_transformer import (
    DeformableTransformer,
    InitialQueries,
)
from roca_nocs.modeling.transformer.encoded import Decoded, Encoded
from roca_nocs.modeling.transformer.feature_levels import (
    FeatureLevels,
    choose_features,
    extend_strides,
    flatten_levels,
    nearest_level,
    resize_padding,
    split_levels,
)
from roca_nocs.modeling.transformer.mask_heads import (
    AttentionMaps,
    ConvMaskHead,
    DotMaskHead,
    StridedSkips,
    check_mask_widths,
)
from roca_nocs.modeling.transformer.mask_readers import MaskReader, conv_reader, dot_reader
from roca_nocs.modeling.transformer.prediction_heads import new_box_head, new_class_head
from roca_nocs.modeling.transformer.semantic_head import SemanticHead

__all__ = ["Decoded", "Encoded", "FutureDetector"]

_FEW_CELLS = 100  # of the level that the masks start from


class FutureDetector(nn.Module):
    """Deformable DETR (Zhu et al., ICLR 2021) with DETR's mask head (Carion et al., ECCV 2020).

    All widths follow from ``backbone.output_shape()``, so that any backbone will do. The levels are
    its features of 2, 4 and 8 times the finest stride (see
    :func:`~roca_nocs.modeling.transformer.feature_levels.choose_features`), and further ones of
    half the resolution each; the mask head starts at the level of ``seg_stride`` and refines it by
    three skips.

    Attributes:
        hidden_dim: C.
        num_classes: K.
        num_queries: Q of :meth:`initial_queries`.
        two_stage: whether these come from the encoder's best tokens.
        level_strides: of each level, in pixels.
        seg_level: index of the level that masks start from.
        skip_channels: of the three skips, from coarse to fine; empty without a mask head.
        mask_stride: of the masks in pixels; None without a mask head.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        num_queries: int = 300,
        hidden_dim: int = 256,
        nheads: int = 8,
        enc_layers: int = 6,
        dec_layers: int = 6,
        dim_feedforward: int = 1024,
        dropout: float = 0.1,
        num_feature_levels: int = 4,
        enc_n_points: int = 4,
        dec_n_points: int = 4,
        position_embedding: PositionEmbeddingSine | PositionEmbeddingLearned | None = None,
        with_box_refine: bool = True,
        two_stage: bool = False,
        extra_track_attn: bool = False,
        mask_type: str | None = "conv",
        seg_stride: int | None = None,
        skip_mode: str = "lateral",
        x_source: str = "memory",
        mask_chunk: int = 32,
        mask_dim: int | None = None,
        mask_window: bool = False,
        gn_groups: int | str = 8,
        num_semantic_classes: int = 0,
        semantic_levels: str = "all",
        semantic_dim: int | None = None,
    ) -> None:
        """
        Args:
            backbone: any, with features of 1, 2, 4 and 8 times the finest stride, of which the
                coarsest may be dilated instead.
            num_classes: K.
            num_queries: Q, learned ones or, with ``two_stage``, the best tokens.
            hidden_dim: C; with a mask head of ``mask_type="conv"`` and eight groups a multiple of
                128.
            nheads: of all attentions and number of attention maps of a mask.
            enc_layers, dec_layers: number of layers.
            dim_feedforward: hidden numbers of the perceptrons.
            dropout: of attentions and perceptrons.
            num_feature_levels: L; fewer than 3 for the coarsest features only.
            enc_n_points, dec_n_points: points that a head samples on each level.
            position_embedding: of C channels; None for the sine code of Deformable DETR.
            with_box_refine: each decoder layer refines the boxes of the one before, with a head of
                its own; otherwise all layers share one head and predict around the same point.
            two_stage: queries come from the encoder's best tokens; needs ``with_box_refine``.
            extra_track_attn: track queries attend to each other before all queries do.
            mask_type: ``"conv"``, ``"dot"``, or None for no masks.
            seg_stride: of the level that masks start from, in pixels; the nearest is taken. None
                for eight times that of the backbone's finest feature.
            skip_mode: ``"lateral"`` for the features of 4, 2 and 1 times the finest stride, so that
                masks have the resolution of the finest; ``"strided"`` for those of 8, 4 and 2
                times, halved in width, height and channels.
            x_source: what masks start from, ``"memory"`` or, as in DETR, ``"proj"``, the map that
                the encoder was given.
            mask_chunk: queries whose masks are computed at a time, with ``mask_type="conv"``.
            mask_dim: numbers that embed a pixel, with ``mask_type="dot"``; None for C.
            mask_window: with ``mask_type="dot"``, add a BoxWindow around the box of each query.
            gn_groups: of the group normalisations of mask and semantic head; ``"auto"`` for the
                most up to 8 that divide the channels.
            num_semantic_classes: of the semantic head; 0 for none.
            semantic_levels: that the semantic head reads, ``"all"`` or ``"single_level"``, the one
                that masks start from.
            semantic_dim: channels of the semantic head; None for C/2.

        Raises:
            ValueError: numbers that do not fit each other, an unknown mode, or a backbone that
                lacks a stride.
        """
        super().__init__()
        for name, given, known in (
            ("mask_type", mask_type, (None, "conv", "dot")),
            ("skip_mode", skip_mode, ("lateral", "strided")),
            ("x_source", x_source, ("memory", "proj")),
            ("semantic_levels", semantic_levels, ("all", "single_level")),
        ):
            if given not in known:
                raise ValueError(f"{name} must be one of {known}, got {given!r}")
        if hidden_dim % 32 or hidden_dim % nheads:
            raise ValueError(
                f"hidden_dim must be a multiple of 32 and of nheads={nheads}, got {hidden_dim}"
            )
        if two_stage and not with_box_refine:
            raise ValueError("two_stage=True needs with_box_refine=True")
        if mask_window and mask_type != "dot":
            raise ValueError(f"mask_window=True needs mask_type='dot', got {mask_type!r}")
        shapes = backbone.output_shape()
        channels = {name: int(shape.channels) for name, shape in shapes.items()}
        strides = {name: int(shape.stride) for name, shape in shapes.items()}
        level_names = choose_features(strides, (2, 4, 8)[-num_feature_levels:], "the encoder")
        self.hidden_dim = hidden_dim
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.two_stage = two_stage
        self.mask_type = mask_type
        self.mask_chunk = mask_chunk
        self.x_source = x_source
        self.level_strides = extend_strides([strides[n] for n in level_names], num_feature_levels)
        self.seg_level = nearest_level(self.level_strides, seg_stride or 8 * min(strides.values()))

        self.backbone = backbone
        position_embedding = position_embedding or PositionEmbeddingSine(hidden_dim // 2)
        if 2 * position_embedding.num_pos_feats != hidden_dim:
            raise ValueError(
                f"position_embedding has 2 * {position_embedding.num_pos_feats} channels instead "
                f"of hidden_dim={hidden_dim}"
            )
        self.position_embedding = position_embedding
        self.neck = ChannelMapper(
            level_names, [channels[n] for n in level_names], hidden_dim, num_feature_levels
        )
        self.transformer = DeformableTransformer(
            embed_dim=hidden_dim,
            num_heads=nheads,
            enc_layers=enc_layers,
            dec_layers=dec_layers,
            feedforward_dim=dim_feedforward,
            dropout=dropout,
            num_feature_levels=num_feature_levels,
            enc_points=enc_n_points,
            dec_points=dec_n_points,
            num_queries=num_queries,
            two_stage=two_stage,
            extra_track_attn=extra_track_attn,
        )
        self.query_embed = None if two_stage else nn.Embedding(num_queries, 2 * hidden_dim)
        self._add_heads(dec_layers, with_box_refine, two_stage)

        self.skip_features: tuple[str, ...] = ()
        self.skip_channels: tuple[int, ...] = ()
        self.mask_stride: int | None = None
        self.mask_skips: StridedSkips | None = None
        if mask_type is not None:
            factors = (4, 2, 1) if skip_mode == "lateral" else (8, 4, 2)
            self.skip_features = choose_features(strides, factors, "the mask head")
            self.skip_channels = tuple(channels[n] for n in self.skip_features)
            self.mask_stride = strides[self.skip_features[-1]]
            if skip_mode == "strided":
                self.mask_skips = StridedSkips(self.skip_channels)
                self.skip_channels = tuple(self.mask_skips.out_channels)
                self.mask_stride *= 2
            self._add_mask_head(nheads, gn_groups, mask_dim, mask_window)
        read_all = semantic_levels == "all"
        self.finest_feature: str | None = None
        self.semantic_head: SemanticHead | None = None
        if num_semantic_classes:
            (self.finest_feature,) = choose_features(strides, (1,), "the semantic head")
            read = num_feature_levels if read_all else 1
            width = channels[self.finest_feature]
            self.semantic_head = SemanticHead(
                hidden_dim, width, num_semantic_classes, read, gn_groups, semantic_dim
            )
        seg = self.seg_level
        self._semantic_levels = slice(None) if read_all else slice(seg, seg + 1)
        self._warned_of_few_cells = False

    def _add_heads(self, dec_layers: int, with_box_refine: bool, two_stage: bool) -> None:
        class_head = new_class_head(self.hidden_dim, self.num_classes)
        box_head = new_box_head(self.hidden_dim)
        count = dec_layers + two_stage
        if with_box_refine:
            self.class_embed = nn.ModuleList(copy.deepcopy(class_head) for _ in range(count))
            self.bbox_embed = nn.ModuleList(copy.deepcopy(box_head) for _ in range(count))
        else:
            self.class_embed = nn.ModuleList([class_head] * count)
            self.bbox_embed = nn.ModuleList([box_head] * count)
        if not two_stage:
            # The first boxes around a point are small: sigmoid(-2) of the image.
            nn.init.constant_(self.bbox_embed[0].layers[-1].bias[2:], -2.0)
        if with_box_refine:
            self.transformer.decoder.attach_box_heads(self.bbox_embed)
        if two_stage:
            self.transformer.decoder.attach_class_heads(self.class_embed)

    def _add_mask_head(
        self, nheads: int, gn_groups: int | str, mask_dim: int | None, window: bool
    ) -> None:
        width, skips = self.hidden_dim, self.skip_channels
        if self.mask_type == "dot":
            self.mask_head: nn.Module = DotMaskHead(width, skips, gn_groups, mask_dim, window)
            return
        check_mask_widths(width, nheads, gn_groups)
        self.bbox_attention = AttentionMaps(width, nheads)
        self.mask_head = ConvMaskHead(width, nheads, skips, gn_groups)

    def encode(
        self,
        images: torch.Tensor,
        padding: torch.Tensor | None = None,
        fuse: Callable[[FeatureLevels], torch.Tensor] | None = None,
        *,
        whole: bool = False,
    ) -> Encoded:
        """Features and memory of a batch.

        Args:
            images: (B, channels, H, W), normalised.
            padding: (B, H, W) bool, True at padding or, with ``whole``, at cells without data; None
                for none.
            fuse: gives the tokens (B, S, C) that enter the first encoder layer, from the levels as
                they leave the neck; None leaves them as they are.
            whole: boxes are relative to the whole image, whatever ``padding`` hides; otherwise to
                what is left of and above the padding.

        Raises:
            ValueError: an image is nothing but padding.
        """
        if padding is not None and bool(padding.flatten(1).all(dim=1).any()):
            raise ValueError(
                "an image of the batch is nothing but padding (the mask is True at padding; "
                "without any padding it is all False)"
            )
        features = self.backbone(images)
        projected = self.neck(features)
        self._warn_of_few_cells(projected[self.seg_level])
        if padding is None:
            padding = torch.zeros(images[:, 0].shape, dtype=torch.bool, device=images.device)
        masks = [resize_padding(padding, level) for level in projected]
        extents = [torch.zeros_like(mask) for mask in masks] if whole else masks
        positions = self.transformer.level_positions([*map(self.position_embedding, extents)])
        levels = flatten_levels(projected, masks, positions, whole=whole)
        if fuse is not None:
            levels = levels._replace(tokens=fuse(levels))
        memory = self.transformer.encoder(levels)
        skips = [features[name] for name in self.skip_features]
        if self.mask_skips is not None:
            skips = self.mask_skips(skips)
        return Encoded(
            images=images,
            levels=tuple(split_levels(memory, levels.spatial_shapes)),
            padding=tuple(masks),
            whole=whole,
            positions=tuple(positions),
            strides=self.level_strides,
            projected=projected[self.seg_level],
            skips=tuple(skips),
            skip_sizes=tuple((skip.shape[-2], skip.shape[-1]) for skip in skips),
            finest=None if self.finest_feature is None else features[self.finest_feature],
        )

    def initial_queries(self, encoded: Encoded) -> InitialQueries:
        """The detect queries of a frame: learned ones, or the encoder's best tokens.

        Returns:
            ``query_embed`` (B, Q, 2C), ``reference`` (B, Q, 2) logits of points, with
            ``two_stage`` (B, Q, 4) logits of boxes and the proposals of all tokens.
        """
        if self.query_embed is None:
            return self.transformer.propose_queries(encoded.flatten())
        batch = encoded.levels[0].shape[0]
        return self.transformer.learned_queries(self.query_embed.weight, batch)

    def decode(
        self,
        encoded: Encoded,
        query_embed: torch.Tensor,
        reference: torch.Tensor,
        query_padding: torch.Tensor | None = None,
        num_detect: int | None = None,
    ) -> Decoded:
        """Classes and boxes of queries.

        Args:
            encoded: the memory; of another time with its ``levels`` replaced.
            query_embed: (B, Q, 2C), the position half before the content half.
            reference: (B, Q, 2) logits of points, or (B, Q, 4) of cxcywh boxes.
            query_padding: (B, Q) bool, True at queries that only fill the batch: no other query
                sees them, and their outputs mean nothing.
            num_detect: how many queries precede the track queries; read by a model with
                ``extra_track_attn`` only, None for no track queries.
        """
        hs, boxes = self.transformer.decoder(
            query_embed,
            reference,
            encoded.flatten(),
            self.bbox_embed,
            query_padding=query_padding,
            num_detect=num_detect,
        )
        logits = [head(state).float() for head, state in zip(self.class_embed, hs, strict=False)]
        return Decoded(hs=hs, logits=torch.stack(logits), boxes=boxes)

    def masks(self, encoded: Encoded, chunk: int | None = None) -> MaskReader:
        """What gives mask logits of queries; what all queries share is computed once, here.

        Args:
            encoded: of the batch.
            chunk: rows at a time; None for ``mask_chunk`` of the constructor.

        Returns:
            a function of (n, C) states of the last decoder layer, (n,) int64 images and, needed
            with ``mask_window``, (n, 4) boxes. It returns (n, h, w) at ``mask_stride``; each mask
            depends on its own row only.

        Raises:
            ValueError: the detector has no mask head.
        """
        if self.mask_type is None:
            raise ValueError("the detector has no mask head: build it with mask_type='conv'")
        level, head = self.seg_level, self.mask_head
        x = encoded.levels[level] if self.x_source == "memory" else encoded.projected
        shared = head.prepare(x, encoded.skips, encoded.skip_sizes)
        if isinstance(head, DotMaskHead):
            return dot_reader(head, shared, encoded, level)
        chunk = chunk or self.mask_chunk
        return conv_reader(head, shared, encoded, level, self.bbox_attention, chunk)

    def semantic(self, encoded: Encoded) -> torch.Tensor:
        """(B, semantic classes, h, w) logits at the resolution of the finest feature.

        Raises:
            ValueError: the detector has no semantic head.
        """
        if self.semantic_head is None:
            raise ValueError(
                "the detector has no semantic head: build it with num_semantic_classes > 0"
            )
        return self.semantic_head(encoded.levels[self._semantic_levels], encoded.finest)

    def _warn_of_few_cells(self, level: torch.Tensor) -> None:
        height, width = level.shape[-2:]
        if height * width < _FEW_CELLS and not self._warned_of_few_cells:
            self._warned_of_few_cells = True
            logging.getLogger(__name__).warning(
                f"masks start from a map of {height}x{width} cells only: give larger images, or a "
                "smaller stride of the stem or of seg_stride"
            )
