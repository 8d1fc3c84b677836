"""The evaluators on the tiny rooms, fed with their annotations."""

from __future__ import annotations

import copy
import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.structures import Boxes, Instances
from omegaconf import OmegaConf

from evaluation.ground_truth_model import GroundTruthModel, ground_truth_output
from processes import run_in_group, run_two
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.builtin import register_builtin
from roca_nocs.data.mappers import SceneMapper
from roca_nocs.engine.evaluate import evaluate
from roca_nocs.evaluation import AlignmentEvaluator, RocaFrameEvaluator
from roca_nocs.evaluation.alignment_evaluator import CSV_FOLDER
from roca_nocs.evaluation.alignment_truth import CSV_COLUMNS, TASKS
from roca_nocs.evaluation.frame_evaluator import PREDICTIONS_FILE

NAME, TRAIN = "rooms_tiny_val", "rooms_tiny_train"
Batch = list[tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture
def batch(embedded_names: Path) -> Batch:
    """(input, output) of each image of the validation rooms, from a model that knows all."""
    return ground_truth_batch()


def ground_truth_batch() -> Batch:
    return [(record, ground_truth_output(record)) for record in DatasetCatalog.get(NAME)]


def run(evaluator: Any, batch: Batch) -> dict[str, dict[str, float]]:
    evaluator.reset()
    for image, output in batch:
        evaluator.process([{"image_id": image["image_id"]}], [output])
    return evaluator.evaluate()


def no_instances(record: dict[str, Any]) -> dict[str, Any]:
    """What the model returns where it finds nothing."""
    instances = Instances((record["height"], record["width"]))
    instances.pred_boxes = Boxes(torch.zeros(0, 4))
    instances.scores = torch.zeros(0)
    instances.pred_classes = torch.zeros(0, dtype=torch.int64)
    instances.pred_masks = torch.zeros(0, record["height"], record["width"], dtype=torch.bool)
    instances.pred_translations = torch.zeros(0, 3)
    instances.pred_rotations = torch.zeros(0, 4)
    instances.pred_scales = torch.zeros(0, 3)
    instances.has_alignment = torch.zeros(0, dtype=torch.bool)
    depth = torch.zeros(record["height"], record["width"])
    return {"instances": instances, "depth": depth, "cad_ids": []}


def shuffled(batch: Batch, seed: int) -> Batch:
    """The images, and the instances within them, in another order."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for i in torch.randperm(len(batch), generator=generator).tolist():
        record, output = batch[i]
        order = torch.randperm(len(output["instances"]), generator=generator)
        cads = [output["cad_ids"][row] for row in order.tolist()]
        result.append(
            (record, {**output, "instances": output["instances"][order], "cad_ids": cads})
        )
    return result


def test_frames_of_the_ground_truth(batch: Batch) -> None:
    results = run(RocaFrameEvaluator(NAME), batch)
    for task in ("frame_box", "frame_mask"):
        assert set(results[task].values()) == {100.0}
    assert results["depth"] == {"mean": 0.0, "median": 0.0, "full_mean": 0.0, "full_median": 0.0}


def test_alignments_of_the_ground_truth(batch: Batch) -> None:
    results = run(AlignmentEvaluator(NAME, TRAIN), batch)
    visible = results["alignment_visible"]
    assert set(visible.values()) == {100.0}

    # The published protocol counts the models that are in no image too.
    seen = {(r["scene_id"], a["alignment_id"]) for r, _ in batch for a in r["annotations"]}
    scenes = json.loads(Path(MetadataCatalog.get(NAME).scenes_file).read_text())
    total = sum(len(models) for models in scenes.values())
    assert len(seen) < total
    for task in TASKS.values():
        assert results[task]["instance"] == round(100 * len(seen) / total, 1)

    detections = results["detections"]
    assert detections["retrieval_accuracy"] == 100.0
    assert detections["matched"] == sum(len(record["annotations"]) for record, _ in batch)
    for name in ("rotation_error", "translation_error", "scale_error"):
        assert detections[name] < 1e-3


def test_trivial_predictors_are_worse(batch: Batch) -> None:
    results = run(AlignmentEvaluator(NAME, TRAIN), batch)
    trivial = results["trivial_predictors"]
    for name in ("identity_rotation", "mean_pose_per_class"):
        assert trivial[f"{name}-visible_instance"] < 20
        assert trivial[f"{name}-rotation_error"] > 20
        assert trivial[f"{name}-retrieval_accuracy"] == 100
    assert trivial["identity_rotation-translation_error"] < 1e-3
    assert trivial["mean_pose_per_class-translation_error"] > 20
    assert trivial["mean_pose_per_class-scale_error"] > 1
    assert trivial["random_CAD-retrieval_accuracy"] < 95
    assert trivial["random_CAD-retrieval_instance"] < results["alignment_retrieval"]["instance"]
    assert trivial["random_CAD-rotation_error"] < 1e-3


def test_order_does_not_matter(batch: Batch) -> None:
    noise = torch.Generator().manual_seed(0)
    for _, output in batch:
        instances = output["instances"]
        instances.pred_translations += 0.15 * torch.randn(len(instances), 3, generator=noise)
        instances.scores = 0.4 + 0.2 * torch.randint(0, 4, (len(instances),), generator=noise)
    for make in (RocaFrameEvaluator, lambda name: AlignmentEvaluator(name, TRAIN)):
        straight = run(make(NAME), batch)
        other = run(make(NAME), shuffled(batch, 1))
        straight.pop("trivial_predictors", None), other.pop("trivial_predictors", None)
        assert straight.keys() == other.keys()
        for task, metrics in straight.items():
            assert metrics == pytest.approx(other[task], abs=1e-9)
    assert 0 < straight["alignment_visible"]["instance"] < 100


def test_no_detections(batch: Batch) -> None:
    empty = [(record, no_instances(record)) for record, _ in batch]
    frames = run(RocaFrameEvaluator(NAME), empty)
    assert set(frames["frame_box"].values()) == set(frames["frame_mask"].values()) == {0.0}
    assert frames["depth"]["mean"] > 50
    results = run(AlignmentEvaluator(NAME, TRAIN), empty)
    for task in (*TASKS.values(), "alignment_visible"):
        assert set(results[task].values()) == {0.0}
    assert results["detections"].pop("matched") == 0
    assert all(math.isnan(value) for value in results["detections"].values())


def test_no_images(embedded_names: Path) -> None:
    assert run(RocaFrameEvaluator(NAME), []) == {}
    assert run(AlignmentEvaluator(NAME), []) == {}


def test_class_without_predictions_and_without_annotations(
    batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    classes = MetadataCatalog.get(NAME).thing_classes
    chair, bed = classes.index("chair"), classes.index("bed")
    evaluator = RocaFrameEvaluator(NAME)
    for record in evaluator._records.values():
        record["annotations"] = [a for a in record["annotations"] if a["category_id"] != bed]
    changed = []
    for record, output in batch:
        keep = output["instances"].pred_classes != chair
        output = {**output, "instances": output["instances"][keep]}
        output["cad_ids"] = [
            key for key, kept in zip(batch_cads(record), keep.tolist(), strict=True) if kept
        ]
        changed.append((record, output))
    with caplog.at_level("INFO"):
        results = run(evaluator, changed)["frame_box"]
    assert results["AP50-chair"] == 0.0
    assert math.isnan(results["AP50-bed"])
    assert results["AP50"] == pytest.approx(100 * 7 / 8)
    assert "Left out of the mean AP50 of boxes: bed" in caplog.text


def batch_cads(record: dict[str, Any]) -> list[tuple[str, str]]:
    return [(a["model"]["catid_cad"], a["model"]["id_cad"]) for a in record["annotations"]]


def test_objects_without_alignment(batch: Batch) -> None:
    for _, output in batch:
        output["instances"].has_alignment[:] = False
        output["cad_ids"] = [None] * len(output["instances"])
    results = run(AlignmentEvaluator(NAME), batch)
    assert results["alignment_visible"]["instance"] == 0.0
    assert results["detections"]["retrieval_accuracy"] == 0.0
    assert results["detections"]["rotation_error"] < 1e-3


def test_models_of_training_are_in_the_table(batch: Batch) -> None:
    record, output = next(pair for pair in batch if len(pair[1]["cad_ids"]))
    foreign = next(key for r in DatasetCatalog.get(TRAIN) for key in batch_cads(r))
    output["cad_ids"] = [foreign] * len(output["cad_ids"])
    results = run(AlignmentEvaluator(NAME, TRAIN), [(record, output)])
    assert results["detections"]["retrieval_accuracy"] == 0.0
    with pytest.raises(KeyError, match=f"{foreign[1]}.*train_dataset_name"):
        run(AlignmentEvaluator(NAME), [(record, output)])


def test_files(batch: Batch, tmp_path: Path) -> None:
    run(RocaFrameEvaluator(NAME, str(tmp_path)), batch)
    run(AlignmentEvaluator(NAME, output_dir=str(tmp_path)), batch)
    published = json.loads((tmp_path / PREDICTIONS_FILE).read_text())
    record, output = next(pair for pair in batch if len(pair[1]["cad_ids"]))
    frame = Path(record["file_name"]).name
    predictions = published[f"{record['scene_id']}/color/{frame}"]
    assert len(published) == len(batch) and len(predictions) == len(output["instances"])
    first, annotation = predictions[0], record["annotations"][0]
    assert first["t"] == pytest.approx(annotation["t"], abs=1e-5)
    assert first["q"] == pytest.approx(annotation["q"], abs=1e-5)
    assert first["s"] == pytest.approx(annotation["s"], abs=1e-5)
    assert first["score"] == 1.0
    assert first["category"] == MetadataCatalog.get(NAME).thing_classes[annotation["category_id"]]
    assert tuple(first["scene_cad_id"]) == output["cad_ids"][0]
    assert first["segmentation"] == annotation["segmentation"]

    with (tmp_path / CSV_FOLDER / f"{record['scene_id']}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    scenes = json.loads(Path(MetadataCatalog.get(NAME).scenes_file).read_text())
    models = {(m["id_cad"], round(m["t"][0], 3)) for m in scenes[record["scene_id"]]}
    assert {(r["alignedModelId"], round(float(r["tx"]), 3)) for r in rows} <= models


@pytest.mark.parametrize("make", [RocaFrameEvaluator, AlignmentEvaluator])
def test_bad_outputs(batch: Batch, make: Any) -> None:
    record, output = next(pair for pair in batch if len(pair[1]["cad_ids"]))
    short = {**output, "cad_ids": output["cad_ids"][:-1]}
    with pytest.raises(ValueError, match=r"image_id=.*cad_ids for \d+ instances"):
        run(make(NAME), [(record, short)])
    with pytest.raises(ValueError, match="'unknown'"):
        run(make(NAME), [({**record, "image_id": "unknown"}, output)])


def test_models_without_alignment_head(batch: Batch) -> None:
    plain = []
    for record, output in batch:
        instances = Instances(output["instances"].image_size)
        for name in ("pred_boxes", "scores", "pred_classes"):
            instances.set(name, output["instances"].get(name))
        plain.append((record, {"instances": instances}))
    assert run(RocaFrameEvaluator(NAME), plain).keys() == {"frame_box"}
    with pytest.raises(ValueError, match=r"has no pred_translations.*alignment head"):
        run(AlignmentEvaluator(NAME), plain)


def test_training_data_have_no_annotated_scenes(embedded_names: Path) -> None:
    with pytest.raises(DatasetError, match=r"rooms_tiny_train.*scenes_file"):
        AlignmentEvaluator(TRAIN)


def test_size_of_the_depth_map(batch: Batch) -> None:
    record, output = copy.copy(batch[0])
    with pytest.raises(ValueError, match=r"image_id=.*predicted depth is \(8, 8\)"):
        run(RocaFrameEvaluator(NAME), [(record, {**output, "depth": torch.zeros(8, 8)})])


def test_list_of_evaluators_in_a_config(embedded_names: Path, tmp_path: Path) -> None:
    dataloader = OmegaConf.create(
        {
            "test": L(build_detection_test_loader)(
                dataset=L(get_detection_dataset_dicts)(names=NAME, filter_empty=False),
                mapper=L(SceneMapper)(is_train=False, augmentations=[]),
                num_workers=0,
            ),
            "evaluator": [
                L(RocaFrameEvaluator)(dataset_name=NAME),
                L(AlignmentEvaluator)(dataset_name=NAME, train_dataset_name=TRAIN),
            ],
        },
        flags={"allow_objects": True},
    )
    results = evaluate(dataloader, {"": GroundTruthModel(NAME)}, output_dir=str(tmp_path))
    assert results["frame_mask"]["AP50"] == results["alignment_visible"]["instance"] == 100.0
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["alignment"]["instance"] == results["alignment"]["instance"]


def run_worker(rank: int, folder: Path, root: str) -> None:
    """Evaluate every second image in one of two processes and store the results for the test."""
    register_builtin(Path(root))
    part = ground_truth_batch()[rank::2]
    evaluators = (RocaFrameEvaluator(NAME), AlignmentEvaluator(NAME, TRAIN))
    results = [run(evaluator, part) for evaluator in evaluators]
    Path(folder, f"result{rank}.json").write_text(json.dumps(results))


def test_two_processes(
    batch: Batch, embedded_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(embedded_root))
    run_two(__file__, tmp_path, str(embedded_root), timeout=120)
    first, second = (json.loads((tmp_path / f"result{rank}.json").read_text()) for rank in range(2))
    assert second == [None, None]
    alone = [run(RocaFrameEvaluator(NAME), batch), run(AlignmentEvaluator(NAME, TRAIN), batch)]
    assert first == json.loads(json.dumps(alone))


if __name__ == "__main__":
    run_in_group(run_worker)
