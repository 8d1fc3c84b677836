"""AlignDETR: a DINO detector whose classification learns how well its boxes fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import move_device_like
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances

from roca_nocs.modeling.criteria.matcher import Targets
from roca_nocs.modeling.transformer.align_detr_head import AlignDETRHead

__all__ = ["AlignDETR"]


@META_ARCH_REGISTRY.register()
class AlignDETR(AlignDETRHead):
    """AlignDETR (Cai et al., BMVC 2024); with another criterion, DINO.

    Each input holds ``image`` (3, H, W), in training also ``instances`` with ``gt_boxes`` and
    ``gt_classes``. Training returns weighted losses, inference per image ``instances`` at the
    record's ``height`` and ``width``: ``pred_boxes``, ``scores``, ``pred_classes``, the best
    ``select_box_nums_for_evaluation`` pairs of query and class, without suppression or threshold.

    Images of a batch are padded at the right and the bottom, see :class:`AlignDETRHead`.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        input_format: str = "RGB",
        **head: Any,
    ) -> None:
        """
        Args:
            backbone: any; the neck names the features that are used.
            pixel_mean, pixel_std: of the channels, in the order of ``input_format``.
            input_format: ``"RGB"`` or ``"BGR"``, as the data loader gives the images.
            head: arguments of :class:`AlignDETRHead`.

        Raises:
            ValueError: parts that do not fit each other.
        """
        super().__init__(backbone=backbone, **head)
        self.input_format = input_format
        self.register_buffer("pixel_mean", _per_channel(pixel_mean), False)
        self.register_buffer("pixel_std", _per_channel(pixel_std), False)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """See the class."""
        images = self.preprocess_image(batched_inputs)
        if self.training:
            targets = self.prepare_targets(
                [x["instances"] for x in batched_inputs],
                [x.get("file_name") for x in batched_inputs],
            )
            return self._losses(self.predict(images, targets), targets)
        outputs = self.predict(images)
        return [
            {
                "instances": detector_postprocess(
                    instances,
                    record.get("height", instances.image_size[0]),
                    record.get("width", instances.image_size[1]),
                )
            }
            for instances, record in zip(
                self.detections(outputs, images.image_sizes), batched_inputs, strict=True
            )
        ]

    def preprocess_image(self, batched_inputs: Sequence[dict[str, Any]]) -> ImageList:
        """Normalise the images and pad them to a batch; padding has the mean colour."""
        images = [move_device_like(x["image"], self.pixel_mean) for x in batched_inputs]
        return ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def predict(self, images: ImageList, targets: Targets | None = None) -> dict[str, Any]:
        """Features and :meth:`predict_from_features` of a padded batch."""
        pixels = images.tensor
        if pixels.device.type == "cpu" and not torch.is_grad_enabled():
            # At inference CPUs convolve a seventh faster in this layout.
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self.predict_from_features(self.backbone(pixels), images, targets)


def _per_channel(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.float32).view(-1, 1, 1)
