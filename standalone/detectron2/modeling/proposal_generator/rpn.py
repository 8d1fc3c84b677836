"""Region proposal network: anchors are classified and moved onto objects.

Shapes: N images, L levels, A anchors per cell, ``R = sum(H_l * W_l * A)`` anchors per image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.memory import retry_if_cuda_oom
from detectron2.utils.registry import Registry
from torch import nn

from ..anchor_generator import build_anchor_generator
from ..box_regression import Box2BoxTransform, _dense_box_regression_loss
from ..matcher import Matcher
from ..sampling import subsample_labels
from .build import PROPOSAL_GENERATOR_REGISTRY
from .proposal_utils import find_top_rpn_proposals

RPN_HEAD_REGISTRY = Registry("RPN_HEAD")
RPN_HEAD_REGISTRY.__doc__ = "RPN heads; called with ``(cfg, list[ShapeSpec])``, one per level."

LOSS_NAMES = ("loss_rpn_cls", "loss_rpn_loc")


def build_rpn_head(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """Build the head named by ``cfg.MODEL.RPN.HEAD_NAME``."""
    return RPN_HEAD_REGISTRY.get(cfg.MODEL.RPN.HEAD_NAME)(cfg, input_shape)


@RPN_HEAD_REGISTRY.register()
class StandardRPNHead(nn.Module):
    """3x3 convolutions followed by an objectness and a regression 1x1 convolution.

    The same weights serve all levels (Faster R-CNN, section 3.1).
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_anchors: int,
        box_dim: int = 4,
        conv_dims: Sequence[int] = (-1,),
    ) -> None:
        """
        Args:
            in_channels: channels of each feature map.
            num_anchors: anchors per cell.
            box_dim: regression targets per anchor.
            conv_dims: output channels of the 3x3 convolutions, -1 keeps the number of channels.

        Raises:
            ValueError: a convolution would have no output channels.
        """
        super().__init__()
        channels = in_channels
        convs = nn.Sequential()
        for index, dim in enumerate(conv_dims):
            out_channels = channels if dim == -1 else int(dim)
            if out_channels <= 0:
                raise ValueError(
                    f"conv_dims of StandardRPNHead must be positive or -1, got {out_channels} "
                    f"at position {index} of {tuple(conv_dims)}"
                )
            convs.add_module(
                f"conv{index}",
                Conv2d(channels, out_channels, kernel_size=3, padding=1, activation=nn.ReLU()),
            )
            channels = out_channels
        # Checkpoints of the usual one-convolution head call it "conv", without a position.
        self.conv = convs[0] if len(convs) == 1 else convs
        self.objectness_logits = nn.Conv2d(channels, num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * box_dim, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """Read channels and anchor counts, which all levels must share."""
        channels = {shape.channels for shape in input_shape}
        assert len(channels) == 1, f"RPN levels must have equal channels, got {sorted(channels)}"
        anchor_generator = build_anchor_generator(cfg, input_shape)
        anchors = set(anchor_generator.num_anchors)
        assert len(anchors) == 1, f"RPN levels must have equal anchors per cell, got {anchors}"
        return {
            "in_channels": channels.pop(),
            "num_anchors": anchors.pop(),
            "box_dim": anchor_generator.box_dim,
            "conv_dims": cfg.MODEL.RPN.CONV_DIMS,
        }

    def forward(
        self, features: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Predict ``(N, A, H, W)`` logits and ``(N, 4A, H, W)`` deltas per ``(N, C, H, W)``."""
        hidden = [self.conv(feature) for feature in features]
        logits = [self.objectness_logits(x) for x in hidden]
        deltas = [self.anchor_deltas(x) for x in hidden]
        return logits, deltas


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Proposals from anchors, with the losses of Faster R-CNN."""

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | Mapping[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ) -> None:
        """
        Args:
            in_features: names of the feature maps to use, one per level.
            head: maps L feature maps to L logits and L deltas.
            anchor_generator: maps L feature maps to L sets of anchors.
            anchor_matcher: labels anchors by their overlap with the ground truth.
            box2box_transform: turns deltas into boxes and back.
            batch_size_per_image: anchors per image that enter the loss.
            positive_fraction: upper limit of the share of positive anchors among them.
            pre_nms_topk: proposals per level before suppression in (training, inference).
            post_nms_topk: proposals per image after suppression in (training, inference).
            nms_thresh: overlap above which a proposal is suppressed.
            min_box_size: shortest accepted side, pixels of the network input.
            anchor_boundary_thresh: anchors farther outside the image than this many pixels
                are ignored in training; negative: none.
            loss_weight: factor of both losses, or by loss name (absent names weigh 1).
            box_reg_loss_type: ``smooth_l1``, ``giou``, ``diou`` or ``ciou``.
            smooth_l1_beta: switch between L2 and L1, 0 is L1.
        """
        super().__init__()
        self.in_features = tuple(in_features)
        self.rpn_head = head
        self.anchor_generator = anchor_generator
        self.anchor_matcher = anchor_matcher
        self.box2box_transform = box2box_transform
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_topk = dict(zip((True, False), pre_nms_topk, strict=True))
        self.post_nms_topk = dict(zip((True, False), post_nms_topk, strict=True))
        self.nms_thresh = nms_thresh
        self.min_box_size = float(min_box_size)
        self.anchor_boundary_thresh = anchor_boundary_thresh
        if isinstance(loss_weight, Mapping):
            self.loss_weight = dict(loss_weight)
        else:
            self.loss_weight = dict.fromkeys(LOSS_NAMES, float(loss_weight))
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``cfg.MODEL.RPN``; anchors are built before the head."""
        rpn = cfg.MODEL.RPN
        level_shapes = [input_shape[name] for name in rpn.IN_FEATURES]
        return {
            "in_features": rpn.IN_FEATURES,
            "anchor_generator": build_anchor_generator(cfg, level_shapes),
            "head": build_rpn_head(cfg, level_shapes),
            "anchor_matcher": Matcher(
                rpn.IOU_THRESHOLDS, rpn.IOU_LABELS, allow_low_quality_matches=True
            ),
            "box2box_transform": Box2BoxTransform(weights=rpn.BBOX_REG_WEIGHTS),
            "batch_size_per_image": rpn.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": rpn.POSITIVE_FRACTION,
            "pre_nms_topk": (rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST),
            "nms_thresh": rpn.NMS_THRESH,
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            "anchor_boundary_thresh": rpn.BOUNDARY_THRESH,
            "loss_weight": {
                "loss_rpn_cls": rpn.LOSS_WEIGHT,
                "loss_rpn_loc": rpn.LOSS_WEIGHT * rpn.BBOX_REG_LOSS_WEIGHT,
            },
            "box_reg_loss_type": rpn.BBOX_REG_LOSS_TYPE,
            "smooth_l1_beta": rpn.SMOOTH_L1_BETA,
        }

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, torch.Tensor],
        gt_instances: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Propose boxes; in training also return the losses.

        Args:
            images: the N images, of which only the sizes are used.
            features: ``(N, C, H_l, W_l)`` by name.
            gt_instances: per image ``gt_boxes``; required in training.

        Returns:
            Per image ``proposal_boxes`` and ``objectness_logits``, and the losses (empty at
            inference).
        """
        levels = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(levels)
        logits, deltas = self.rpn_head(levels)
        logits = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
        deltas = [self._anchor_major(x) for x in deltas]

        losses = {}
        if self.training:
            assert gt_instances is not None, "RPN requires gt_instances in training!"
            gt_labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, gt_labels, deltas, gt_boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    def _anchor_major(self, deltas: torch.Tensor) -> torch.Tensor:
        """Reorder ``(N, A*B, H, W)`` to ``(N, H*W*A, B)``, the order of the anchors."""
        by_anchor = deltas.unflatten(1, (-1, self.anchor_generator.box_dim))
        return by_anchor.permute(0, 3, 4, 1, 2).flatten(1, 3)

    def _subsample_labels(self, label: torch.Tensor) -> torch.Tensor:
        """Set all but a random sample of the labels ``(R,)`` to -1, in place."""
        positive, negative = subsample_labels(
            label, self.batch_size_per_image, self.positive_fraction, 0
        )
        label.fill_(-1)
        label[positive] = 1
        label[negative] = 0
        return label

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Match anchors with ground truth and draw those that enter the loss.

        Args:
            anchors: L sets of anchors, shared by all images.
            gt_instances: per image ``gt_boxes``.

        Returns:
            Per image labels ``(R,)`` (1 object, 0 background, -1 ignored) and the matched
            ground-truth box of each anchor ``(R, 4)``, meaningful where the label is 1.
        """
        all_anchors = Boxes.cat(anchors)
        labels, matched_boxes = [], []
        for gt in gt_instances:
            # Out of memory, the two steps run on the CPU and leave their results there.
            overlap = retry_if_cuda_oom(pairwise_iou)(gt.gt_boxes, all_anchors)
            matched, image_labels = retry_if_cuda_oom(self.anchor_matcher)(overlap)
            device = all_anchors.device
            matched, image_labels = matched.to(device), image_labels.to(device)
            if self.anchor_boundary_thresh >= 0:
                inside = all_anchors.inside_box(gt.image_size, self.anchor_boundary_thresh)
                image_labels[~inside] = -1
            labels.append(self._subsample_labels(image_labels))
            if len(gt.gt_boxes) == 0:
                matched_boxes.append(torch.zeros_like(all_anchors.tensor))
            else:
                matched_boxes.append(gt.gt_boxes.tensor[matched])
        return labels, matched_boxes

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[torch.Tensor],
        gt_labels: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        gt_boxes: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Classification and regression loss, summed over the sample and divided by its size.

        The divisor is ``batch_size_per_image * N`` for both, however many anchors were drawn.

        Args:
            anchors: L sets of anchors.
            pred_objectness_logits: L tensors ``(N, H_l*W_l*A)``.
            gt_labels: N tensors ``(R,)`` of :meth:`label_and_sample_anchors`.
            pred_anchor_deltas: L tensors ``(N, H_l*W_l*A, 4)``.
            gt_boxes: N tensors ``(R, 4)`` of :meth:`label_and_sample_anchors`.

        Returns:
            ``loss_rpn_cls`` and ``loss_rpn_loc``, weighted.
        """
        labels = torch.stack(gt_labels)
        num_images = len(labels)
        positive = labels == 1
        counts = torch.stack([positive.sum(), (labels == 0).sum()]).tolist()
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", counts[0] / num_images)
        storage.put_scalar("rpn/num_neg_anchors", counts[1] / num_images)

        location_loss = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            positive,
            box_reg_loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        sampled = labels >= 0
        class_loss = F.binary_cross_entropy_with_logits(
            torch.cat(pred_objectness_logits, dim=1)[sampled],
            labels[sampled].float(),
            reduction="sum",
        )
        normalizer = self.batch_size_per_image * num_images
        losses = dict(zip(LOSS_NAMES, (class_loss, location_loss), strict=True))
        return {
            name: loss / normalizer * self.loss_weight.get(name, 1.0)
            for name, loss in losses.items()
        }

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Decode and filter; proposals are constants for everything that follows.

        Arguments have the shapes of :meth:`losses`; the result is that of
        :func:`find_top_rpn_proposals`.
        """
        return find_top_rpn_proposals(
            self._decode_proposals(anchors, pred_anchor_deltas),
            pred_objectness_logits,
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )

    def _decode_proposals(
        self, anchors: list[Boxes], pred_anchor_deltas: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Apply deltas ``(N, A_l, 4)`` to the anchors of each level; same shape returned."""
        proposals = []
        for level_anchors, deltas in zip(anchors, pred_anchor_deltas, strict=True):
            repeated = level_anchors.tensor.expand(len(deltas), -1, -1).flatten(0, 1)
            boxes = self.box2box_transform.apply_deltas(deltas.flatten(0, 1), repeated)
            proposals.append(boxes.view_as(deltas))
        return proposals
