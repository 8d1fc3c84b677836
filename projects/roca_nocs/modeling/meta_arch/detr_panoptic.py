"""DETR for panoptic segmentation, as published: the weights that FutureDETR's masks come from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectron2.layers import move_device_like
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList
from torch import nn

from roca_nocs.layers.position import PositionEmbeddingLearned, PositionEmbeddingSine
from roca_nocs.layers.transformer import DetrMLP
from roca_nocs.modeling.transformer.align_detr_head import level_masks
from roca_nocs.modeling.transformer.detr_transformer import DetrTransformer
from roca_nocs.modeling.transformer.mask_heads import (
    AttentionMaps,
    ConvMaskHead,
    SharedParts,
    check_mask_widths,
    masks_in_chunks,
)
from roca_nocs.modeling.transformer.mask_outputs import merge_panoptic

__all__ = ["DetrPanoptic"]


@META_ARCH_REGISTRY.register()
class DetrPanoptic(nn.Module):
    """DETR with masks (Carion et al., ECCV 2020), for inference with the published weights.

    Each input holds ``image`` (3, H, W), and ``height`` and ``width`` of the result. The result has
    ``panoptic_seg``: (H, W) int32 segment ids and the list of segments, see
    :func:`~roca_nocs.modeling.transformer.mask_outputs.merge_panoptic`; ``category_id`` is that of
    the data set.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int = 250,
        num_things: int = 91,
        num_queries: int = 100,
        hidden_dim: int = 256,
        nheads: int = 8,
        enc_layers: int = 6,
        dec_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        position_embedding: PositionEmbeddingSine | PositionEmbeddingLearned | None = None,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        input_format: str = "RGB",
        score_threshold: float = 0.85,
        mask_chunk: int = 32,
    ) -> None:
        """
        Args:
            backbone: with four features; the last is the transformer's, the others are skips.
            num_classes: K, the largest category id of the data set plus one.
            num_things: category ids below it are things.
            num_queries: Q.
            hidden_dim: C, a multiple of 128.
            nheads: of all attentions.
            enc_layers, dec_layers: number of layers.
            dim_feedforward: hidden numbers of the perceptrons.
            dropout: of attentions and perceptrons.
            position_embedding: of C channels; None for the sine code of DETR.
            pixel_mean, pixel_std: of the channels, in the order of ``input_format``.
            input_format: ``"RGB"`` or ``"BGR"``.
            score_threshold: queries at or below it make no segment.
            mask_chunk: queries whose masks are computed at a time.

        Raises:
            ValueError: numbers that do not fit each other.
        """
        super().__init__()
        shapes = backbone.output_shape()
        if len(shapes) != 4:
            raise ValueError(f"the backbone must give four features, got {list(shapes)}")
        check_mask_widths(hidden_dim, nheads, 8)
        *skips, last = shapes
        self.features = (*skips[::-1], last)
        self.num_things = num_things
        self.score_threshold = score_threshold
        self.mask_chunk = mask_chunk
        self.input_format = input_format
        self.backbone = backbone
        # DETR counts cells from 1, Deformable DETR from 1/2.
        self.position_embedding = position_embedding or PositionEmbeddingSine(
            hidden_dim // 2, offset=0.0
        )
        self.input_proj = nn.Conv2d(int(shapes[last].channels), hidden_dim, 1)
        self.transformer = DetrTransformer(
            hidden_dim, nheads, enc_layers, dec_layers, dim_feedforward, dropout
        )
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.bbox_embed = DetrMLP(hidden_dim, hidden_dim, 4, 3)
        self.bbox_attention = AttentionMaps(hidden_dim, nheads)
        self.mask_head = ConvMaskHead(
            hidden_dim, nheads, [int(shapes[name].channels) for name in self.features[:-1]]
        )
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), False)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """See the class.

        Raises:
            RuntimeError: in training mode; panoptic training is not part of the project.
        """
        if self.training:
            raise RuntimeError("DetrPanoptic is for inference: call eval() first")
        images = [move_device_like(x["image"], self.pixel_mean) for x in batched_inputs]
        batch = ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )
        logits, _, states, maps = self.predict(batch)
        scores, labels = logits.softmax(dim=-1).max(dim=-1)
        no_object = logits.shape[-1] - 1
        is_thing = torch.arange(no_object, device=self.device) < self.num_things
        results = []
        for image, record in enumerate(batched_inputs):
            kept = (labels[image] != no_object) & (scores[image] > self.score_threshold)
            kept = kept.nonzero().flatten()
            size = batch.image_sizes[image]
            segments = merge_panoptic(
                scores[image, kept],
                labels[image, kept],
                self.masks(states[image, kept], torch.full_like(kept, image), *maps),
                is_thing,
                padded_size=batch.tensor.shape[-2:],
                image_size=size,
                output_size=(record.get("height", size[0]), record.get("width", size[1])),
                score_threshold=self.score_threshold,
            )
            results.append({"panoptic_seg": segments})
        return results

    def predict(
        self, images: ImageList
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[Any, ...]]:
        """Classes, boxes, states, and what :meth:`masks` needs besides them.

        Returns:
            logits (B, Q, K + 1), the last column for "no object"; boxes (B, Q, 4) cxcywh in [0, 1];
            states (B, Q, C); the maps.
        """
        features = self.backbone(images.tensor)
        *skips, last = (features[name] for name in self.features)
        projected = self.input_proj(last)
        (padding,) = level_masks(images, [projected])
        states, memory = self.transformer(
            projected.flatten(2).mT,
            self.position_embedding(padding).flatten(2).mT,
            padding.flatten(1),
            self.query_embed.weight,
        )
        keys = self.bbox_attention.prepare(memory.mT.unflatten(2, tuple(padding.shape[1:])))
        sizes = tuple((skip.shape[-2], skip.shape[-1]) for skip in skips)
        shared = self.mask_head.prepare(projected, skips, sizes)
        boxes = self.bbox_embed(states).sigmoid()
        return self.class_embed(states), boxes, states, (keys, padding, shared)

    def masks(
        self,
        states: torch.Tensor,
        image_index: torch.Tensor,
        keys: torch.Tensor,
        padding: torch.Tensor,
        shared: SharedParts,
    ) -> torch.Tensor:
        """(n, h, w) mask logits of n queries (n, C) of the given images."""
        attend = partial(self.bbox_attention, keys, padding=padding)
        return masks_in_chunks(
            self.mask_head, shared, states, image_index, attend=attend, chunk=self.mask_chunk
        )
