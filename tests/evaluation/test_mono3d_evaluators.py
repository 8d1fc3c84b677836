"""The evaluators of 3D boxes on a made-up street, fed with its annotations."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators
from detectron2.structures import Instances

from evaluation.mono3d_outputs import Batch, noisy, perfect_batch, run, write_street
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.kitti import CLASSES, load_kitti
from roca_nocs.evaluation import KittiEvaluator, Omni3DEvaluator
from roca_nocs.evaluation.kitti_ap import METRICS, kitti_precision
from roca_nocs.evaluation.kitti_evaluator import RESULTS_FOLDER
from roca_nocs.evaluation.mono3d_trivial import axial_mean, class_boxes
from roca_nocs.evaluation.mono3d_writers import (
    read_kitti_objects,
    read_omni3d_results,
    write_omni3d_results,
)
from roca_nocs.evaluation.omni3d_ap import IN_SPACE, omni3d_precision
from roca_nocs.evaluation.omni3d_evaluator import RESULTS_FILE, annotated_truth
from roca_nocs.evaluation.summary import MONO3D_ROWS, find_metric
from roca_nocs.geometry.cuboids import rotation_from_yaw

NAME, TEST = "made_up_street_val", "made_up_street_test"
NUM_IMAGES = 46
IDS = {3: 0, 7: 1, 12: 2}


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("street")
    write_street(root, NUM_IMAGES)
    write_street(root, 2, "test")
    for name, split in ((NAME, "val"), (TEST, "test")):
        records = load_kitti(root, split)
        DatasetCatalog.register(name, lambda records=records: copy.deepcopy(records))
        MetadataCatalog.get(name).set(
            thing_classes=list(CLASSES), thing_dataset_id_to_contiguous_id=IDS
        )
    yield root
    for name in (NAME, TEST):
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


@pytest.fixture
def batch(street: Path) -> Batch:
    return perfect_batch(DatasetCatalog.get(NAME))


def kitti_tasks(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {f"kitti_{m}_R{r}": results[f"kitti_{m}_R{r}"] for m in METRICS for r in (40, 11)}


def assert_same(one: Mapping[str, Any], other: Mapping[str, Any], tolerance: float = 0) -> None:
    assert one.keys() == other.keys()
    for task, values in one.items():
        for name, value in values.items():
            assert other[task][name] == pytest.approx(value, abs=tolerance, nan_ok=True), (
                task,
                name,
            )


def test_kitti_annotations_reach_100(batch: Batch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        results = run(KittiEvaluator(NAME, NAME), batch)
    assert min(results["kitti_annotated"].values()) == NUM_IMAGES - 1 >= 41
    for task, values in kitti_tasks(results).items():
        assert len(values) == 12
        np.testing.assert_allclose(list(values.values()), 100, atol=1e-9, err_msg=task)
    errors = results["kitti_errors"]
    assert errors["rotation"] < 1e-5
    assert errors["depth"] == errors["dimensions"] == 0
    assert errors["matched"] == results["kitti_counts"]["hits_3d"] == 3 * (NUM_IMAGES - 1)
    trivial = results["kitti_trivial_predictors"]
    assert trivial["class_mean_box-2d_R40_moderate"] == pytest.approx(100)
    assert trivial["class_mean_box-3d_strict_R40_moderate"] < 5
    assert trivial["class_mean_box-depth"] > 10
    assert "class_mean_box" in caplog.text
    assert "annotated" in caplog.text


def test_headings_turned_round(batch: Batch) -> None:
    expected = kitti_tasks(run(KittiEvaluator(NAME), batch))
    for _, instances in batch:
        instances.pred_rotation_y = instances.pred_rotation_y + math.pi
        instances.pred_alpha = instances.pred_alpha + math.pi
        instances.pred_R = rotation_from_yaw(instances.pred_rotation_y)
    found = kitti_tasks(run(KittiEvaluator(NAME), batch))
    for recalls in (40, 11):
        values = found.pop(f"kitti_aos_R{recalls}"), expected.pop(f"kitti_aos_R{recalls}")
        np.testing.assert_allclose(list(values[0].values()), 0, atol=1e-9)
        np.testing.assert_allclose(list(values[1].values()), 100, atol=1e-9)
    assert_same(found, expected, tolerance=1e-9)


@pytest.mark.parametrize("evaluator", [KittiEvaluator, Omni3DEvaluator])
def test_order_does_not_matter(batch: Batch, evaluator: type) -> None:
    batch = noisy(batch)
    expected = run(evaluator(NAME, NAME), batch)
    shuffled = [
        (record, instances[torch.randperm(len(instances))]) for record, instances in reversed(batch)
    ]
    assert_same(expected, run(evaluator(NAME, NAME), shuffled), tolerance=1e-9)
    key = "kitti_3d_loose_R40" if evaluator is KittiEvaluator else "omni3d_3d"
    assert 5 < next(iter(expected[key].values())) < 95


def test_kitti_files_can_be_evaluated_again(batch: Batch, street: Path, tmp_path: Path) -> None:
    batch = noisy(batch)
    results = run(KittiEvaluator(NAME, output_dir=str(tmp_path)), batch)
    records = [record for record, _ in batch]
    paths = [tmp_path / RESULTS_FOLDER / f"{record['scene_id']}.txt" for record in records]
    assert sorted(paths) == sorted((tmp_path / RESULTS_FOLDER).iterdir())
    assert paths[-1].read_text() == ""
    line = paths[0].read_text().splitlines()[0].split()
    first = batch[0][1]
    assert len(line) == 16
    assert line[0] == CLASSES[first.pred_classes[0]]
    width, height, length = first.pred_dimensions[0].tolist()
    bottom = first.pred_center_cam[0] + torch.tensor([0, height / 2, 0])
    written = [float(word) for word in line[1:]]
    expected = [-1, -1, first.pred_alpha[0], *first.pred_boxes.tensor[0], height, width, length]
    expected += [*bottom, first.pred_rotation_y[0], first.scores[0]]
    np.testing.assert_allclose(written, [float(value) for value in expected], atol=6e-4)

    truth = read_kitti_objects([record["label_file"] for record in records])
    again = kitti_precision(read_kitti_objects(paths), truth)
    for metric in METRICS:
        values = list(results[f"kitti_{metric}_R40"].values())[3:]
        np.testing.assert_allclose(again.average(metric, 40).ravel(), values, atol=0.5)


def test_kitti_test_split_is_only_written(street: Path, tmp_path: Path) -> None:
    records = DatasetCatalog.get(TEST)
    evaluator = KittiEvaluator(TEST, output_dir=str(tmp_path))
    assert run(evaluator, perfect_batch(records)) == {}
    assert len(list((tmp_path / RESULTS_FOLDER).iterdir())) == len(records)


@pytest.mark.parametrize("evaluator", [KittiEvaluator, Omni3DEvaluator])
def test_wrong_inputs(batch: Batch, evaluator: type) -> None:
    record, instances = batch[0]
    model = evaluator(NAME)
    with pytest.raises(ValueError, match=f"not an image of {NAME}"):
        model.process([{"image_id": 99999}], [{"instances": instances}])
    instances.remove("pred_alpha")
    with pytest.raises(ValueError, match="has no pred_alpha; 3D boxes need a model with a cube"):
        model.process([record], [{"instances": instances}])
    assert model.evaluate() == {}


def test_kitti_needs_one_of_its_classes(street: Path) -> None:
    MetadataCatalog.pop(NAME)
    try:
        MetadataCatalog.get(NAME).thing_classes = ["chair"]
        with pytest.raises(ValueError, match=r"classes \['chair'\]; KITTI evaluates"):
            KittiEvaluator(NAME)
    finally:
        MetadataCatalog.pop(NAME)
        MetadataCatalog.get(NAME).set(
            thing_classes=list(CLASSES), thing_dataset_id_to_contiguous_id=IDS
        )


def test_omni3d_annotations_reach_100(batch: Batch) -> None:
    results = run(Omni3DEvaluator(NAME, NAME), batch)
    for task in ("omni3d_3d", "omni3d_2d"):
        # At most one object per image and class.
        values = {k: v for k, v in results[task].items() if not math.isnan(v)}
        np.testing.assert_allclose(list(values.values()), 100, atol=1e-9)
        assert {"AP", "AP50", "AR1", "AP-Car"} <= values.keys()
    assert {"APmedium", "APnear"} <= results["omni3d_3d"].keys()
    assert math.isnan(results["omni3d_3d"]["APfar"])
    assert 0 < results["omni3d_trivial_predictors"]["class_mean_box-3d_AP"] < 60


def test_both_benchmarks_in_one_evaluation(street: Path) -> None:
    """As the config of the street asks for. Vans are no cars, but they are no mistakes either."""
    everything = perfect_batch(
        [{**r, "annotations": r["annotations"] + r["ignored"]} for r in DatasetCatalog.get(NAME)]
    )
    assert sum(len(each) for _, each in everything) == 4 * (NUM_IMAGES - 1)
    both = [KittiEvaluator(NAME, NAME), Omni3DEvaluator(NAME, NAME)]
    results = run(DatasetEvaluators(both), everything)
    assert results["kitti_3d_strict_R40"]["Car-moderate"] == pytest.approx(100)
    assert results["omni3d_3d"]["AP-Car"] == results["omni3d_2d"]["AP-Car"] == pytest.approx(100)
    # Everything that tables of results show of such models is there, beside the mean box.
    for row in MONO3D_ROWS:
        assert None not in [find_metric(results, key) for key in row.keys], row


def test_omni3d_ignored_objects_and_unknown_classes(street: Path) -> None:
    records = DatasetCatalog.get(NAME)
    extra = []
    for number, record in enumerate(records):
        record["known_classes"] = [0, 1]
        record["dataset_id"] = number % 2
        # Pedestrians do not count, neither when they are found nor when they are not.
        record["ignored"] = [a for a in record["annotations"] if a["category_id"] == 1]
        extra += record["ignored"]
        record["annotations"] = [a for a in record["annotations"] if a["category_id"] != 1]
        for each in record["annotations"]:
            each["has3d"] = each["category_id"] != 2
    name = "made_up_street_mixed"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = list(CLASSES)
    try:
        everything = perfect_batch(DatasetCatalog.get(NAME))
        results = run(Omni3DEvaluator(name), everything)
        cars = [(record, each[each.pred_classes == 0]) for record, each in everything]
        only_cars = run(Omni3DEvaluator(name), cars)
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
    assert extra
    for found in (results, only_cars):
        assert found["omni3d_3d"]["AP"] == found["omni3d_3d"]["AP-Car"] == pytest.approx(100)
        assert math.isnan(found["omni3d_3d"]["AP-Pedestrian"])
        assert math.isnan(found["omni3d_3d"]["AP-Cyclist"])
        assert found["omni3d_by_dataset"] == pytest.approx(
            {f"{what}-{number}": 100 for what in ("AP3D", "AP2D") for number in (0, 1)}
        )


@pytest.fixture
def two_parts(street: Path) -> Iterator[list[str]]:
    """The street in two datasets: the second knows no cyclists and is not exhaustive."""
    names = ["made_up_part_a", "made_up_part_b"]
    records = DatasetCatalog.get(NAME)
    for name, rows, ids in zip(
        names, (slice(0, 20), slice(20, None)), (IDS, {3: 0, 7: 1}), strict=True
    ):
        part = records[rows]
        for record in part:
            record["known_classes"] = sorted(ids.values())
            known = [a for a in record["annotations"] if a["category_id"] in ids.values()]
            record["annotations"] = known
        DatasetCatalog.register(name, lambda part=part: copy.deepcopy(part))
        MetadataCatalog.get(name).set(
            thing_classes=list(CLASSES),
            thing_dataset_id_to_contiguous_id=ids,
            exhaustive=name == names[0],
        )
    yield names
    for name in names:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def test_several_datasets_count_as_one(batch: Batch, two_parts: list[str], tmp_path: Path) -> None:
    # Cyclists are detected everywhere, though the second dataset has no annotations of them.
    results = run(Omni3DEvaluator(two_parts, two_parts, str(tmp_path)), batch)
    assert results["omni3d_3d"]["AP"] == results["omni3d_2d"]["AP"] == pytest.approx(100)
    assert results["omni3d_3d"]["AP-Cyclist"] == pytest.approx(100)
    assert 0 < results["omni3d_trivial_predictors"]["class_mean_box-3d_AP"] < 60
    rows = json.loads((tmp_path / RESULTS_FILE).read_text())
    assert {row["category_id"] for row in rows} == set(IDS)
    cyclists = {row["image_id"] for row in rows if row["category_id"] == 12}
    assert cyclists == {each["image_id"] for each in DatasetCatalog.get(two_parts[0])}


@pytest.mark.parametrize(("part", "forgiven"), [(0, False), (1, True)])
def test_far_detections_are_forgiven_where_annotations_are_not_exhaustive(
    batch: Batch, two_parts: list[str], part: int, forgiven: bool
) -> None:
    images = {each["image_id"] for each in DatasetCatalog.get(two_parts[part])}
    for row, (record, instances) in enumerate(batch):
        if record["image_id"] not in images or not len(instances):
            continue
        extra = instances[instances.pred_classes == 0][:]
        extra.scores = extra.scores + 1.0  # above all others
        extra.pred_boxes.tensor[:, [1, 3]] += 2000.0
        extra.pred_center_cam = extra.pred_center_cam + 50.0
        batch[row] = (record, Instances.cat([instances, extra]))
    found = run(Omni3DEvaluator(two_parts), batch)["omni3d_3d"]["AP-Car"]
    assert (found == pytest.approx(100)) == forgiven


def test_datasets_that_do_not_go_together(two_parts: list[str]) -> None:
    one, other = two_parts
    with pytest.raises(ValueError, match=f"{one} has images with ids of another dataset"):
        Omni3DEvaluator([NAME, one])
    metadata = MetadataCatalog.get(other).as_dict()
    for changed, message in (
        ({"thing_classes": ["chair"]}, r"\['chair'\].*need the same ones"),
        ({"thing_dataset_id_to_contiguous_id": {7: 0}}, "means Car by the category id 7"),
    ):
        MetadataCatalog.pop(other)
        kept = {key: value for key, value in metadata.items() if key != "name"}
        MetadataCatalog.get(other).set(**(kept | changed))
        with pytest.raises(ValueError, match=message):
            Omni3DEvaluator(two_parts)


def test_omni3d_file_can_be_evaluated_again(batch: Batch, tmp_path: Path) -> None:
    batch = noisy(batch)
    results = run(Omni3DEvaluator(NAME, output_dir=str(tmp_path / "new")), batch)
    records = [record for record, _ in batch]
    path = tmp_path / "new" / RESULTS_FILE
    pred = read_omni3d_results(path, records, IDS)
    again = omni3d_precision(pred, *annotated_truth(records), len(CLASSES), IN_SPACE)
    assert 100 * again.summary()["AP"] == pytest.approx(results["omni3d_3d"]["AP"], abs=1e-9)

    rows = json.loads(path.read_text())
    row, instances = rows[0], batch[0][1]
    assert list(row) == [
        *("image_id", "category_id", "bbox", "score", "depth", "bbox3D", "center_cam"),
        *("center_2D", "dimensions", "pose"),
    ]
    assert row["category_id"] == list(IDS)[instances.pred_classes[0]]
    assert row["depth"] == pytest.approx(float(instances.pred_center_cam[0, 2]))
    projected = np.asarray(records[0]["projection"]) @ [*row["center_cam"], 1]
    np.testing.assert_allclose(row["center_2D"], projected[:2] / projected[2])

    for change, message in (
        ({"category_id": 4}, "detection 0: the dataset has no category_id 4"),
        ({"pose": [1, 2]}, "detection 0: 'pose' has the wrong length"),
    ):
        path.write_text(json.dumps([row | change]))
        with pytest.raises(DatasetError, match=message):
            read_omni3d_results(path, records, IDS)
    with pytest.raises(ValueError, match=r"classes \[2\].*has no id"):
        write_omni3d_results(path, records, pred, {3: 0, 7: 1})
    path.write_text("{}")
    with pytest.raises(DatasetError, match="not a list"):
        read_omni3d_results(path, records, IDS)


def test_an_object_behind_the_camera_has_no_pixel(batch: Batch, tmp_path: Path) -> None:
    record, instances = batch[0]
    instances.pred_center_cam = -instances.pred_center_cam
    results = run(Omni3DEvaluator(NAME, output_dir=str(tmp_path)), [(record, instances)])
    rows = json.loads((tmp_path / RESULTS_FILE).read_text())
    assert all(row["center_2D"] is None for row in rows)
    assert results["omni3d_3d"]["AP"] == 0


def test_no_detections(batch: Batch) -> None:
    empty = [(record, instances[:0]) for record, instances in batch]
    for evaluator in (KittiEvaluator(NAME, NAME), Omni3DEvaluator(NAME, NAME)):
        results = run(evaluator, empty)
        counts, errors = (results[f"{evaluator.benchmark}_{what}"] for what in ("counts", "errors"))
        assert counts["detected"] == errors["matched"] == 0
        assert math.isnan(errors["depth"])
    assert results["omni3d_3d"]["AP"] == 0
    assert isinstance(empty[0][1], Instances)


def test_mean_heading_is_along_the_road() -> None:
    yaw = torch.tensor([1.5, 1.7, 1.6 - math.pi, 1.6, 1.5 + math.pi, 1.6], dtype=torch.float64)
    mean = axial_mean(rotation_from_yaw(yaw))
    expected = torch.tensor((1.5 + 1.7 + 1.6 + 1.6 + 1.5 + 1.6) / 6, dtype=torch.float64)
    torch.testing.assert_close(mean, rotation_from_yaw(expected), rtol=0, atol=1e-3)
    turned = axial_mean(rotation_from_yaw(yaw[[2, 0, 4, 2]]))
    expected = torch.tensor((1.6 + 1.5 + 1.5 + 1.6) / 4 + math.pi, dtype=torch.float64)
    torch.testing.assert_close(turned, rotation_from_yaw(expected), rtol=0, atol=1e-3)


def test_class_boxes_need_a_3d_box(street: Path) -> None:
    records = DatasetCatalog.get(NAME)
    means = class_boxes(records, len(CLASSES) + 1)
    heights = means.dimensions[:, 1]
    np.testing.assert_allclose(heights[:3], [1.5, 1.8, 1.7], rtol=0.05)
    assert heights[:3].min() < heights[3] < heights[:3].max()
    for record in records:
        record["annotations"] = []
    with pytest.raises(ValueError, match="need a dataset with 3D boxes"):
        class_boxes(records, 1)
