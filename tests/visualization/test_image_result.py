"""Detections and annotations become the same arrays."""

from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

from roca_nocs.visualization.image_result import from_annotations, from_output
from visualization.fake_model import output


def test_detections_of_annotations_are_the_annotations(embedded_names: Path) -> None:
    record = DatasetCatalog.get("rooms_tiny_train")[0]
    truth = from_annotations(record["annotations"])
    assert len(truth) > 1 and truth.scores is None
    found = from_output(output(record["annotations"], (120, 160)), 0.0)
    assert np.allclose(found.boxes, truth.boxes)
    assert np.array_equal(found.classes, truth.classes)
    assert np.array_equal(found.masks, truth.masks)
    assert found.alignments.cads == truth.alignments.cads
    assert np.allclose(found.alignments.poses(), truth.alignments.poses(), atol=1e-5)
    # The pose maps model to camera coordinates as docs/conventions.md says.
    point = np.array([0.1, -0.2, 0.3])
    alignments = truth.alignments
    expected = alignments.rotations[0] @ (alignments.scales[0] * point) + alignments.translations[0]
    assert np.allclose((truth.alignments.poses()[0] @ [*point, 1])[:3], expected)


def test_the_threshold_keeps_rows_together(embedded_names: Path) -> None:
    record = DatasetCatalog.get("rooms_tiny_train")[0]
    answer = output(record["annotations"], (120, 160), nocs=True)
    # The best detection comes last.
    count = len(answer["instances"])
    answer["instances"].scores = torch.linspace(0.1, 0.9, count)
    answer["wild_cad_ids"] = [("wild", str(row)) for row in range(count)]
    found = from_output(answer, 0.9 - 1e-6)
    assert len(found) == 1
    assert found.masks.shape[0] == 1 and [grid.shape for grid in found.nocs] == [(8, 8, 3)]
    assert found.alignments.cads == [answer["cad_ids"][-1]]
    assert found.alignments.wild_cads == [("wild", str(count - 1))]
    assert np.allclose(found.boxes[0], answer["instances"].pred_boxes.tensor[-1])


def test_poses_that_are_not_finite_or_not_there() -> None:
    instances = Instances((30, 40))
    instances.pred_boxes = Boxes(torch.tensor([[1.0, 2, 9, 12]] * 3))
    instances.scores = torch.tensor([0.9, 0.8, 0.7])
    instances.pred_classes = torch.tensor([0, 1, 2])
    instances.pred_translations = torch.tensor([[0, 0, 2.0], [0, 0, torch.nan], [0, 0, 2.0]])
    instances.pred_rotations = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [0.0, 0, 0, 0]])
    instances.pred_scales = torch.ones(3, 3)
    instances.has_alignment = torch.tensor([True, True, False])
    keys = [("a", "1"), ("b", "2"), ("c", "3")]
    found = from_output({"instances": instances, "cad_ids": keys}, 0.5)
    assert found.alignments.valid.tolist() == [True, False, False]
    assert found.alignments.shown_cads() == [("a", "1"), None, None]
    assert np.isfinite(found.alignments.rotations).all()
    assert found.masks is None and found.depth is None


def test_the_whole_data_base_where_the_scene_gave_nothing(embedded_names: Path) -> None:
    record = DatasetCatalog.get("rooms_tiny_train")[0]
    answer = output(record["annotations"], (120, 160))
    scene = answer["cad_ids"]
    wild = [("w", str(row)) for row in range(len(scene))]
    answer |= {"cad_ids": [None, *scene[1:]], "wild_cad_ids": wild}
    assert from_output(answer, 0).alignments.shown_cads() == [wild[0], *scene[1:]]


def test_detections_without_3d_and_no_detections() -> None:
    instances = Instances((30, 40))
    instances.pred_boxes = Boxes(torch.zeros(0, 4))
    instances.scores = torch.zeros(0)
    instances.pred_classes = torch.zeros(0, dtype=torch.int64)
    found = from_output({"instances": instances}, 0.5)
    assert len(found) == 0 and found.alignments is None and found.labels(["a"]) == []
    found = from_output(output([], (30, 40)), 0.5)
    assert len(found) == 0 and found.alignments.poses().shape == (0, 4, 4)
    assert found.alignments.quaternions().shape == (0, 4) and found.masks.shape == (0, 30, 40)
    nothing = from_annotations([])
    assert len(nothing) == 0 and nothing.alignments is None and nothing.masks is None
