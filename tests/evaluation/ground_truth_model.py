"""A model that answers with the annotations of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from torch import nn

from roca_nocs.data.maps import read_map


def ground_truth_output(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a perfect model returns for the image of a record."""
    annotations = record["annotations"]
    count = len(annotations)

    def numbers(name: str, size: int) -> torch.Tensor:
        values = [each[name] for each in annotations]
        return torch.tensor(values, dtype=torch.float32).reshape(count, size)

    boxes = [
        BoxMode.convert(each["bbox"], each["bbox_mode"], BoxMode.XYXY_ABS) for each in annotations
    ]
    instances = Instances((record["height"], record["width"]))
    instances.pred_boxes = Boxes(torch.tensor(boxes).reshape(count, 4))
    instances.pred_classes = torch.tensor([each["category_id"] for each in annotations]).long()
    instances.scores = torch.ones(count)
    masks = torch.zeros(count, record["height"], record["width"], dtype=torch.bool)
    for mask, annotation in zip(masks, annotations, strict=True):
        mask |= torch.from_numpy(mask_util.decode(annotation["segmentation"])).bool()
    instances.pred_masks = masks
    instances.pred_translations = numbers("t", 3)
    instances.pred_rotations = numbers("q", 4)
    instances.pred_scales = numbers("s", 3)
    instances.has_alignment = torch.ones(count, dtype=torch.bool)
    models = [each["model"] for each in annotations]
    return {
        "instances": instances,
        "depth": torch.from_numpy(read_map(record, "depth_full")),
        "cad_ids": [(model["catid_cad"], model["id_cad"]) for model in models],
    }


class GroundTruthModel(nn.Module):
    """Answers with the annotations of a registered dataset."""

    def __init__(self, dataset_name: str) -> None:
        super().__init__()
        self.records = {record["image_id"]: record for record in DatasetCatalog.get(dataset_name)}

    def forward(self, batch: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [ground_truth_output(self.records[image["image_id"]]) for image in batch]
