"""A model that answers with the ground truth of a dataset, in the form of ROCA's output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from torch import nn

from roca_nocs.data.images import read_color
from roca_nocs.data.maps import read_map
from roca_nocs.structures.cad_database import CadDatabase
from roca_nocs.visualization.image_result import from_annotations

ROOT = Path(__file__).parents[2]

_CONFIG = """
from detectron2.config import LazyCall as L, LazyConfig
from visualization.fake_model import FakeROCA

_common = r"{root}/configs/common"
dataloader = LazyConfig.load(_common + "/data_rooms.py", "dataloader")
dataloader.test.dataset.names = "{dataset}"
dataloader.test.mapper.image_format = "RGB"
model = L(FakeROCA)(dataset="{dataset}", nocs={nocs})
optimizer = LazyConfig.load(_common + "/optim.py", "adamw")
lr_multiplier = LazyConfig.load(_common + "/schedule.py", "flat_then_cosine")
train = LazyConfig.load(_common + "/train.py", "train")
"""


def write_config(folder: Path, dataset: str, *, nocs: bool = False) -> list[str]:
    """Options of tools/demo.py for a :class:`FakeROCA` with weights on disk."""
    config, weights = folder / "fake.py", folder / "fake.pth"
    config.write_text(_CONFIG.format(root=ROOT, dataset=dataset, nocs=nocs))
    torch.save({"model": FakeROCA(dataset).state_dict()}, weights)
    return ["--config-file", str(config), "--weights", str(weights)]


class FakeROCA(nn.Module):
    """Recognises the images of a dataset by their pixels; finds nothing in any other."""

    def __init__(self, dataset: str, nocs: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.nocs = nocs
        self.database: CadDatabase | None = None
        self.records: dict[bytes, dict[str, Any]] = {}
        self.dataset = dataset

    def set_cad_database(self, database: CadDatabase) -> None:
        self.database = database

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not self.records:
            for record in DatasetCatalog.get(self.dataset):
                self.records[read_color(record, "RGB").tobytes()] = record
        return [self._answer(each) for each in inputs]

    def _answer(self, data: dict[str, Any]) -> dict[str, Any]:
        assert data["intrinsics"].shape == (3, 3) and self.database is not None
        size = data["height"], data["width"]
        record = self.records.get(data["image"].permute(1, 2, 0).numpy().tobytes())
        if record is None:
            return {**output([], size, nocs=self.nocs), "depth": torch.ones(size)}
        answer = output(record["annotations"], size, nocs=self.nocs)
        # As the real model: a model that the data base does not have cannot be retrieved, and
        # without a scene the whole data base is searched.
        found = [key if key in self.database.keys else None for key in answer["cad_ids"]]
        answer["wild_cad_ids"] = found
        if data.get("scene_id") not in self.database.scenes:
            answer["cad_ids"] = [None] * len(found)
        return {**answer, "depth": torch.from_numpy(read_map(record, "depth_full"))}


def output(
    annotations: list[dict[str, Any]], size: tuple[int, int], *, nocs: bool = False
) -> dict[str, Any]:
    """The annotations as instances with falling scores from 0.9 on."""
    truth = from_annotations(annotations)
    count = len(truth)
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.from_numpy(truth.boxes).float())
    instances.scores = 0.9 - 0.01 * torch.arange(count)
    instances.pred_classes = torch.from_numpy(truth.classes)
    masks = torch.zeros((0, *size), dtype=torch.bool)
    poses = [torch.zeros(0, columns) for columns in (3, 4, 3)]
    if count:
        masks = torch.from_numpy(truth.masks)
        alignments = truth.alignments
        arrays = alignments.translations, alignments.quaternions(), alignments.scales
        poses = [torch.from_numpy(array).float() for array in arrays]
    instances.pred_masks = masks
    instances.pred_translations, instances.pred_rotations, instances.pred_scales = poses
    instances.has_alignment = torch.ones(count, dtype=torch.bool)
    if nocs:
        instances.pred_nocs = torch.full((count, 3, 8, 8), 0.5)
    cads = list(truth.alignments.cads) if count else []
    return {"instances": instances, "cad_ids": cads}
