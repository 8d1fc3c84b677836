"""NOCS that also learns from several views of scenes without labels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from roca_nocs.geometry.failures import FailureReason
from roca_nocs.geometry.multiview import Views
from roca_nocs.layers.canvas import pad_maps
from roca_nocs.modeling.criteria.multiview_loss import MultiViewLoss, ViewDetections
from roca_nocs.modeling.meta_arch.nocs_rcnn import NocsRCNN

__all__ = ["MultiViewNocsRCNN"]


@META_ARCH_REGISTRY.register()
class MultiViewNocsRCNN(NocsRCNN):
    """``NocsRCNN`` with a second stream of training data: views of scenes, with depth and cameras.

    Inputs of a training step may hold ``views``, a list of dictionaries with ``image`` (3, H, W),
    ``depth`` (H, W) metres, ``intrinsics`` (3, 3) and ``camera_pose`` (4, 4), camera to world
    (``roca_nocs.data.multiview.JointLoader``). In these views the model detects objects as at
    inference, without gradient; it predicts their coordinates as in training, and
    ``MultiViewLoss`` compares them. The input itself is trained on as usual.

    The event storage counts the pairs of views (the detections) by what became of them, as
    ``multiview/<mode>_ok`` and ``multiview/<mode>_<reason>``, and keeps
    ``multiview/pose_disagreement``.
    """

    def __init__(
        self,
        *,
        multiview_loss: MultiViewLoss,
        view_score_threshold: float = 0.5,
        max_detections_per_view: int = 16,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            multiview_loss: compares the views.
            view_score_threshold: least score of a detection that is compared.
            max_detections_per_view: those with the highest scores.
            kwargs: arguments of ``NocsRCNN``.
        """
        super().__init__(**kwargs)
        self.multiview_loss = multiview_loss
        self.view_score_threshold = view_score_threshold
        self.max_detections_per_view = max_detections_per_view

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, torch.Tensor] | list[dict[str, Any]]:
        """See the class.

        Raises:
            ValueError: a view has no depth, intrinsics or camera pose.
        """
        results = super().forward(batched_inputs)
        if not self.training:
            return results
        scenes = [record["views"] for record in batched_inputs if record.get("views")]
        return {**results, **self._multiview_losses(scenes)}

    def _multiview_losses(self, scenes: Sequence[list[dict[str, Any]]]) -> dict[str, torch.Tensor]:
        records = [view for views in scenes for view in views]
        if not records:
            zero = self.pixel_mean.new_zeros(())
            return {f"loss_multiview_{mode}": zero for mode in self.multiview_loss.modes}
        images = self.preprocess_image(records)
        views = self._views(scenes, images)
        features = self.backbone(images.tensor)
        detected = self._detect(images, features)
        counts = torch.tensor([len(each) for each in detected], device=self.device)
        maps = self.roi_heads.nocs_outputs(
            features,
            [each.pred_boxes for each in detected],
            torch.cat([each.pred_classes for each in detected]),
        )
        head = self.roi_heads.nocs_head
        detections = ViewDetections(
            # A place says nothing without its bin: such heads are compared by coordinates.
            maps=head.expectation(maps) if head.bin_offsets else maps,
            boxes=torch.cat([each.pred_boxes.tensor for each in detected]),
            scores=torch.cat([each.scores for each in detected]),
            masks=torch.cat([each.pred_masks for each in detected]),
            image_indices=torch.repeat_interleave(counts),
        )
        result = self.multiview_loss(views, detections)
        _log(result.reasons, result.disagreement)
        return result.losses

    @torch.no_grad()
    def _detect(self, images: ImageList, features: dict[str, torch.Tensor]) -> list[Instances]:
        """Boxes, classes, scores and masks (N, 1, T, T) of each view."""
        with _evaluating(self.proposal_generator, self.roi_heads):
            proposals, _ = self.proposal_generator(images, features, None)
            detected = self.roi_heads._forward_box(features, proposals)
            # Sorted by descending score.
            detected = [
                each[each.scores >= self.view_score_threshold][: self.max_detections_per_view]
                for each in detected
            ]
            return self.roi_heads._forward_mask(features, detected)

    def _views(self, scenes: Sequence[list[dict[str, Any]]], images: ImageList) -> Views:
        records = [view for views in scenes for view in views]
        needed = ("depth", "intrinsics", "camera_pose")
        for record in records:
            missing = [name for name in needed if record.get(name) is None]
            if missing:
                raise ValueError(
                    f"view {record.get('file_name', '(no file_name)')} has no {', '.join(missing)}"
                    ", which the multi-view loss needs: map views by "
                    "roca_nocs.data.multiview.ViewMapper"
                )
        size = (images.tensor.shape[-2], images.tensor.shape[-1])
        depth = pad_maps([record["depth"][None] for record in records], 1, size, device=self.device)
        numbers = [number for number, views in enumerate(scenes) for _ in views]
        intrinsics, poses = (
            torch.stack([torch.as_tensor(record[name]) for record in records]).to(self.device)
            for name in ("intrinsics", "camera_pose")
        )
        return Views(
            depth=depth[:, 0],
            intrinsics=intrinsics.float(),
            camera_poses=poses.double(),
            scenes=torch.tensor(numbers, device=self.device),
        )


def _log(reasons: dict[str, torch.Tensor], disagreement: torch.Tensor | None) -> None:
    storage = get_event_storage()
    for mode, values in reasons.items():
        counts = torch.bincount(values, minlength=len(FailureReason)).tolist()
        for reason, count in zip(FailureReason, counts, strict=True):
            if count or reason == FailureReason.OK:
                storage.put_scalar(f"multiview/{mode}_{reason.name.lower()}", count)
    if disagreement is not None:
        storage.put_scalar("multiview/pose_disagreement", disagreement)


@contextlib.contextmanager
def _evaluating(*modules: nn.Module) -> Iterator[None]:
    """Modules in evaluation mode for a while, whatever mode each of their parts is in."""
    states = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, training in states:
            part.training = training
