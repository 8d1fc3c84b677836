"""What a retrieval knows of the detections.

N detections, G x G pixels per region, D numbers per shape code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["RegionPoses", "RetrievalQuery"]


@dataclass(frozen=True)
class RegionPoses:
    """Where N detections are; camera frame: x right, y down, z forward.

    Attributes:
        boxes: (N, 4) float32, XYXY in pixels, the area of the masks.
        intrinsics: (N, 3, 3) float32, pixels.
        rotations: (N, 3, 3).
        translations: (N, 3), metres.
        scales: (N, 3), metres per model unit.
    """

    boxes: torch.Tensor
    intrinsics: torch.Tensor
    rotations: torch.Tensor
    translations: torch.Tensor
    scales: torch.Tensor


@dataclass(frozen=True)
class RetrievalQuery:
    """What is known of N detections.

    Attributes:
        nocs: (N, 3, G, G) float32, predicted object coordinates.
        masks: (N, 1, G, G), pixels above 0.5 belong to the object.
        shape_code: (N, D) float32.
        poses: None where the caller has none.
    """

    nocs: torch.Tensor
    masks: torch.Tensor
    shape_code: torch.Tensor
    poses: RegionPoses | None
