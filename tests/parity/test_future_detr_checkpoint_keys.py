"""The networks have the tensors of the published checkpoints, name by name and shape by shape."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torch import nn

from roca_nocs.engine.convert_detr import (
    DETECTOR,
    rename_deformable_detr,
    rename_detr_masks,
    rename_detr_panoptic,
)
from roca_nocs.modeling.backbone.raster_resnet import build_raster_resnet
from roca_nocs.modeling.transformer.future_detector import FutureDetector

ROOT = Path(__file__).parents[2]
Rows = list[dict[str, str]]

VARIANTS = {
    "base": (40_069_665, {"with_box_refine": False}),
    "refine": (40_849_660, {}),
    "two_stage": (41_181_529, {"two_stage": True}),
    "single_scale": (34_066_593, {"with_box_refine": False, "num_feature_levels": 1}),
    "single_scale_dc5": (34_066_593, {"with_box_refine": False, "num_feature_levels": 1}),
}


def read_rows(path: Path) -> Rows:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def build_detector(variant: str, **changes: object) -> FutureDetector:
    with torch.device("meta"):
        backbone = build_raster_resnet(50, dilation=variant.endswith("dc5"))
        arguments = {"mask_type": None, **VARIANTS[variant][1], **changes}
        return FutureDetector(backbone=backbone, num_classes=91, num_queries=300, **arguments)


def published_state(rows: Rows, column: str) -> dict[str, torch.Tensor]:
    """Tensors of the published shapes, each an object of its own in next to no memory."""
    return {
        row["name"]: torch.zeros(()).expand(tuple(map(int, row[column].split("x"))))
        for row in rows
        if row[column] != "-"
    }


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def kinds_of(model: nn.Module) -> dict[str, str]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {name: "parameter" if name in parameters else "buffer" for name in model.state_dict()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_deformable_detr(golden_dir: Path, variant: str) -> None:
    rows = read_rows(golden_dir / "future_detr" / "deformable_detr_checkpoint_keys.tsv")
    state = published_state(rows, f"shape_{variant}")
    ours = build_detector(variant)
    renamed = {
        name.removeprefix(DETECTOR): tensor
        for name, tensor in rename_deformable_detr(state).items()
    }
    assert len(renamed) == len(state)
    assert shapes_of(renamed) == shapes_of(ours.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == VARIANTS[variant][0]

    names = {id(tensor): name for name, tensor in renamed.items()}
    new_names = {name: names[id(tensor)] for name, tensor in state.items()}
    kinds = {new_names[row["name"]]: row["kind"] for row in rows if row["name"] in state}
    assert kinds == kinds_of(ours)
    column = f"alias_of_{variant}"
    if column in rows[0]:
        groups = tensors_of_several_names(ours)
        expected: dict[str, set[str]] = {}
        for row in rows:
            if row["name"] in state and row[column] != "-":
                target = new_names[row[column]]
                expected.setdefault(target, {target}).add(new_names[row["name"]])
        assert sorted(map(sorted, expected.values())) == sorted(map(sorted, groups))


def tensors_of_several_names(model: nn.Module) -> list[set[str]]:
    found: dict[int, set[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), set()).add(name)
    return [names for names in found.values() if len(names) > 1]


def test_detr_panoptic(golden_dir: Path) -> None:
    rows = read_rows(golden_dir / "future_detr" / "detr_segm_checkpoint_keys.tsv")
    state = published_state(rows, "shape")
    config = LazyConfig.load(str(ROOT / "configs/common/models/detr_panoptic_r50.py")).model
    with torch.device("meta"):
        ours = instantiate(config)
    renamed = rename_detr_panoptic(state)
    assert len(renamed) == len(state) == len(rows)
    assert shapes_of(renamed) == shapes_of(ours.state_dict())
    count = sum(p.numel() for p in ours.parameters())
    assert count == 42_899_288
    assert sum(b.numel() for b in ours.state_dict().values()) - count == 106_240


def test_mask_head_of_detr(golden_dir: Path) -> None:
    """Of the panoptic model the mask head fits FutureDETR on the same backbone."""
    rows = read_rows(golden_dir / "future_detr" / "detr_segm_checkpoint_keys.tsv")
    masks = rename_detr_masks(published_state(rows, "shape"))
    ours = build_detector("refine", mask_type="conv")
    own = {
        DETECTOR + name: tensor
        for name, tensor in ours.state_dict().items()
        if name.startswith(("bbox_attention.", "mask_head."))
    }
    assert shapes_of(masks) == shapes_of(own)
    assert sum(p.numel() for p in ours.mask_head.parameters()) == 1_202_073
    assert sum(p.numel() for p in ours.bbox_attention.parameters()) == 131_584
