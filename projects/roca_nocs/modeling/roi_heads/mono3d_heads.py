"""The region heads of monocular 3D boxes: 2D boxes and classes, and a cube for each.

B images, R regions of all images together, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage

from roca_nocs.geometry.box3d_codec import (
    VIRTUAL_FOCAL,
    Box3DCodec,
    BoxPriors,
    uninformed_priors,
)
from roca_nocs.geometry.yaw_bins import YawBins
from roca_nocs.modeling.criteria.cube_loss import CORNER_GROUPS, CubeLoss
from roca_nocs.modeling.criteria.mono3d_loss import box_confidence
from roca_nocs.modeling.mono3d.class_priors import ClassPriors
from roca_nocs.modeling.mono3d.decoding import CameraBoxes, decode_boxes, suppress_duplicates
from roca_nocs.modeling.mono3d.diagnostics import class_statistics, cube_statistics
from roca_nocs.modeling.mono3d.instances import pad_instances
from roca_nocs.modeling.mono3d.padding import pad_rows
from roca_nocs.modeling.mono3d.selection import select_class_from_prediction
from roca_nocs.modeling.mono3d.targets import covered_by_ignore, make_align
from roca_nocs.modeling.roi_heads.cube_head import CubeHead

__all__ = ["Mono3DROIHeads"]

# Small enough for a probability of zero, and not too small for half precision.
_NO_PROBABILITY = -1e4


@ROI_HEADS_REGISTRY.register()
class Mono3DROIHeads(StandardROIHeads):
    """The box branch of Faster R-CNN, and a branch that predicts a 3D box for each region.

    The branch trains on the foreground proposals whose object has a known 3D box, relative to the
    proposal, and runs on the detections, relative to the detected box. Proposals of the background
    that lie in a region to ignore by half their area or more are not trained.

    Sizes and depths are predicted relative to statistics of the classes, which are part of every
    checkpoint (``priors``).

    The event storage gets ``mono3d/num_ignored_proposals`` per image and the values of
    ``mono3d.diagnostics``.
    """

    @configurable
    def __init__(
        self,
        *,
        cube_in_features: Sequence[str],
        cube_pooler: ROIPooler,
        cube_head: CubeHead,
        cube_loss: CubeLoss,
        priors: Callable[[], BoxPriors] | None = None,
        z_type: str = "log",
        dims_func: str = "exp",
        virtual_focal: float | None = VIRTUAL_FOCAL,
        num_depth_clusters: int = 1,
        yaw_residual: str = "half_width",
        yaw_period: str = "2pi",
        bev_nms_threshold: float | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            cube_in_features: feature maps of the branch.
            cube_pooler: crops regions out of them.
            cube_head: pooled features to the numbers of 3D boxes.
            cube_loss: of these numbers.
            priors: gives the statistics of the training boxes, see ``mono3d.class_priors``.
            z_type, dims_func, virtual_focal: see ``geometry.box3d_codec``.
            num_depth_clusters: of the priors, for ``z_type="clusters"``.
            yaw_residual, yaw_period: see ``geometry.yaw_bins``.
            bev_nms_threshold: IoU in the bird's-eye view above which a detection is dropped beside
                a better one of its class; None keeps both.
            kwargs: arguments of ``StandardROIHeads``.

        Raises:
            ValueError: options that are unknown or do not go together.
        """
        super().__init__(**kwargs)
        if cube_head.num_classes != self.num_classes:
            raise ValueError(
                f"num_classes is {self.num_classes}, but the cube head has {cube_head.num_classes}"
            )
        if cube_head.pose_type == "6d" and cube_loss.mode != "disentangled":
            raise ValueError(
                f"pose_type '6d' is learned from corners: it needs the loss mode 'disentangled', "
                f"not {cube_loss.mode!r}"
            )
        if self.train_on_pred_boxes or self.mask_on:
            raise ValueError(
                "Mono3DROIHeads trains on proposals and has no mask branch: leave mask_* and "
                "train_on_pred_boxes out"
            )
        self.cube_in_features = tuple(cube_in_features)
        self.cube_pooler = cube_pooler
        self.cube_head = cube_head
        self.cube_loss = cube_loss
        self.yaw_bins = YawBins(cube_head.num_yaw_bins, yaw_residual, yaw_period)
        self.bev_nms_threshold = bev_nms_threshold
        self.priors = ClassPriors(self.num_classes, num_depth_clusters, priors)
        self._codec_settings = {
            "z_type": z_type,
            "dims_func": dims_func,
            "virtual_focal": virtual_focal,
        }
        # Its settings are checked at once, priors may come later.
        Box3DCodec(uninformed_priors(self.num_classes), **self._codec_settings)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``cfg.MODEL`` with the keys of ``modeling.mono3d_config.add_mono3d_config``.

        The priors are those of the checkpoint, or 1 until ``engine.mono3d_priors`` sets those of
        ``cfg.DATASETS.TRAIN``: a config of this kind cannot name a function.
        """
        head, in_features = cfg.MODEL.ROI_CUBE_HEAD, cfg.MODEL.ROI_HEADS.IN_FEATURES
        side, weights = head.POOLER_RESOLUTION, cfg.MODEL.LOSS_W
        arguments = super().from_config(cfg, input_shape)
        arguments["box_predictor"].loss_weight = {
            "loss_cls": weights.CATEGORY,
            "loss_box_reg": weights.ROI_BOX2D,
        }
        return {
            **arguments,
            "bev_nms_threshold": head.BEV_NMS_THRESH if head.BEV_NMS_THRESH < 1 else None,
            "cube_in_features": in_features,
            "cube_pooler": ROIPooler(
                output_size=side,
                scales=[1.0 / input_shape[name].stride for name in in_features],
                sampling_ratio=head.POOLER_SAMPLING_RATIO,
                pooler_type=head.POOLER_TYPE,
            ),
            "cube_head": CubeHead(
                cfg, ShapeSpec(input_shape[in_features[0]].channels, height=side, width=side)
            ),
            "cube_loss": CubeLoss(
                mode=head.LOSS_MODE,
                beta=head.SMOOTH_L1_BETA,
                ordered_corners=head.ORDERED_CORNERS,
                inverse_depth=head.INVERSE_Z_WEIGHT,
                weights={
                    "loss_yaw_residual": weights.YAW_RES,
                    "loss_yaw_category": weights.YAW_CLS,
                    "loss_box3d": weights.BOX3D,
                    **{f"loss_{group}": weights.BOX3D for group in CORNER_GROUPS},
                },
            ),
            "z_type": head.Z_TYPE,
            "dims_func": head.DIMS_FUNC,
            "virtual_focal": head.VIRTUAL_FOCAL,
            "num_depth_clusters": head.CLUSTER_BINS,
            "yaw_residual": head.YAW_RESIDUAL,
            "yaw_period": head.YAW_BINS_PERIOD,
        }

    def codec(self) -> Box3DCodec:
        """Encoder and decoder of 3D boxes.

        Raises:
            ValueError: no priors are known.
        """
        return Box3DCodec(self.priors(), **self._codec_settings)

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        *,
        projections: torch.Tensor,
        ignore_boxes: Sequence[torch.Tensor] | None = None,
        known_classes: torch.Tensor | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Losses in training, detections at inference.

        Args:
            images: the batch, padded.
            features: the pyramid by name.
            proposals: per image.
            targets: per image, with the fields of ``data.mono3d_mapper.Mono3DMapper``; in training.
            projections: (B, 3, 4), from the camera frame to pixels of the images.
            ignore_boxes: per image (M, 4), XYXY pixels; in training.
            known_classes: (B, C) bool, classes that are annotated in each image; None: all. In
                training.

        Returns:
            The sampled proposals and the losses, or the detections and an empty dictionary.

        Raises:
            ValueError: no priors are known.
        """
        if not self.training:
            detections = self._forward_box(features, proposals)
            return self.predict_boxes3d(features, detections, projections), {}
        assert targets is not None
        if ignore_boxes is not None:
            proposals = self._without_ignored(proposals, targets, ignore_boxes)
        # The other fields are aligned below: copies of them for all proposals would go unused.
        slim = [
            Instances(each.image_size, gt_boxes=each.gt_boxes, gt_classes=each.gt_classes)
            for each in targets
        ]
        sampled = self.label_and_sample_proposals(proposals, slim)
        losses = self._forward_box(features, sampled, known_classes)
        losses.update(self._cube_losses(features, sampled, targets, projections))
        return sampled, losses

    def predict_boxes3d(
        self,
        features: dict[str, torch.Tensor],
        instances: list[Instances],
        projections: torch.Tensor,
    ) -> list[Instances]:
        """3D boxes of given 2D boxes.

        Args:
            features: the pyramid by name.
            instances: per image ``pred_boxes``, ``pred_classes`` and ``scores``.
            projections: (B, 3, 4), from the camera frame to pixels of the images.

        Returns:
            The instances with the fields of ``meta_arch.Mono3DRCNN``; centres are projected to
            pixels of the network's image.

        Raises:
            ValueError: no priors are known.
        """
        codec = self.codec()
        counts = [len(each) for each in instances]
        boxes = [each.pred_boxes for each in instances]
        classes = torch.cat([each.pred_classes for each in instances])
        image = torch.repeat_interleave(torch.tensor(counts)).to(classes.device)
        selected = select_class_from_prediction(self._cube_outputs(features, boxes), classes)
        reference = torch.cat([each.tensor for each in boxes])
        decoded = decode_boxes(
            selected, reference, classes, projections[image], codec, self.yaw_bins
        )
        parts = zip(*(values.split(counts) for values in decoded), strict=True)
        results = [
            _with_boxes3d(each, CameraBoxes(*part))
            for each, part in zip(instances, parts, strict=True)
        ]
        if "uncertainty" in selected:
            confidences = box_confidence(selected["uncertainty"].squeeze(1)).split(counts)
            for each, confidence in zip(results, confidences, strict=True):
                each.scores = (each.scores * confidence).sqrt()
        if self.bev_nms_threshold is not None:
            kept = suppress_duplicates(
                decoded,
                image * self.num_classes + classes,
                torch.cat([each.scores for each in results]),
                self.bev_nms_threshold,
            )
            results = [each[own] for each, own in zip(results, kept.split(counts), strict=True)]
        return results

    def _cube_outputs(
        self, features: dict[str, torch.Tensor], boxes: list[Boxes]
    ) -> dict[str, torch.Tensor]:
        """Outputs of the cube head for the boxes of all images."""
        pooled = self.cube_pooler([features[name] for name in self.cube_in_features], boxes)
        return self.cube_head(pooled)

    def _cube_losses(
        self,
        features: dict[str, torch.Tensor],
        sampled: list[Instances],
        targets: list[Instances],
        projections: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Losses of the foreground proposals with 3D boxes."""
        codec = self.codec()
        proposals, valid = pad_rows(
            [each.proposal_boxes.tensor for each in sampled], self.batch_size_per_image
        )
        aligned = make_align(
            pad_instances(targets),
            proposals,
            valid,
            self.proposal_matcher,
            codec,
            projections[:, 1, 1],
        )
        learns = aligned["has3d"].squeeze(-1)
        image, row = learns.nonzero(as_tuple=True)
        outputs = self._cube_outputs(
            features, [Boxes(own[rows]) for own, rows in zip(proposals, learns, strict=True)]
        )
        regions = {name: values[image, row] for name, values in aligned.items()}
        boxes = proposals[image, row], projections[image], codec, self.yaw_bins
        losses = self.cube_loss(outputs, regions, *boxes, valid.sum())
        for name, value in cube_statistics(outputs, regions, *boxes).items():
            get_event_storage().put_scalar(f"mono3d/{name}", value)
        return losses

    def _forward_box(
        self,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        known_classes: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor] | list[Instances]:
        """Losses of the box branch in training, detections with ``scores_full`` at inference."""
        maps = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(maps, [each.proposal_boxes for each in proposals])
        predictions = self.box_predictor(self.box_head(pooled))
        if self.training:
            if known_classes is not None:
                counts = torch.tensor([len(each) for each in proposals])
                known = known_classes.repeat_interleave(counts.to(known_classes.device), dim=0)
                predictions = _without_unknown(predictions[0], known), predictions[1]
            classes = torch.cat([each.gt_classes for each in proposals])
            for name, value in class_statistics(predictions[0], classes).items():
                get_event_storage().put_scalar(f"mono3d/{name}", value)
            return self.box_predictor.losses(predictions, proposals)
        detections, rows = self.box_predictor.inference(predictions, proposals)
        probabilities = self.box_predictor.predict_probs(predictions, proposals)
        for each, own, kept in zip(detections, probabilities, rows, strict=True):
            each.scores_full = own[kept, : self.num_classes]
        return detections

    @torch.no_grad()
    def _without_ignored(
        self,
        proposals: list[Instances],
        targets: list[Instances],
        ignore_boxes: Sequence[torch.Tensor],
    ) -> list[Instances]:
        """Proposals that belong to an object or lie outside the regions to ignore."""
        kept = []
        for each, target, ignored in zip(proposals, targets, ignore_boxes, strict=True):
            if len(ignored):
                boxes = each.proposal_boxes
                _, labels = self.proposal_matcher(pairwise_iou(target.gt_boxes, boxes))
                each = each[(labels == 1) | ~covered_by_ignore(boxes.tensor, ignored)]
            kept.append(each)
        dropped = sum(map(len, proposals)) - sum(map(len, kept))
        get_event_storage().put_scalar("mono3d/num_ignored_proposals", dropped / len(proposals))
        return kept


def _without_unknown(logits: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Logits (R, C + 1) that give no probability to unknown classes, so that none is learned."""
    background = known.new_ones(len(known), 1)
    return logits.masked_fill(~torch.cat([known, background], dim=1), _NO_PROBABILITY)


def _with_boxes3d(instances: Instances, boxes: CameraBoxes) -> Instances:
    """Instances with the 3D boxes as fields."""
    instances.pred_box3d = boxes.corners()
    instances.pred_center_cam = boxes.center
    instances.pred_center_2D = boxes.center_2d
    instances.pred_dimensions = boxes.dimensions
    instances.pred_R = boxes.rotation
    instances.pred_rotation_y = boxes.rotation_y
    instances.pred_alpha = boxes.alpha
    return instances
