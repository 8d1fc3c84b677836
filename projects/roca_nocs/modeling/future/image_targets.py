"""Annotated instances of images as targets of a frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import ImageList, Instances

from roca_nocs.geometry.boxes import xyxy_to_cxcywh
from roca_nocs.layers.canvas import pad_maps
from roca_nocs.modeling.criteria.clip_matching import FrameTargets


def image_targets(
    instances: Sequence[Instances],
    padded_size: tuple[int, int],
    device: torch.device,
    *,
    masks: bool,
) -> FrameTargets:
    """
    Args:
        instances: per image ``gt_boxes``, ``gt_classes`` and, with ``masks``, ``gt_masks`` as
            bitmasks.
        padded_size: (height, width) of the batch.
        device: of the result.
        masks: read masks too.

    Raises:
        ValueError: an image has annotations without masks.
    """
    frames = []
    for each in instances:
        height, width = each.image_size
        scale = torch.tensor([width, height, width, height], device=device)
        boxes = xyxy_to_cxcywh(each.gt_boxes.tensor.to(device) / scale)
        labels = each.gt_classes.to(device)
        frame = {"boxes": boxes, "labels": labels, "ids": torch.arange(1, len(labels) + 1)}
        if masks:
            frame["masks"] = _masks(each, padded_size, device)
        frames.append(frame)
    return FrameTargets.of(frames, device)


def _masks(
    instances: Instances, padded_size: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """(N, *padded_size) bool."""
    if not instances.has("gt_masks"):
        if len(instances):
            raise ValueError(
                "an image has instances without gt_masks, which the mask head is trained with: use "
                "a mapper with masks (as bitmasks), or a detector with mask_type=None"
            )
        return torch.zeros((0, *padded_size), dtype=torch.bool, device=device)
    masks = instances.gt_masks.tensor
    return pad_maps([masks], len(masks), padded_size, device=device, dtype=torch.bool)[0]


def valid_area(images: ImageList) -> torch.Tensor:
    """(B, H, W) bool, True where a batch shows an image."""
    height, width = images.tensor.shape[-2:]
    sizes = torch.tensor(images.image_sizes, device=images.tensor.device)
    rows = torch.arange(height, device=sizes.device)[:, None] < sizes[:, 0, None, None]
    return rows & (torch.arange(width, device=sizes.device) < sizes[:, 1, None, None])
