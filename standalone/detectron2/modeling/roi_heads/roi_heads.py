"""Per-region prediction: sampling of proposals, box branch, mask branch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry
from torch import nn

from ..matcher import Matcher
from ..poolers import ROIPooler
from ..proposal_generator.proposal_utils import add_ground_truth_to_proposals
from ..sampling import subsample_labels
from .box_head import build_box_head
from .fast_rcnn import FastRCNNOutputLayers
from .mask_head import build_mask_head

ROI_HEADS_REGISTRY = Registry("ROI_HEADS")
ROI_HEADS_REGISTRY.__doc__ = "ROI heads; called with ``(cfg, dict[str, ShapeSpec])``."


def build_roi_heads(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build the heads named by ``cfg.MODEL.ROI_HEADS.NAME``."""
    return ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, input_shape)


def select_foreground_proposals(
    proposals: list[Instances], bg_label: int
) -> tuple[list[Instances], list[torch.Tensor]]:
    """Keep the proposals whose ``gt_classes`` is neither ignored (-1) nor background.

    Args:
        proposals: per image, with ``gt_classes``.
        bg_label: the background class.

    Returns:
        Per image the foreground proposals and the boolean mask ``(R_i,)`` that selects them.
    """
    assert isinstance(proposals, list | tuple) and proposals, (
        f"proposals must be a non-empty list of Instances, got {proposals!r}"
    )
    masks = [(x.gt_classes != -1) & (x.gt_classes != bg_label) for x in proposals]
    return [x[mask] for x, mask in zip(proposals, masks, strict=True)], masks


class ROIHeads(nn.Module):
    """Base of all heads on proposals: matching with ground truth and sampling."""

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_matcher: Matcher,
        proposal_append_gt: bool = True,
    ) -> None:
        """
        Args:
            num_classes: foreground classes K; class K is background.
            batch_size_per_image: proposals per image that enter the losses.
            positive_fraction: upper limit of the share of foreground among them.
            proposal_matcher: labels proposals by their overlap with the ground truth.
            proposal_append_gt: add ground-truth boxes to the proposals before sampling.
        """
        super().__init__()
        self.num_classes = num_classes
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.proposal_matcher = proposal_matcher
        self.proposal_append_gt = proposal_append_gt

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read ``cfg.MODEL.ROI_HEADS``."""
        heads = cfg.MODEL.ROI_HEADS
        return {
            "num_classes": heads.NUM_CLASSES,
            "batch_size_per_image": heads.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": heads.POSITIVE_FRACTION,
            "proposal_matcher": Matcher(
                heads.IOU_THRESHOLDS, heads.IOU_LABELS, allow_low_quality_matches=False
            ),
            "proposal_append_gt": heads.PROPOSAL_APPEND_GT,
        }

    def _sample_proposals(
        self, matched_idxs: torch.Tensor, matched_labels: torch.Tensor, gt_classes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the proposals of one image.

        Args:
            matched_idxs: ground truth matched to each proposal ``(R,)``.
            matched_labels: 1 foreground, 0 background, -1 ignored ``(R,)``.
            gt_classes: classes of the ground truth ``(G,)``.

        Returns:
            Indices of the chosen proposals, foreground first, and their classes, where
            background is ``num_classes``.
        """
        if gt_classes.numel() == 0:
            classes = torch.full_like(matched_idxs, self.num_classes)
        else:
            classes = gt_classes[matched_idxs]
            classes[matched_labels == 0] = self.num_classes
            classes[matched_labels == -1] = -1
        foreground, background = subsample_labels(
            classes, self.batch_size_per_image, self.positive_fraction, self.num_classes
        )
        chosen = torch.cat([foreground, background])
        return chosen, classes[chosen]

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Match, sample and annotate proposals for training.

        Every target field whose name starts with ``gt_`` is copied to the proposals by
        matched index: this is how poses, CAD models or maps reach the heads. On background
        proposals these values are meaningless; images without objects get ``gt_classes`` only.

        Args:
            proposals: per image ``proposal_boxes`` and ``objectness_logits``.
            targets: per image at least ``gt_boxes`` and ``gt_classes``.

        Returns:
            Per image at most ``batch_size_per_image`` proposals with ``gt_classes``.
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        sampled, num_foreground, num_background = [], 0, 0
        for image_proposals, target in zip(proposals, targets, strict=True):
            overlap = pairwise_iou(target.gt_boxes, image_proposals.proposal_boxes)
            matched, labels = self.proposal_matcher(overlap)
            chosen, classes = self._sample_proposals(matched, labels, target.gt_classes)
            image_proposals = image_proposals[chosen]
            image_proposals.gt_classes = classes
            if len(target) > 0:
                matched = matched[chosen]
                for name, value in target.get_fields().items():
                    if name.startswith("gt_") and not image_proposals.has(name):
                        image_proposals.set(name, value[matched])
            in_background = int((classes == self.num_classes).sum())
            num_background += in_background
            num_foreground += classes.numel() - in_background
            sampled.append(image_proposals)

        storage = get_event_storage()
        num_images = max(len(sampled), 1)
        storage.put_scalar("roi_head/num_fg_samples", num_foreground / num_images)
        storage.put_scalar("roi_head/num_bg_samples", num_background / num_images)
        return sampled

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Predict per region.

        Args:
            images: the N images.
            features: ``(N, C, H, W)`` by name.
            proposals: per image ``proposal_boxes`` and ``objectness_logits``.
            targets: per image ground truth, in training.

        Returns:
            In training the sampled proposals and the losses, at inference the detections and
            an empty dict.
        """
        raise NotImplementedError


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """Independent box and mask branches with their own pooling."""

    @configurable
    def __init__(
        self,
        *,
        box_in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_in_features: Sequence[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_head: nn.Module | None = None,
        keypoint_in_features: None = None,
        keypoint_pooler: None = None,
        keypoint_head: None = None,
        train_on_pred_boxes: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            box_in_features: feature maps of the box branch.
            box_pooler: crops regions out of them.
            box_head: maps cropped regions to per-region features.
            box_predictor: maps these to classes and boxes.
            mask_in_features: feature maps of the mask branch, ``None``: no mask branch.
            mask_pooler: crops regions; ``None`` hands the dict of feature maps to the head.
            mask_head: loss and inference of masks.
            keypoint_in_features: must be ``None``, as the next two.
            keypoint_pooler: not available.
            keypoint_head: not available.
            train_on_pred_boxes: train the branches after the box branch on its predictions.
            kwargs: arguments of :class:`ROIHeads`.

        Raises:
            ValueError: a keypoint branch is asked for.
        """
        super().__init__(**kwargs)
        if any(x is not None for x in (keypoint_in_features, keypoint_pooler, keypoint_head)):
            raise ValueError(
                "keypoint heads are not part of detectron2-standalone: leave keypoint_* at None "
                "or install detectron2"
            )
        self.in_features = self.box_in_features = tuple(box_in_features)
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.mask_on = mask_in_features is not None
        self.keypoint_on = False
        if self.mask_on:
            self.mask_in_features = tuple(mask_in_features)
            self.mask_pooler = mask_pooler
            self.mask_head = mask_head
        self.train_on_pred_boxes = train_on_pred_boxes

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Build the branches, the box branch first."""
        if cfg.MODEL.KEYPOINT_ON:
            raise ValueError(
                "MODEL.KEYPOINT_ON is True, but detectron2-standalone has no keypoints"
            )
        return {
            **super().from_config(cfg),
            "train_on_pred_boxes": cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES,
            **cls._init_box_head(cfg, input_shape),
            **cls._init_mask_head(cfg, input_shape),
        }

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments of the box branch from ``cfg.MODEL.ROI_BOX_HEAD``."""
        head, in_features = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS.IN_FEATURES
        channels, scales = _channels_and_scales(input_shape, in_features)
        side = head.POOLER_RESOLUTION
        pooler = ROIPooler(
            output_size=side,
            scales=scales,
            sampling_ratio=head.POOLER_SAMPLING_RATIO,
            pooler_type=head.POOLER_TYPE,
        )
        box_head = build_box_head(cfg, ShapeSpec(channels=channels, height=side, width=side))
        return {
            "box_in_features": in_features,
            "box_pooler": pooler,
            "box_head": box_head,
            "box_predictor": FastRCNNOutputLayers(cfg, box_head.output_shape),
        }

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments of the mask branch from ``cfg.MODEL.ROI_MASK_HEAD``, if there is one."""
        if not cfg.MODEL.MASK_ON:
            return {}
        head, in_features = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.ROI_HEADS.IN_FEATURES
        if not head.POOLER_TYPE:
            shape, pooler = {name: input_shape[name] for name in in_features}, None
        else:
            channels, scales = _channels_and_scales(input_shape, in_features)
            side = head.POOLER_RESOLUTION
            shape = ShapeSpec(channels=channels, height=side, width=side)
            pooler = ROIPooler(
                output_size=side,
                scales=scales,
                sampling_ratio=head.POOLER_SAMPLING_RATIO,
                pooler_type=head.POOLER_TYPE,
            )
        return {
            "mask_in_features": in_features,
            "mask_pooler": pooler,
            "mask_head": build_mask_head(cfg, shape),
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """See :meth:`ROIHeads.forward`."""
        if not self.training:
            instances = self._forward_box(features, proposals)
            return self.forward_with_given_boxes(features, instances), {}
        assert targets is not None, "'targets' argument is required during training"
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._forward_box(features, proposals)
        # The mask branch sees the proposals that _forward_box may have moved to predictions.
        losses.update(self._forward_mask(features, proposals))
        return proposals, losses

    def forward_with_given_boxes(
        self, features: dict[str, torch.Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Run the branches that need boxes on given ones, at inference only.

        Args:
            features: ``(N, C, H, W)`` by name.
            instances: per image ``pred_boxes`` and ``pred_classes``.

        Returns:
            The same instances with ``pred_masks`` if there is a mask branch.
        """
        assert not self.training, "forward_with_given_boxes is for inference: call eval() first"
        for index, image_instances in enumerate(instances):
            for name in ("pred_boxes", "pred_classes"):
                assert image_instances.has(name), f"instances[{index}] have no field '{name}'"
        return self._forward_mask(features, instances)

    def _forward_box(
        self, features: Mapping[str, torch.Tensor], proposals: list[Instances]
    ) -> dict[str, torch.Tensor] | list[Instances]:
        """Losses of the box branch in training, detections at inference."""
        maps = [features[name] for name in self.box_in_features]
        regions = self.box_pooler(maps, [x.proposal_boxes for x in proposals])
        predictions = self.box_predictor(self.box_head(regions))
        if not self.training:
            return self.box_predictor.inference(predictions, proposals)[0]
        losses = self.box_predictor.losses(predictions, proposals)
        if self.train_on_pred_boxes:
            with torch.no_grad():
                pred_boxes = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
                for image_proposals, boxes in zip(proposals, pred_boxes, strict=True):
                    image_proposals.proposal_boxes = Boxes(boxes)
        return losses

    def _forward_mask(
        self, features: Mapping[str, torch.Tensor], instances: list[Instances]
    ) -> dict[str, torch.Tensor] | list[Instances]:
        """Losses of the mask branch in training, instances with masks at inference."""
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        maps = {name: features[name] for name in self.mask_in_features}
        if self.mask_pooler is None:
            return self.mask_head(maps, instances)
        boxes = [x.proposal_boxes if self.training else x.pred_boxes for x in instances]
        return self.mask_head(self.mask_pooler(list(maps.values()), boxes), instances)


def _channels_and_scales(
    input_shape: dict[str, ShapeSpec], names: Sequence[str]
) -> tuple[int, tuple[float, ...]]:
    """Common channel count and the scale (inverse stride) of the named feature maps."""
    shapes = [input_shape[name] for name in names]
    channels = {shape.channels for shape in shapes}
    assert len(channels) == 1, f"ROI features must have equal channels, got {sorted(channels)}"
    return channels.pop(), tuple(1.0 / shape.stride for shape in shapes)
