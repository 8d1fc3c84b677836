"""Mask branch of Mask R-CNN."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec, get_norm
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry
from fvcore.nn import weight_init
from torch import nn

ROI_MASK_HEAD_REGISTRY = Registry("ROI_MASK_HEAD")
ROI_MASK_HEAD_REGISTRY.__doc__ = (
    "Mask heads; called with ``(cfg, ShapeSpec)``, or with ``(cfg, dict[str, ShapeSpec])`` where "
    "the ROI heads do not pool for them."
)


def build_mask_head(cfg: CfgNode, input_shape: ShapeSpec | dict[str, ShapeSpec]) -> nn.Module:
    """Build the head named by ``cfg.MODEL.ROI_MASK_HEAD.NAME``."""
    return ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)(cfg, input_shape)


def _channel_of_class(mask_logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Pick ``(M, H, W)`` out of ``(M, K, H, W)`` by class ``(M,)``; K = 1 serves all classes."""
    if mask_logits.shape[1] == 1:
        return mask_logits[:, 0]
    rows = torch.arange(len(classes), device=classes.device)
    return mask_logits[rows, classes]


def _log_mask_statistics(logits: torch.Tensor, target: torch.Tensor) -> None:
    """Log pixel accuracy and error rates of logits against boolean masks, both ``(M, H, W)``."""
    wrong = (logits > 0.0) != target
    num_wrong, num_positive, num_false_positive, num_false_negative = torch.stack(
        [wrong.sum(), target.sum(), (wrong & ~target).sum(), (wrong & target).sum()]
    ).tolist()
    total = max(target.numel(), 1)
    storage = get_event_storage()
    storage.put_scalar("mask_rcnn/accuracy", 1 - num_wrong / total)
    storage.put_scalar(
        "mask_rcnn/false_positive", num_false_positive / max(target.numel() - num_positive, 1)
    )
    storage.put_scalar("mask_rcnn/false_negative", num_false_negative / max(num_positive, 1))


def mask_rcnn_loss(
    pred_mask_logits: torch.Tensor, instances: list[Instances], vis_period: int = 0
) -> torch.Tensor:
    """Binary cross-entropy of the channel of the true class, averaged over all pixels.

    Args:
        pred_mask_logits: ``(M, K, S, S)``, or ``(M, 1, S, S)`` for class-agnostic masks, for
            the foreground proposals of all images in order.
        instances: per image ``proposal_boxes``, ``gt_classes`` and ``gt_masks``.
        vis_period: write prediction and target to the event storage every so many iterations;
            0 is never.

    Returns:
        A scalar; zero, but connected to the logits, without any proposal.
    """
    side = pred_mask_logits.shape[2]
    assert side == pred_mask_logits.shape[3], (
        f"Mask prediction must be square, got {tuple(pred_mask_logits.shape)}"
    )
    instances = [x for x in instances if len(x) > 0]
    if not instances:
        return pred_mask_logits.sum() * 0

    target = torch.cat(
        [
            x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, side).to(pred_mask_logits.device)
            for x in instances
        ]
    )
    classes = torch.cat([x.gt_classes for x in instances])
    logits = _channel_of_class(pred_mask_logits, classes)
    _log_mask_statistics(logits.detach(), target)

    storage = get_event_storage()
    if vis_period > 0 and storage.iter % vis_period == 0:
        pairs = torch.cat([logits.detach().sigmoid(), target.to(logits.dtype)], dim=2)
        for index, pair in enumerate(pairs):
            storage.put_image(
                f"Left: mask prediction;   Right: mask GT ({index})", pair.expand(3, -1, -1)
            )
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


def mask_rcnn_inference(pred_mask_logits: torch.Tensor, pred_instances: list[Instances]) -> None:
    """Store the mask probabilities of the predicted class as ``pred_masks``.

    Args:
        pred_mask_logits: ``(M, K, S, S)`` or ``(M, 1, S, S)`` for the detections of all images.
        pred_instances: per image ``pred_classes``; gains ``pred_masks`` ``(M_i, 1, S, S)``.
    """
    classes = torch.cat([x.pred_classes for x in pred_instances])
    masks = _channel_of_class(pred_mask_logits, classes).sigmoid()[:, None]
    counts = [len(x) for x in pred_instances]
    for instances, image_masks in zip(pred_instances, masks.split(counts), strict=True):
        instances.pred_masks = image_masks


class BaseMaskRCNNHead(nn.Module):
    """Loss and inference around the ``layers`` of a subclass."""

    @configurable
    def __init__(self, *, loss_weight: float = 1.0, vis_period: int = 0) -> None:
        """
        Args:
            loss_weight: factor of ``loss_mask``.
            vis_period: see :func:`mask_rcnn_loss`.
        """
        super().__init__()
        self.loss_weight = loss_weight
        self.vis_period = vis_period

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Any) -> dict[str, Any]:
        """Read the keys that all mask heads share."""
        return {"vis_period": cfg.VIS_PERIOD}

    def forward(
        self, x: torch.Tensor, instances: list[Instances]
    ) -> dict[str, torch.Tensor] | list[Instances]:
        """Compute ``{"loss_mask"}`` in training, else add ``pred_masks`` to the instances.

        Args:
            x: whatever ``layers`` takes, usually ``(M, C, H, W)`` pooled regions.
            instances: foreground proposals in training, detections at inference.
        """
        logits = self.layers(x)
        if self.training:
            loss = mask_rcnn_loss(logits, instances, self.vis_period)
            return {"loss_mask": loss * self.loss_weight}
        mask_rcnn_inference(logits, instances)
        return instances

    @abstractmethod
    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Map pooled features to mask logits ``(M, K, S, S)``."""
        raise NotImplementedError


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNConvUpsampleHead(BaseMaskRCNNHead, nn.Sequential):
    """3x3 convolutions, a two-fold upsampling and a 1x1 predictor."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: Sequence[int],
        conv_norm: Any = "",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: channels of the pooled regions.
            num_classes: mask channels; 1 shares one mask between all classes.
            conv_dims: output channels of the convolutions, the last one for the upsampling.
            conv_norm: normalisation of the convolutions, see :func:`detectron2.layers.get_norm`.
            kwargs: arguments of :class:`BaseMaskRCNNHead`.
        """
        super().__init__(**kwargs)
        conv_dims = tuple(conv_dims)
        assert conv_dims, "MaskRCNNConvUpsampleHead needs at least one entry in conv_dims"

        channels = input_shape.channels
        convs = []
        for index, dim in enumerate(conv_dims[:-1], start=1):
            conv = Conv2d(
                channels,
                dim,
                kernel_size=3,
                padding=1,
                bias=not conv_norm,
                norm=get_norm(conv_norm, dim),
                activation=nn.ReLU(),
            )
            self.add_module(f"mask_fcn{index}", conv)
            convs.append(conv)
            channels = dim
        self.deconv = ConvTranspose2d(channels, conv_dims[-1], kernel_size=2, stride=2)
        self.add_module("deconv_relu", nn.ReLU())
        self.predictor = Conv2d(conv_dims[-1], num_classes, kernel_size=1)

        for layer in (*convs, self.deconv):
            weight_init.c2_msra_fill(layer)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read ``cfg.MODEL.ROI_MASK_HEAD``."""
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            "num_classes": 1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            # One more than NUM_CONV: the upsampling layer.
            "conv_dims": [head.CONV_DIM] * (head.NUM_CONV + 1),
            "conv_norm": head.NORM,
        }

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(M, C, H, W)`` to logits ``(M, K, 2H, 2W)``."""
        for layer in self:
            x = layer(x)
        return x
