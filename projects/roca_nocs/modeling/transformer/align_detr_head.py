"""AlignDETR behind its backbone: from the features of a batch to class logits and boxes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn
from torch.nn import functional as F

from roca_nocs.geometry.boxes import inverse_sigmoid, xyxy_to_cxcywh
from roca_nocs.layers.neck import ChannelMapper
from roca_nocs.layers.position import PositionEmbeddingSine
from roca_nocs.modeling.criteria.matcher import Targets
from roca_nocs.modeling.criteria.target_checks import check_targets
from roca_nocs.modeling.transformer.align_detr_transformer import (
    AlignDETRTransformer,
    TransformerOutput,
)
from roca_nocs.modeling.transformer.denoising import DenoisingQueries, build_denoising_queries
from roca_nocs.modeling.transformer.detections import boxes_in_pixels, select_detections
from roca_nocs.modeling.transformer.prediction_heads import new_box_head, new_class_head

__all__ = ["AlignDETRHead", "boxes_in_pixels", "level_masks", "select_detections"]


class AlignDETRHead(nn.Module):
    """Neck, transformer, prediction heads, denoising and criterion of AlignDETR.

    The features are those of the head's own ``backbone`` or, for a head without one, those of the
    model that it is a part of. Padding is masked in training and in evaluation (the published code
    masks it in training only, so that its boxes of smaller images of a batch are wrong); the group
    normalisation of the neck still sees it.
    """

    def __init__(
        self,
        *,
        position_embedding: PositionEmbeddingSine,
        neck: ChannelMapper,
        transformer: AlignDETRTransformer,
        criterion: nn.Module,
        backbone: Backbone | None = None,
        embed_dim: int = 256,
        num_classes: int = 80,
        num_queries: int = 900,
        aux_loss: bool = True,
        dn_number: int = 100,
        label_noise_ratio: float = 0.5,
        box_noise_scale: float = 1.0,
        prior_init: float = 0.01,
        select_box_nums_for_evaluation: int = 300,
    ) -> None:
        """
        Args:
            position_embedding: of ``embed_dim / 2`` channels per coordinate.
            neck: to ``embed_dim`` channels on all levels of the transformer; without
                ``in_channels`` it gets those of the backbone.
            transformer: see there.
            criterion: (outputs, targets) to weighted losses. ``match_num`` and ``num_classes`` of
                one that has them must fit the model.
            backbone: any; the neck names the features that are used. None for a head whose
                features are given.
            embed_dim: E, channels of tokens and queries.
            num_classes: C.
            num_queries: Q.
            aux_loss: supervise all decoder layers instead of the last one only.
            dn_number: about how many noisy targets an image gets; 0 for no denoising.
            label_noise_ratio, box_noise_scale: of the noisy targets.
            prior_init: probability that an untrained head gives every class.
            select_box_nums_for_evaluation: detections per image.

        Raises:
            ValueError: parts that do not fit each other.
        """
        super().__init__()
        if neck.in_channels is None:
            neck.set_in_channels(_feature_channels(backbone, neck.in_features))
        _check_parts(backbone, position_embedding, neck, transformer, embed_dim, num_queries)
        _check_criterion(criterion, transformer.decoder.num_layers, num_classes)
        if backbone is not None:
            self.backbone = backbone
        self.position_embedding = position_embedding
        self.neck = neck
        self.transformer = transformer
        self.criterion = criterion
        self.num_classes = num_classes
        self.aux_loss = aux_loss
        self.dn_number = dn_number
        self.label_noise_ratio = label_noise_ratio
        self.box_noise_scale = box_noise_scale
        self.select_box_nums_for_evaluation = select_box_nums_for_evaluation

        class_head = new_class_head(embed_dim, num_classes, prior_init)
        box_head = new_box_head(embed_dim)
        # One for each decoder layer and one for the proposals, equal at the start.
        heads = transformer.decoder.num_layers + 1
        self.class_embed = nn.ModuleList(copy.deepcopy(class_head) for _ in range(heads))
        self.bbox_embed = nn.ModuleList(copy.deepcopy(box_head) for _ in range(heads))
        transformer.decoder.attach_heads(self.class_embed, self.bbox_embed)
        self.label_enc = nn.Embedding(num_classes, embed_dim)

    def prepare_targets(
        self, instances: Sequence[Instances], file_names: Sequence[str | None] | None = None
    ) -> Targets:
        """Targets of a batch, on the model's device.

        Args:
            instances: per image ``gt_boxes`` in pixels and ``gt_classes``.
            file_names: of the images, for messages.

        Returns:
            Per image ``labels`` (n,) int64 and ``boxes`` (n, 4) float32, cxcywh in [0, 1].

        Raises:
            ValueError: a label beyond the classes or an impossible box, of instances that are on
                the host; others are left to the criterion, as the device would be waited for.
        """
        labels = [each.gt_classes for each in instances]
        boxes = []
        for each in instances:
            height, width = each.image_size
            size = each.gt_boxes.tensor.new_tensor([width, height, width, height])
            boxes.append(xyxy_to_cxcywh(each.gt_boxes.tensor / size))
        if all(each.device.type == "cpu" for each in labels):
            arrays = torch.cat(labels).numpy(), torch.cat(boxes).numpy()
            check_targets([len(each) for each in labels], *arrays, self.num_classes, file_names)
        device = self.label_enc.weight.device
        return [
            {"labels": label.to(device), "boxes": box.to(device)}
            for label, box in zip(labels, boxes, strict=True)
        ]

    def predict_from_features(
        self,
        features: dict[str, torch.Tensor],
        images: ImageList,
        targets: Targets | None = None,
    ) -> dict[str, Any]:
        """Class logits and boxes of all queries.

        Args:
            features: those that the neck names, (B, channels, H, W) by name.
            images: the padded batch that they come from.
            targets: of the images, for denoising; None for none.

        Returns:
            ``pred_logits`` (B, Q, C) and ``pred_boxes`` (B, Q, 4), cxcywh in [0, 1] of the image;
            ``enc_outputs``: the same of the proposals; with ``aux_loss`` ``aux_outputs``: a list
            of the same, of the decoder layers but the last; with ``dn_number`` ``dn_outputs``: the
            same (with ``aux_outputs``) of the denoising queries, their ``single_padding`` and
            ``num_groups``, or None where there are no targets.
        """
        levels = self.neck(features)
        masks = level_masks(images, levels)
        is_padded = any(tuple(size) != images.tensor.shape[-2:] for size in images.image_sizes)
        denoising = None
        if targets is not None:
            num_tokens = sum(level.shape[-2] * level.shape[-1] for level in levels)
            denoising = self._denoising(targets, self.transformer.num_queries(num_tokens))
        positions = [self.position_embedding(mask) for mask in masks]
        decoded = self.transformer(levels, masks if is_padded else None, positions, denoising)
        return self._heads(decoded, denoising)

    # What depends on the number of targets is no work for a compiler.
    @torch.compiler.disable
    def _denoising(self, targets: Targets, num_queries: int) -> DenoisingQueries | None:
        return build_denoising_queries(
            targets,
            self.label_enc.weight,
            num_queries=num_queries,
            dn_number=self.dn_number,
            label_noise_ratio=self.label_noise_ratio,
            box_noise_scale=self.box_noise_scale,
        )

    @torch.compiler.disable
    def _losses(self, outputs: dict[str, Any], targets: Targets) -> dict[str, torch.Tensor]:
        return self.criterion(outputs, targets)

    def _heads(
        self, decoded: TransformerOutput, denoising: DenoisingQueries | None
    ) -> dict[str, Any]:
        # Each layer refines the boxes that it was given.
        bases = [decoded.init_reference, *decoded.references[:-1]]
        states = list(decoded.states)
        if self.training and denoising is None:
            # Distributed training needs a gradient of every parameter in every iteration.
            states[-1] = states[-1] + 0.0 * self.label_enc.weight.sum()
        layers = [
            _prediction(class_head(state), (box_head(state) + inverse_sigmoid(base)).sigmoid())
            for class_head, box_head, state, base in zip(
                self.class_embed[:-1], self.bbox_embed[:-1], states, bases, strict=True
            )
        ]
        dn_outputs = None
        if denoising is not None:
            slots = denoising.content.shape[1]
            dn_outputs = self._output([_rows(layer, slice(slots)) for layer in layers])
            dn_outputs["single_padding"] = denoising.single_padding
            dn_outputs["num_groups"] = denoising.num_groups
            layers = [_rows(layer, slice(slots, None)) for layer in layers]
        outputs = self._output(layers)
        outputs["enc_outputs"] = _prediction(
            self.class_embed[-1](decoded.encoder_states), decoded.encoder_boxes
        )
        if self.dn_number > 0:
            outputs["dn_outputs"] = dn_outputs
        return outputs

    def _output(self, layers: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
        return {**layers[-1], **({"aux_outputs": layers[:-1]} if self.aux_loss else {})}

    def detections(
        self, outputs: dict[str, Any], image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """The best detections in pixels of the network's input, whose sizes are (height, width)."""
        scores, labels, boxes = select_detections(
            outputs["pred_logits"],
            outputs["pred_boxes"],
            image_sizes,
            self.select_box_nums_for_evaluation,
        )
        return [
            Instances(size, pred_boxes=Boxes(boxes[i]), scores=scores[i], pred_classes=labels[i])
            for i, size in enumerate(image_sizes)
        ]


def level_masks(images: ImageList, levels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """(B, h, w) bool of each level, True at cells whose first pixel is padding."""
    sizes = torch.tensor(images.image_sizes, device=images.tensor.device)
    heights, widths = sizes[:, 0, None, None], sizes[:, 1, None, None]
    masks = []
    for level in levels:
        y, x = (
            _first_pixels(pixels, cells, sizes.device)
            for pixels, cells in zip(images.tensor.shape[-2:], level.shape[-2:], strict=True)
        )
        masks.append((y[:, None] >= heights) | (x >= widths))
    return masks


def _first_pixels(pixels: int, cells: int, device: torch.device) -> torch.Tensor:
    """(cells,) float32: where each cell of a level begins, in pixels."""
    positions = torch.arange(pixels, dtype=torch.float32, device=device)
    return F.interpolate(positions[None, None], size=(cells,))[0, 0]


def _prediction(logits: torch.Tensor, boxes: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"pred_logits": logits, "pred_boxes": boxes}


def _rows(prediction: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    return {name: value[:, rows] for name, value in prediction.items()}


def _feature_channels(backbone: Backbone | None, names: Sequence[str]) -> tuple[int, ...]:
    """Channels of features of the backbone."""
    if backbone is None:
        raise ValueError("neck.in_channels must be given for a head without a backbone")
    shapes = backbone.output_shape()
    if missing := [name for name in names if name not in shapes]:
        raise ValueError(f"neck.in_features {missing}: the backbone gives {list(shapes)} only")
    return tuple(shapes[name].channels for name in names)


def _check_parts(
    backbone: Backbone | None,
    position_embedding: PositionEmbeddingSine,
    neck: ChannelMapper,
    transformer: AlignDETRTransformer,
    embed_dim: int,
    num_queries: int,
) -> None:
    """Raise ValueError where numbers that several parts have differ."""
    pairs: dict[str, tuple[Any, Any]] = {
        "neck.out_channels": (neck.out_channels, embed_dim),
        "neck.num_outs": (neck.num_outs, transformer.num_feature_levels),
        "2 * position_embedding.num_pos_feats": (2 * position_embedding.num_pos_feats, embed_dim),
        "embed_dim of the transformer": (transformer.embed_dim, embed_dim),
        "transformer.two_stage_num_proposals": (transformer.two_stage_num_proposals, num_queries),
    }
    if backbone is not None:
        channels = _feature_channels(backbone, neck.in_features)
        pairs["neck.in_channels"] = (neck.in_channels, channels)
    for name, (found, expected) in pairs.items():
        if found != expected:
            raise ValueError(f"{name}: {found} does not fit the other parts' {expected}")


def _check_criterion(criterion: nn.Module, num_layers: int, num_classes: int) -> None:
    """Raise ValueError for a criterion of another model; any module may be one."""
    match_num = getattr(criterion, "match_num", None)
    if match_num is not None and len(match_num) != num_layers + 1:
        raise ValueError(
            f"criterion.match_num needs {num_layers + 1} numbers (encoder, then the decoder's "
            f"{num_layers} layers), got {list(match_num)}"
        )
    classes = getattr(criterion, "num_classes", num_classes)
    if classes != num_classes:
        raise ValueError(f"criterion.num_classes: {classes} is not the model's {num_classes}")
