"""A region-based detector that also predicts metric 3D boxes from single images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances

from roca_nocs.geometry.projection import resize_projection
from roca_nocs.modeling.mono3d.padding import largest_boxes

__all__ = ["Mono3DRCNN"]

logger = logging.getLogger(__name__)

# Of the height of the image, where the camera is unknown.
_NOMINAL_FOCAL = 2.0

_OF_THE_RECORD = ("P", "K")
_CAMERAS = ("projection", "intrinsics", *_OF_THE_RECORD)


@META_ARCH_REGISTRY.register()
class Mono3DRCNN(GeneralizedRCNN):
    """Monocular 3D boxes: a ``GeneralizedRCNN`` of a ``PaddedRPN`` and ``Mono3DROIHeads``.

    Each input holds ``image`` (3, H, W) and a camera, from the camera frame (x right, y down, z
    forward, metres) to pixels: ``projection`` (3, 4) or ``intrinsics`` (3, 3) to those of
    ``image``, or ``P`` (3, 4) or ``K`` (3, 3) to those of the record's ``height`` and ``width``,
    of which ``image`` is a resized copy. The first of these that is there counts. In training it
    also holds ``instances`` and optionally ``ignore_boxes``, as
    ``roca_nocs.data.mono3d_mapper.Mono3DMapper`` makes them, and optionally ``known_classes``, ids
    of the classes that are annotated in the image: where a dataset knows only some, nothing is
    learned about the others.

    An input without a camera is an error in training. At inference a focal length of twice the
    height of the image and a principal point at its centre stand in, and a warning says so: depths
    then are right up to a factor.

    Training returns the losses. Inference returns, per image, ``instances`` at the record's
    ``height`` and ``width``: ``pred_boxes``, ``pred_classes``, ``scores`` (of the 3D box),
    ``scores_full`` (N, C), the probabilities of the classes, ``pred_center_2D`` (N, 2), pixels, the
    projected centre, and, in metres and radians of the camera frame, ``pred_center_cam`` (N, 3),
    ``pred_dimensions`` (N, 3) (W, H, L), ``pred_R`` (N, 3, 3) object to camera,
    ``pred_rotation_y`` and ``pred_alpha`` (N,), ``pred_box3d`` (N, 8, 3) corners.
    """

    @configurable
    def __init__(self, *, max_ground_truths: int | None = None, **kwargs: Any) -> None:
        """
        Args:
            max_ground_truths: objects of an image that are trained, those with the largest 2D
                boxes; the others become regions to ignore, and one warning is logged. None: all.
            kwargs: arguments of ``GeneralizedRCNN``.

        Raises:
            ValueError: ``max_ground_truths`` is below 1.
        """
        super().__init__(**kwargs)
        if max_ground_truths is not None and max_ground_truths < 1:
            raise ValueError(
                f"max_ground_truths is {max_ground_truths}; expected 1 or more, or None"
            )
        self.max_ground_truths = max_ground_truths
        self._warned = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read ``cfg.MODEL`` with the keys of ``modeling.mono3d_config.add_mono3d_config``."""
        limit = cfg.MODEL.MAX_GROUND_TRUTHS or None
        return {**super().from_config(cfg), "max_ground_truths": limit}

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, torch.Tensor] | list[dict[str, Any]]:
        """See the class.

        Raises:
            ValueError: an input of the training has no camera or no ``instances``.
        """
        if not self.training:
            return self.inference(batched_inputs)
        for index, record in enumerate(batched_inputs):
            if "instances" not in record:
                raise ValueError(f"{_describe(record, index)} has no instances to train on")
        images = self.preprocess_image(batched_inputs)
        projections = self._projections(batched_inputs, images.image_sizes)
        targets = [x["instances"].to(self.device) for x in batched_inputs]
        ignore_boxes = [
            x.get("ignore_boxes", torch.zeros(0, 4)).to(self.device) for x in batched_inputs
        ]
        if self.max_ground_truths is not None:
            targets, ignore_boxes = self._largest(targets, ignore_boxes, self.max_ground_truths)
        features = self.backbone(images.tensor)
        proposals, losses = self.proposal_generator(images, features, targets, ignore_boxes)
        _, head_losses = self.roi_heads(
            images,
            features,
            proposals,
            targets,
            projections=projections,
            ignore_boxes=ignore_boxes,
            known_classes=self._known_classes(batched_inputs),
        )
        return {**head_losses, **losses}

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Instances]] | list[Instances]:
        """Detect objects in three dimensions.

        Args:
            batched_inputs: see the class.
            detected_instances: per image ``pred_boxes``, ``pred_classes`` and ``scores`` in pixels
                of ``image``; then only the 3D boxes are predicted.
            do_postprocess: bring boxes and projected centres to the size of the record.
        """
        images = self.preprocess_image(batched_inputs)
        projections = self._projections(batched_inputs, images.image_sizes)
        features = self.backbone(images.tensor)
        if detected_instances is None:
            proposals, _ = self.proposal_generator(images, features, None)
            results, _ = self.roi_heads(images, features, proposals, projections=projections)
        else:
            given = [x.to(self.device) for x in detected_instances]
            results = self.roi_heads.predict_boxes3d(features, given, projections)
        if not do_postprocess:
            return results
        return [
            {"instances": _at_output_size(each, record)}
            for each, record in zip(results, batched_inputs, strict=True)
        ]

    def _largest(
        self, targets: Sequence[Instances], ignore_boxes: Sequence[torch.Tensor], limit: int
    ) -> tuple[list[Instances], list[torch.Tensor]]:
        """The largest objects of each image, and regions to ignore with the others among them."""
        if not self._warned and (most := max(map(len, targets))) > limit:
            self._warned = True
            logger.warning(
                "an image has %d objects; the %d with the largest 2D boxes are trained", most, limit
            )
        kept_targets, regions = [], []
        for target, ignored in zip(targets, ignore_boxes, strict=True):
            boxes = target.gt_boxes.tensor
            kept = largest_boxes(boxes, limit)
            others = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
            others[kept] = False
            kept_targets.append(target[kept])
            regions.append(torch.cat([ignored, boxes[others]]))
        return kept_targets, regions

    def _known_classes(self, inputs: Sequence[dict[str, Any]]) -> torch.Tensor | None:
        """(B, C) bool, or None where all classes are annotated in all images."""
        if not any("known_classes" in record for record in inputs):
            return None
        known = torch.zeros(len(inputs), self.roi_heads.num_classes, dtype=torch.bool)
        for row, record in zip(known, inputs, strict=True):
            row[record.get("known_classes", slice(None))] = True
        return known.to(self.device)

    def _projections(
        self, inputs: Sequence[dict[str, Any]], image_sizes: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        """(B, 3, 4) float32, from the camera frame to pixels of the images."""
        rows = []
        for index, (record, size) in enumerate(zip(inputs, image_sizes, strict=True)):
            name = next((each for each in _CAMERAS if record.get(each) is not None), None)
            if name is not None:
                given = record[name]
            else:
                if self.training:
                    raise ValueError(
                        f"{_describe(record, index)} has no camera, neither 'projection' or 'P' "
                        "(3x4) nor 'intrinsics' or 'K' (3x3), which training needs"
                    )
                given = _nominal_intrinsics(size)
                logger.warning(
                    "%s has no camera: a focal length of %g pixels is assumed, so that depths and "
                    "sizes are right up to a factor",
                    _describe(record, index),
                    given[0, 0],
                )
            matrix = torch.as_tensor(given, dtype=torch.float32)
            if matrix.shape == (3, 3):
                matrix = torch.cat([matrix, matrix.new_zeros(3, 1)], dim=1)
            if matrix.shape != (3, 4):
                raise ValueError(
                    f"{_describe(record, index)}: its camera has the shape {tuple(matrix.shape)}; "
                    "expected 'projection' or 'P' (3, 4), or 'intrinsics' or 'K' (3, 3)"
                )
            if name in _OF_THE_RECORD:
                height, width = size
                scale_x = width / record.get("width", width)
                scale_y = height / record.get("height", height)
                matrix = resize_projection(matrix, scale_x, scale_y)
            rows.append(matrix)
        return torch.stack(rows).to(self.device)


def _describe(record: dict[str, Any], index: int) -> str:
    return f"input {index} ({record.get('file_name', 'no file_name')})"


def _nominal_intrinsics(size: tuple[int, int]) -> torch.Tensor:
    """(3, 3) of an unknown camera, as the demo of Cube R-CNN assumes it."""
    height, width = size
    focal = _NOMINAL_FOCAL * height
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def _at_output_size(instances: Instances, record: dict[str, Any]) -> Instances:
    """Boxes and projected centres in pixels of the record; all else is metric."""
    height, width = instances.image_size
    new_height, new_width = record.get("height", height), record.get("width", width)
    scale = instances.pred_center_2D.new_tensor([new_width / width, new_height / height])
    instances.pred_center_2D = instances.pred_center_2D * scale
    return detector_postprocess(instances, new_height, new_width)
