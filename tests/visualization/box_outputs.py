"""What models with 3D boxes would return if they were right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from evaluation.mono3d_outputs import perfect_instances
from roca_nocs.geometry.failures import FailureReason
from roca_nocs.visualization.image_result import from_annotations


def mono3d_output(record: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations as detections of a monocular 3D model, scores falling from 0.9 on."""
    scores = iter((0.9 - 0.01 * np.arange(len(record["annotations"]))).tolist())
    return {"instances": perfect_instances(record, scores)}


def nocs_output(record: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations as detections of NOCS; the last object has no pose."""
    annotations = record["annotations"]
    truth = from_annotations(annotations)
    poses, extents = truth.alignments, [each["extents"] for each in annotations]
    count = len(truth)
    instances = Instances((record["height"], record["width"]))
    instances.pred_boxes = Boxes(torch.from_numpy(truth.boxes))
    instances.pred_classes = torch.from_numpy(truth.classes)
    instances.scores = 0.9 - 0.01 * torch.arange(count)
    instances.pred_masks = torch.from_numpy(truth.masks)
    instances.pred_nocs = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    instances.pred_rotations = torch.from_numpy(poses.rotations)
    instances.pred_translations = torch.from_numpy(poses.translations)
    instances.pred_scales = torch.from_numpy(poses.scales * np.array(extents))
    reasons = torch.zeros(count, dtype=torch.int64)
    reasons[-1] = FailureReason.TOO_FEW_POINTS
    instances.pose_reasons, instances.pose_valid = reasons, reasons == FailureReason.OK
    return {"instances": instances}
