"""The NOCS evaluator on the tiny tabletops, fed with their annotations."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.maps import read_map
from roca_nocs.evaluation import NocsEvaluator
from roca_nocs.evaluation.nocs_evaluator import RESULTS_FOLDER, join_poses, posed_objects
from roca_nocs.evaluation.nocs_metrics import SymmetryRule
from roca_nocs.evaluation.nocs_precision import pose_precision
from roca_nocs.evaluation.nocs_results import read_results
from roca_nocs.evaluation.summary import NOCS_ROWS, find_metric
from roca_nocs.geometry.box3d import IOU_MODES
from roca_nocs.geometry.failures import FailureReason
from roca_nocs.geometry.rotation import quaternion_to_matrix

NAME, TRAIN = "tabletop_tiny_val", "tabletop_tiny_train"
GRID = 28
Batch = list[tuple[dict[str, Any], dict[str, Any]]]


def perfect_output(record: Mapping[str, Any]) -> dict[str, Any]:
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
    instances.scores = torch.linspace(1, 0.5, count)
    instances.pred_rotations = quaternion_to_matrix(numbers("q", 4))
    instances.pred_translations = numbers("t", 3)
    instances.pred_scales = numbers("s", 3) * numbers("extents", 3)
    instances.pose_valid = torch.ones(count, dtype=torch.bool)
    instances.pose_reasons = torch.zeros(count, dtype=torch.int64)
    masks = torch.zeros(count, record["height"], record["width"], dtype=torch.bool)
    coordinates = torch.zeros(count, 3, GRID, GRID)
    nocs = torch.from_numpy(read_map(record, "nocs")) + 0.5
    steps = (torch.arange(GRID) + 0.5) / GRID
    for row, (annotation, (x1, y1, x2, y2)) in enumerate(zip(annotations, boxes, strict=True)):
        masks[row] = torch.from_numpy(mask_util.decode(annotation["segmentation"])).bool()
        rows, columns = (y1 + (y2 - y1) * steps).long(), (x1 + (x2 - x1) * steps).long()
        coordinates[row] = nocs[rows[:, None], columns].permute(2, 0, 1)
    instances.pred_masks = masks
    instances.pred_nocs = coordinates
    return {"instances": instances}


@pytest.fixture
def batch(embedded_names: Path) -> Batch:
    return [(record, perfect_output(record)) for record in DatasetCatalog.get(NAME)]


def run(evaluator: NocsEvaluator, batch: Batch) -> dict[str, dict[str, float]]:
    evaluator.reset()
    for image, output in batch:
        evaluator.process([{"image_id": image["image_id"]}], [output])
    return evaluator.evaluate()


def noisy(batch: Batch, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    for _, output in batch:
        instances = output["instances"]
        offsets = torch.randn(len(instances), 3, generator=generator)
        instances.pred_translations = instances.pred_translations + 0.03 * offsets
        spins = torch.randn(len(instances), 4, generator=generator) * 0.05
        spins[:, 0] = 1
        turn = quaternion_to_matrix(torch.nn.functional.normalize(spins, dim=1))
        instances.pred_rotations = turn @ instances.pred_rotations
        instances.scores = torch.rand(len(instances), generator=generator)
    return batch


def without_nan(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not math.isnan(value)}


def test_perfect_predictions_have_exactly_100_percent(batch: Batch) -> None:
    results = run(NocsEvaluator(NAME, iou_modes=IOU_MODES), batch)
    tasks = [f"{what}_{mode}" for what in ("iou3d", "pose") for mode in IOU_MODES]
    for task in (*tasks, "pose_detection"):
        values = without_nan(results[task])
        assert set(values.values()) == {100.0}, task
    assert {"IoU25", "IoU50", "IoU75", "IoU75-mug"} <= results["iou3d_aabb"].keys()
    pose_names = {"5deg_2cm", "5deg_5cm", "10deg_2cm", "10deg_5cm", "10deg_10cm", "15deg_10cm"}
    assert pose_names | {"5deg_any", "any_5cm", "any_5cm-can"} <= results["pose_nocs"].keys()
    assert set(without_nan(results["nocs_coordinates"]).values()) == {0.0}
    failures = results["pose_failures"]
    count = sum(len(record["annotations"]) for record, _ in batch)
    assert failures.pop("detections") == count > 30
    assert set(failures.values()) == {0}


def test_trivial_predictors_are_worse(batch: Batch) -> None:
    results = run(NocsEvaluator(NAME, TRAIN), batch)
    trivial = results["trivial_predictors"]
    for name in ("identity_rotation", "mean_pose_per_class"):
        assert trivial[f"{name}-pose_detection_5deg_5cm"] < 20
        assert trivial[f"{name}-iou3d_aabb_IoU75"] < 70
    # The translations are the model's own.
    assert trivial["identity_rotation-pose_detection_any_5cm"] == 100
    assert trivial["mean_pose_per_class-pose_detection_any_5cm"] < 90
    # Everything that tables of results show of such models.
    for row in NOCS_ROWS:
        assert find_metric(results, row.keys[0]) is not None, row


def test_failed_poses_are_kept_and_counted(batch: Batch, caplog: pytest.LogCaptureFixture) -> None:
    failed = 0
    for _, output in batch:
        instances = output["instances"]
        if failed < 4 and len(instances) > 1:
            instances.pose_valid[0] = False
            instances.pose_reasons[0] = FailureReason.NO_VALID_DEPTH
            instances.pred_scales[0] = 0
            failed += 1
        elif failed == 4 and len(instances):
            # Not declared as a failure, but no pose either.
            instances.pred_rotations[0, 1, 1] = torch.nan
            failed += 1
    with caplog.at_level("INFO"):
        results = run(NocsEvaluator(NAME, iou_modes=IOU_MODES), batch)
    assert results["pose_failures"]["failed"] == 4
    assert results["pose_failures"]["NO_VALID_DEPTH"] == 4
    assert "NO_VALID_DEPTH 4" in caplog.text
    for mode in IOU_MODES:
        # A miss costs nothing in the published protocol.
        assert results[f"pose_{mode}"]["5deg_2cm"] == 100
        assert 0 < results[f"iou3d_{mode}"]["IoU25"] < 100
    assert results["pose_detection"]["any_5cm"] < 100


def test_order_and_processes_do_not_matter(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    noisy(batch)
    straight = run(NocsEvaluator(NAME, TRAIN), batch)
    assert 0 < straight["pose_detection"]["5deg_5cm"] < 100
    shuffled = []
    for record, output in batch[::-1]:
        order = torch.arange(len(output["instances"])).flip(0)
        shuffled.append((record, {"instances": output["instances"][order]}))
    parts = [NocsEvaluator(NAME, TRAIN) for _ in range(2)]
    for rank, evaluator in enumerate(parts):
        for image, output in shuffled[rank::2]:
            evaluator.process([{"image_id": image["image_id"]}], [output])
    monkeypatch.setattr(comm, "gather", lambda data, dst: [each._results for each in parts])
    joined = parts[0].evaluate()
    assert joined.keys() == straight.keys()
    for task, metrics in straight.items():
        assert metrics == pytest.approx(joined[task], abs=1e-9, nan_ok=True)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert parts[1].evaluate() is None


def test_no_detections_and_no_images(batch: Batch) -> None:
    empty = [(record, {"instances": output["instances"][:0]}) for record, output in batch]
    results = run(NocsEvaluator(NAME, TRAIN), empty)
    for task in ("iou3d_nocs", "iou3d_aabb", "pose_nocs", "pose_detection"):
        assert set(without_nan(results[task]).values()) == {0.0}
    assert results["pose_failures"]["detections"] == 0
    assert math.isnan(results["nocs_coordinates"]["mean"])
    assert run(NocsEvaluator(NAME), []) == {}


def test_symmetries_of_the_metadata_count(batch: Batch) -> None:
    """A quarter turn of laptops costs nothing where the dataset says so."""
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    for _, output in batch:
        output["instances"].pred_rotations = output["instances"].pred_rotations @ turn
    plain = run(NocsEvaluator(NAME), batch)["pose_detection"]
    metadata = MetadataCatalog.get(NAME)
    symmetries = {**metadata.symmetries, "laptop": {"axis": "y", "order": 4}}
    MetadataCatalog.pop(NAME)
    MetadataCatalog.get(NAME).set(**{**metadata.as_dict(), "symmetries": symmetries})
    results = run(NocsEvaluator(NAME), batch)["pose_detection"]
    assert plain["5deg_5cm-laptop"] == 0 and results["5deg_5cm-laptop"] == 100
    assert plain["5deg_5cm-bottle"] == results["5deg_5cm-bottle"] == 100
    assert results["5deg_5cm-camera"] == 0


def test_classes_without_annotations_are_named(
    batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        run(NocsEvaluator(NAME), batch)
    assert "Classes without annotations" not in caplog.text
    evaluator = NocsEvaluator(NAME)
    for record in evaluator._records.values():
        record["annotations"] = [a for a in record["annotations"] if a["category_id"] not in (0, 5)]
    with caplog.at_level("INFO"):
        run(evaluator, batch)
    assert "Classes without annotations, which have no AP: bottle, mug." in caplog.text


def test_images_without_poses_are_left_out(batch: Batch, caplog: pytest.LogCaptureFixture) -> None:
    evaluator = NocsEvaluator(NAME)
    changed = [each for each in evaluator._records.values() if each["annotations"]]
    for record in changed[:3]:
        del record["annotations"][0]["q"]
    results = run(evaluator, batch)
    assert f"left out 3 of {len(batch)} images" in caplog.text
    assert results["pose_detection"]["5deg_2cm"] == 100
    for record in changed[3:]:
        del record["annotations"][0]["q"]
    only_posed = [pair for pair in batch if pair[0]["annotations"]]
    with pytest.raises(DatasetError, match=f"{NAME} has no poses"):
        run(evaluator, only_posed)


def test_coordinates(batch: Batch) -> None:
    """An error of 0.1 along y is 10 % of the diagonal, up to the symmetry of round objects."""
    for _, output in batch:
        output["instances"].pred_nocs[:, 1] += 0.1
    results = run(NocsEvaluator(NAME), batch)["nocs_coordinates"]
    for value in without_nan(results).values():
        assert value == pytest.approx(10, abs=1e-3)
    # Foreign classes and worse detections of the same object do not count.
    for _, output in batch:
        instances = output["instances"]
        worse = Instances.cat([instances, instances]) if len(instances) else instances
        count = len(instances)
        worse.pred_nocs[count:] = 7.0
        worse.scores[count:] *= 0.1
        output["instances"] = worse
    assert run(NocsEvaluator(NAME), batch)["nocs_coordinates"] == pytest.approx(
        results, nan_ok=True
    )


def test_published_files(batch: Batch, tmp_path: Path) -> None:
    noisy(batch)
    batch[0][1]["instances"].pose_valid[:1] = False
    evaluator = NocsEvaluator(NAME, output_dir=str(tmp_path), iou_modes=["aabb"])
    results = run(evaluator, batch)
    pred, gt, names = read_results(tmp_path / RESULTS_FOLDER)
    assert len(names) == len(batch) and names[0] == "results_val_00000_0000.pkl"
    rule = SymmetryRule.of_classes(evaluator._classes)
    precision = pose_precision(pred, gt, rule, modes=["aabb"])
    wanted = [results["iou3d_aabb"][f"IoU50-{name}"] for name in evaluator._classes]
    np.testing.assert_allclose(100 * precision.iou["aabb"][:, 1], wanted, atol=1e-9)
    wanted = [results["pose_aabb"][f"5deg_5cm-{name}"] for name in evaluator._classes]
    np.testing.assert_allclose(100 * precision.matched["aabb"][:, 0, 1], wanted, atol=1e-9)
    detections = posed_objects(join_poses(list(evaluator.gather().values())))
    np.testing.assert_array_equal(pred.posed, detections.posed)
    np.testing.assert_allclose(pred.sizes[pred.posed], detections.sizes[pred.posed], rtol=1e-5)


def test_bad_result_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no files"):
        read_results(tmp_path)
    path = tmp_path / "results_val_00000_0000.pkl"
    good = {
        "gt_class_ids": [1],
        "gt_RTs": np.eye(4)[None],
        "gt_scales": np.ones((1, 3)),
        "pred_class_ids": [1],
        "pred_RTs": np.eye(4)[None],
        "pred_scales": np.ones((1, 3)),
        "pred_scores": [0.5],
    }
    for change, message in (
        ({"pred_scores": [0.5, 0.6]}, "2 values of 'pred_scores' for 1 objects"),
        ({"gt_RTs": np.ones(3)}, "'gt_RTs' is missing or has another shape"),
        (None, "holds a list"),
    ):
        path.write_bytes(pickle.dumps([] if change is None else good | change))
        with pytest.raises(DatasetError, match=message):
            read_results(tmp_path)
    path.write_bytes(pickle.dumps(good))
    pred, gt, _ = read_results(tmp_path)
    assert pred.posed.all() and gt.handle_visible.all()


def test_bad_outputs(batch: Batch) -> None:
    record, output = batch[0]
    output["instances"].remove("pose_valid")
    with pytest.raises(ValueError, match=r"image_id=.*has no pose_valid.*NOCS head"):
        run(NocsEvaluator(NAME), [(record, output)])
    with pytest.raises(ValueError, match=f"'unknown'.*not an image of {NAME}"):
        run(NocsEvaluator(NAME), [({**record, "image_id": "unknown"}, output)])
    with pytest.raises(ValueError, match=r"unknown iou_modes \['giou'\]"):
        NocsEvaluator(NAME, iou_modes=["giou"])
