"""From the resolution of the network input to that of the output."""

import torch
import torch.nn.functional as F
from detectron2.structures import Instances, ROIMasks


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Rescale detections to the output resolution and paste their masks.

    The boxes are rescaled in place: those of ``results`` change too. Other fields are kept for
    the boxes that remain, as they are.

    Args:
        results: ``pred_boxes`` (or ``proposal_boxes``) in pixels of ``results.image_size``, and
            optionally ``pred_masks`` ``(N, 1, S, S)`` with probabilities.
        output_height: wanted height in pixels.
        output_width: wanted width in pixels.
        mask_threshold: probability from which a pixel belongs to an object.

    Returns:
        New instances of size ``(output_height, output_width)``, without the boxes that became
        empty; ``pred_masks`` are boolean ``(N, output_height, output_width)``.
    """
    output_size = (int(output_height), int(output_width))
    scale_x = output_size[1] / results.image_size[1]
    scale_y = output_size[0] / results.image_size[0]
    results = Instances(output_size, **results.get_fields())
    box_field = "pred_boxes" if results.has("pred_boxes") else "proposal_boxes"
    assert results.has(box_field), (
        "Predictions must contain boxes: neither pred_boxes nor proposal_boxes among "
        f"{sorted(results.get_fields())}"
    )
    boxes = results.get(box_field)
    boxes.scale(scale_x, scale_y)
    boxes.clip(output_size)
    results = results[boxes.nonempty()]

    if results.has("pred_masks"):
        roi_masks = results.pred_masks
        if not isinstance(roi_masks, ROIMasks):
            roi_masks = ROIMasks(roi_masks[:, 0])
        pasted = roi_masks.to_bitmasks(results.get(box_field), *output_size, mask_threshold)
        results.pred_masks = pasted.tensor
    return results


def sem_seg_postprocess(
    result: torch.Tensor, img_size: tuple[int, int], output_height: int, output_width: int
) -> torch.Tensor:
    """Crop the padding off dense predictions and resize them.

    Args:
        result: ``(C, H, W)`` at the resolution of the padded network input.
        img_size: ``(height, width)`` before padding.
        output_height: wanted height in pixels.
        output_width: wanted width in pixels.

    Returns:
        ``(C, output_height, output_width)``, bilinear.
    """
    cropped = result[None, :, : img_size[0], : img_size[1]]
    resized = F.interpolate(
        cropped, size=(output_height, output_width), mode="bilinear", align_corners=False
    )
    return resized[0]
