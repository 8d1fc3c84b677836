"""The configs of monocular 3D boxes: they build, and that of the street trains and infers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from modeling.tiny_mono3d import narrow_mono3d, perfect_outputs
from roca_nocs.data.mono3d_mapper import Mono3DMapper
from roca_nocs.engine.config import load_config
from roca_nocs.engine.history import HistoryLogger

CONFIGS = Path(__file__).parents[2] / "configs/mono3d"
NAMES = [
    "dataloader.train.dataset.names=street_tiny_train",
    "dataloader.test.dataset.names=street_tiny_val",
]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_parts_fit_each_other(path: Path) -> None:
    model = load_config(path).model
    with torch.device("meta"):
        built = instantiate(model)
    shapes = built.backbone.output_shape()
    rpn, heads = built.proposal_generator, built.roi_heads
    assert list(rpn.in_features) == list(heads.cube_in_features) == list(heads.box_in_features)
    assert [shapes[name].stride for name in rpn.in_features] == list(rpn.anchor_generator.strides)
    scales = [1 / shapes[name].stride for name in heads.cube_in_features]
    assert list(model.roi_heads.cube_pooler.scales) == scales
    (num_anchors,) = set(rpn.anchor_generator.num_anchors)
    assert rpn.rpn_head.objectness_logits.out_channels == num_anchors


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_history_is_written(path: Path, tmp_path: Path) -> None:
    config = load_config(path, [f"train.output_dir={tmp_path}"])
    hook = instantiate(config.hooks.history)
    assert isinstance(hook, HistoryLogger)


@pytest.fixture
def street(embedded_names: Any) -> Any:
    """Configuration of the street for the tiny data, and a small model with priors of it."""
    config = load_config(CONFIGS / "street_r18.py", NAMES)
    narrow_mono3d(config.model)
    torch.manual_seed(0)
    return config, instantiate(config.model).train()


def test_street_trains_and_infers(street: Any) -> None:
    config, model = street
    dimensions = model.roi_heads.priors().dimensions
    # Cars are longer than wide, pedestrians are not much of either.
    assert 3 < dimensions[0, 2] < 6 and 1.3 < dimensions[1, 1] < 2.2
    config.dataloader.train.total_batch_size = 4
    batch = next(iter(instantiate(config.dataloader.train)))
    with EventStorage() as storage:
        losses = model(batch)
        sum(losses.values()).backward()
        # At first boxes have the usual depth of their class.
        assert storage.latest()["mono3d/depth_error"][0] < 1
    assert {"loss_box3d", "loss_yaw_category", "loss_yaw_residual"} <= losses.keys()
    assert all(loss.isfinite() for loss in losses.values())

    (batch, *_) = instantiate(config.dataloader.test)
    with torch.no_grad():
        outputs = model.eval()(batch)
    for record, output in zip(batch, outputs, strict=True):
        instances = output["instances"]
        assert instances.image_size == (record["height"], record["width"])
        assert instances.pred_box3d.shape == (len(instances), 8, 3)


def test_decoding_gives_the_label_files(street: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read, mapped, encoded, decoded: location, size and heading are those of the file."""
    _, model = street
    heads = model.eval().roi_heads
    mapper = Mono3DMapper(True, augmentations=[])
    compared = 0
    for record in DatasetCatalog.get("street_tiny_val"):
        mapped = mapper(record)
        truth, camera = mapped["instances"], mapped["projection"]
        lines = Path(record["label_file"]).read_text().splitlines()
        outputs = perfect_outputs(model, truth, camera)
        monkeypatch.setattr(heads, "_cube_outputs", lambda features, boxes, now=outputs: now)
        given = Instances(
            truth.image_size,
            pred_boxes=Boxes(truth.gt_boxes.tensor),
            pred_classes=truth.gt_classes,
            scores=torch.ones(len(truth)),
        )
        (found,) = heads.predict_boxes3d({}, [given], camera[None])
        kept = [x for x in record["annotations"] if x["bbox"][2] > x["bbox"][0]]
        assert len(kept) == len(found)
        for row, annotation in enumerate(kept):
            values = [float(x) for x in lines[annotation["annotation_id"]].split()[1:]]
            alpha, (height, width, length) = values[2], values[7:10]
            (x, bottom, z), rotation_y = values[10:13], values[13]
            center = found.pred_center_cam[row].tolist()
            assert center == pytest.approx([x, bottom - height / 2, z], abs=0.02)
            assert found.pred_dimensions[row].tolist() == pytest.approx(
                [width, height, length], abs=0.02
            )
            for angle, expected in (
                (float(found.pred_rotation_y[row]), rotation_y),
                (float(found.pred_alpha[row]), alpha),
            ):
                assert abs(math.remainder(angle - expected, 2 * math.pi)) < 0.03
            compared += 1
    assert compared > 10
