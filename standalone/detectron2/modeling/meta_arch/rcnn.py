"""Two-stage detectors: backbone, proposals, heads on the proposals."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.layers import move_device_like
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from ..backbone import Backbone, build_backbone
from ..postprocessing import detector_postprocess
from ..proposal_generator import build_proposal_generator
from ..roi_heads import build_roi_heads
from .build import META_ARCH_REGISTRY

# Proposals drawn by visualize_training.
NUM_DRAWN_PROPOSALS = 20


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(nn.Module):
    """Faster R-CNN, Mask R-CNN and everything else made of the same three parts."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module | None,
        roi_heads: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str | None = None,
        vis_period: int = 0,
    ) -> None:
        """
        Args:
            backbone: images to a dict of feature maps.
            proposal_generator: features to proposals; ``None``: the input brings its own.
            roi_heads: features and proposals to detections.
            pixel_mean: per channel of the input format, range 0..255.
            pixel_std: per channel of the input format.
            input_format: channel order of the images, needed for drawing only.
            vis_period: draw ground truth and proposals every so many iterations, 0 is never.
        """
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.input_format = input_format
        self.vis_period = vis_period
        assert vis_period <= 0 or input_format is not None, (
            "input_format is required for visualization: give it or set vis_period=0"
        )
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            per_channel = torch.tensor(tuple(values), dtype=torch.float32)[:, None, None]
            self.register_buffer(name, per_channel, persistent=False)
        assert self.pixel_mean.shape == self.pixel_std.shape, (
            f"pixel_mean and pixel_std must have equal lengths, got {len(self.pixel_mean)} "
            f"and {len(self.pixel_std)}"
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the three parts from ``cfg.MODEL``, in the order of the data flow."""
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shapes),
            "roi_heads": build_roi_heads(cfg, shapes),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
        }

    @property
    def device(self) -> torch.device:
        """Where the model lives and the images are moved to."""
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """Compute losses in training, detections at inference.

        Args:
            batched_inputs: per image ``image`` ``(C, H, W)``; in training ``instances`` with
                the ground truth; ``proposals`` where there is no proposal generator; at
                inference optionally ``height`` and ``width`` of the wanted output, by default
                those of ``image``.

        Returns:
            The losses of heads and proposal generator, or per image ``{"instances": ...}``.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        gt_instances = None
        if "instances" in batched_inputs[0]:
            gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
        features = self.backbone(images.tensor)
        if self.proposal_generator is None:
            proposals, proposal_losses = self._given_proposals(batched_inputs), {}
        else:
            proposals, proposal_losses = self.proposal_generator(images, features, gt_instances)
        _, detector_losses = self.roi_heads(images, features, proposals, gt_instances)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        return {**detector_losses, **proposal_losses}

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Instances]] | list[Instances]:
        """Detect objects.

        Args:
            batched_inputs: see :meth:`forward`.
            detected_instances: per image ``pred_boxes`` and ``pred_classes``; then only the
                remaining heads (masks) run.
            do_postprocess: bring the result to the output resolution.

        Returns:
            Per image ``{"instances": ...}``, or with ``do_postprocess=False`` the instances at
            the resolution of the network input.
        """
        assert not self.training, "GeneralizedRCNN.inference needs eval mode: call eval() first"
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is not None:
            given = [x.to(self.device) for x in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, given)
        else:
            if self.proposal_generator is None:
                proposals = self._given_proposals(batched_inputs)
            else:
                proposals, _ = self.proposal_generator(images, features, None)
            results, _ = self.roi_heads(images, features, proposals, None)
        if not do_postprocess:
            return results
        return self._postprocess(results, batched_inputs, images.image_sizes)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise the images and pad them to one size the backbone accepts."""
        images = [
            (move_device_like(x["image"], self.pixel_mean) - self.pixel_mean) / self.pixel_std
            for x in batched_inputs
        ]
        return ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def visualize_training(
        self, batched_inputs: list[dict[str, Any]], proposals: list[Instances]
    ) -> None:
        """Store ground truth (left) and best proposals (right) of the first image as a picture.

        Raises:
            ImportError: the drawing library is missing.
        """
        from detectron2.utils.visualizer import Visualizer

        record, image_proposals = batched_inputs[0], proposals[0]
        image = convert_image_to_rgb(record["image"].permute(1, 2, 0), self.input_format)
        boxes = (
            record["instances"].gt_boxes.tensor,
            image_proposals.proposal_boxes.tensor[:NUM_DRAWN_PROPOSALS],
        )
        drawn = [
            torch.as_tensor(
                Visualizer(image).overlay_instances(boxes=x.cpu().numpy()).get_image().copy()
            )
            for x in boxes
        ]
        get_event_storage().put_image(
            "Left: GT bounding boxes;  Right: Predicted proposals",
            torch.cat(drawn, dim=1).permute(2, 0, 1),
        )

    def _given_proposals(self, batched_inputs: list[dict[str, Any]]) -> list[Instances]:
        """Proposals that come with the input."""
        assert "proposals" in batched_inputs[0], (
            "a model without proposal generator needs 'proposals' in every input, got "
            f"{sorted(batched_inputs[0])}"
        )
        return [x["proposals"].to(self.device) for x in batched_inputs]

    @staticmethod
    def _postprocess(
        instances: list[Instances],
        batched_inputs: list[dict[str, Any]],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[dict[str, Instances]]:
        """Rescale each image to the size its record asks for."""
        return [
            {
                "instances": detector_postprocess(
                    results, record.get("height", size[0]), record.get("width", size[1])
                )
            }
            for results, record, size in zip(instances, batched_inputs, image_sizes, strict=True)
        ]
