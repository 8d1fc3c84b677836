"""COCO average precision by hand."""

import json
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, BoxMode, Instances

METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl"]


@pytest.fixture
def dataset(request, tmp_path):
    """A function that registers ground truth under the name of the test."""
    names = []

    def register(annotations, thing_classes=("chair", "table"), id_map=None, with_file=True):
        name = f"{request.node.name}_{len(names)}"
        metadata = MetadataCatalog.get(name).set(thing_classes=list(thing_classes))
        id_map = id_map or {index: index for index in range(len(thing_classes))}
        metadata.thing_dataset_id_to_contiguous_id = id_map
        images = [{"id": i, "height": 100, "width": 100, "file_name": f"{i}.jpg"} for i in (1, 2)]
        ground_truth = {
            "images": images,
            "categories": [{"id": k, "name": thing_classes[v]} for k, v in sorted(id_map.items())],
        }
        if annotations is not None:
            ground_truth["annotations"] = [
                {
                    "id": index,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
                for index, (image_id, category_id, (x, y, w, h)) in enumerate(annotations, 1)
            ]
        if with_file:
            metadata.json_file = str(tmp_path / f"{name}.json")
            with open(metadata.json_file, "w") as file:
                json.dump(ground_truth, file)
        else:
            records = [
                {
                    "image_id": image["id"],
                    "file_name": image["file_name"],
                    "height": 100,
                    "width": 100,
                    "annotations": [
                        {
                            "bbox": x["bbox"],
                            "bbox_mode": BoxMode.XYWH_ABS,
                            "category_id": id_map[x["category_id"]],
                            "iscrowd": 0,
                        }
                        for x in ground_truth["annotations"]
                        if x["image_id"] == image["id"]
                    ],
                }
                for image in images
            ]
            DatasetCatalog.register(name, lambda: records)
        names.append(name)
        return name

    yield register
    for name in names:
        MetadataCatalog.remove(name)
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)


def detections(boxes, classes, scores, with_masks=False) -> dict:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    instances = Instances(
        (100, 100),
        pred_boxes=Boxes(boxes),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        scores=torch.tensor(scores, dtype=torch.float32),
    )
    if with_masks:
        masks = torch.zeros(len(boxes), 100, 100, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.long().tolist(), strict=True):
            mask[y0:y1, x0:x1] = True
        instances.pred_masks = masks
    return {"instances": instances}


def evaluate(name, outputs, img_ids=None, **kwargs):
    """Outputs are given by image id."""
    evaluator = COCOEvaluator(name, **{"distributed": False, **kwargs})
    evaluator.reset()
    for image_id, output in outputs.items():
        evaluator.process([{"image_id": image_id}], [output])
    return evaluator.evaluate(img_ids)


TWO_OBJECTS = [(1, 0, (10, 10, 40, 40)), (2, 1, (0, 0, 20, 20))]


def test_perfect_detections(dataset):
    outputs = {
        1: detections([[10, 10, 50, 50]], [0], [0.9]),
        2: detections([[0, 0, 20, 20]], [1], [0.8]),
    }
    results = evaluate(dataset(TWO_OBJECTS), outputs)
    assert list(results) == ["bbox"]
    metrics = results["bbox"]
    assert list(metrics) == [*METRICS, "AP-chair", "AP-table"]
    # 40 x 40 is medium (above 32 x 32), 20 x 20 is small, nothing is large.
    for name in ("AP", "AP50", "AP75", "APs", "APm", "AP-chair", "AP-table"):
        assert metrics[name] == pytest.approx(100.0)
    assert math.isnan(metrics["APl"])


def test_one_class_found(dataset):
    outputs = {1: detections([[10, 10, 50, 50]], [0], [0.9]), 2: detections([], [], [])}
    metrics = evaluate(dataset(TWO_OBJECTS), outputs)["bbox"]
    assert metrics["AP"] == pytest.approx(50.0)
    assert metrics["AP-chair"] == pytest.approx(100.0)
    assert metrics["AP-table"] == pytest.approx(0.0)


def test_overlap_thresholds(dataset):
    """An IoU of 0.6 counts at 0.5, 0.55 and 0.6: three of ten thresholds."""
    name = dataset([(1, 0, (0, 0, 40, 40))], thing_classes=("chair",))
    metrics = evaluate(name, {1: detections([[0, 0, 40, 24.001]], [0], [0.9])})["bbox"]
    assert list(metrics) == METRICS
    assert metrics["AP"] == pytest.approx(30.0)
    assert metrics["AP50"] == pytest.approx(100.0)
    assert metrics["AP75"] == pytest.approx(0.0)


def test_category_ids_of_the_dataset(dataset, tmp_path):
    annotations = [(1, 17, (10, 10, 40, 40)), (2, 5, (0, 0, 20, 20))]
    name = dataset(annotations, id_map={17: 1, 5: 0})
    outputs = {
        1: detections([[10, 10, 50, 50]], [1], [0.9]),
        2: detections([[0, 0, 20, 20]], [0], [0.8]),
    }
    metrics = evaluate(name, outputs, output_dir=str(tmp_path / "out"))["bbox"]
    assert metrics["AP"] == pytest.approx(100.0)
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert [x["category_id"] for x in written] == [17, 5]
    assert written[0]["bbox"] == [10, 10, 40, 40]
    saved = torch.load(tmp_path / "out" / "instances_predictions.pth")
    assert [x["image_id"] for x in saved] == [1, 2]


def test_class_outside_the_dataset(dataset):
    outputs = {1: detections([[10, 10, 50, 50]], [2], [0.9])}
    with pytest.raises(AssertionError, match="class"):
        evaluate(dataset(TWO_OBJECTS), outputs)


def test_masks(dataset):
    outputs = {1: detections([[10, 10, 50, 50]], [0], [0.9], with_masks=True)}
    name = dataset([(1, 0, (10, 10, 40, 40))])
    results = evaluate(name, outputs)
    assert list(results) == ["bbox", "segm"]
    assert results["segm"]["AP50"] == pytest.approx(100.0)
    assert list(evaluate(name, outputs, tasks=("bbox",))) == ["bbox"]


def test_masks_are_judged_by_their_own_size(dataset):
    """The box is medium, the mask small: the detection does not count among medium ones."""
    output = detections([[10, 10, 50, 50]], [0], [0.9], with_masks=True)
    output["instances"].pred_masks[:, 20:] = False
    name = dataset([(1, 0, (60, 60, 40, 40))])
    outputs = {1: output}
    # A medium false positive ahead of the object would halve the precision.
    better = detections([[60, 60, 100, 100]], [0], [0.5], with_masks=True)
    merged = Instances.cat([output["instances"], better["instances"]])
    results = evaluate(name, {**outputs, 1: {"instances": merged}})
    assert results["bbox"]["APm"] == pytest.approx(50.0)
    assert results["segm"]["APm"] == pytest.approx(100.0)


def test_unknown_task(dataset):
    outputs = {1: detections([[10, 10, 50, 50]], [0], [0.9])}
    with pytest.raises(AssertionError, match="Got unknown task: depth"):
        evaluate(dataset(TWO_OBJECTS), outputs, tasks=("depth",))


@pytest.mark.standalone_only
def test_segmentation_without_masks(dataset):
    outputs = {1: detections([[10, 10, 50, 50]], [0], [0.9])}
    with pytest.raises(ValueError, match="needs pred_masks"):
        evaluate(dataset(TWO_OBJECTS), outputs, tasks=("segm",))


def test_no_predictions(dataset):
    name = dataset(TWO_OBJECTS)
    assert evaluate(name, {}) == {}
    metrics = evaluate(name, {1: detections([], [], [])})["bbox"]
    assert list(metrics) == METRICS
    assert all(math.isnan(x) for x in metrics.values())


def test_images_without_instances_are_passed_over(dataset):
    assert evaluate(dataset(TWO_OBJECTS), {1: {"sem_seg": None}}) == {}


def test_some_images_only(dataset):
    outputs = {1: detections([[10, 10, 50, 50]], [0], [0.9]), 2: detections([], [], [])}
    metrics = evaluate(dataset(TWO_OBJECTS), outputs, img_ids=[1])["bbox"]
    assert metrics["AP"] == pytest.approx(100.0)
    assert math.isnan(metrics["AP-table"])


def test_detections_per_image(dataset):
    """Ten wrong detections come before the right one."""
    wrong = [[60, 60, 80 + i, 80] for i in range(10)]
    output = detections([*wrong, [10, 10, 50, 50]], [0] * 11, [0.9] * 10 + [0.8])
    name = dataset([(1, 0, (10, 10, 40, 40))])
    metrics = evaluate(name, {1: output}, max_dets_per_image=10)["bbox"]
    assert metrics["AP"] == pytest.approx(0.0)
    assert evaluate(name, {1: output})["bbox"]["AP"] == pytest.approx(100.0 / 11)


@pytest.mark.standalone_only
def test_fewer_than_ten_detections_per_image(dataset):
    """detectron2 counts ten of them all the same."""
    output = detections([[60, 60, 80, 80], [10, 10, 50, 50]], [0, 0], [0.9, 0.8])
    name = dataset([(1, 0, (10, 10, 40, 40))])
    metrics = evaluate(name, {1: output}, max_dets_per_image=1)["bbox"]
    assert metrics["AP"] == pytest.approx(0.0)
    assert evaluate(name, {1: output})["bbox"]["AP"] == pytest.approx(50.0)


def test_distributed_in_one_process(dataset):
    outputs = {1: detections([[10, 10, 50, 50]], [0], [0.9])}
    results = evaluate(dataset(TWO_OBJECTS), outputs, distributed=True)
    assert results["bbox"]["AP"] == pytest.approx(50.0)


def test_evaluator_can_be_reused(dataset):
    evaluator = COCOEvaluator(dataset(TWO_OBJECTS), distributed=False)
    for _ in range(2):
        evaluator.reset()
        evaluator.process([{"image_id": 1}], [detections([[10, 10, 50, 50]], [0], [0.9])])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(50.0)


@pytest.mark.standalone_only
def test_evaluation_does_not_change_the_predictions(dataset):
    evaluator = COCOEvaluator(dataset(TWO_OBJECTS), distributed=False)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [detections([[10, 10, 50, 50]], [0], [0.9])])
    first, second = evaluator.evaluate(), evaluator.evaluate()
    np.testing.assert_equal(second, first)


def test_ground_truth_without_annotations(dataset, tmp_path):
    outputs = {1: detections([[10, 10, 50, 50]], [0], [0.9])}
    name = dataset(None)
    assert evaluate(name, outputs, output_dir=str(tmp_path / "out")) == {}
    assert (tmp_path / "out" / "coco_instances_results.json").exists()


def test_conversion(dataset, tmp_path):
    name = dataset(TWO_OBJECTS, with_file=False)
    with pytest.raises(ValueError, match="output_dir must be provided"):
        COCOEvaluator(name)
    outputs = {
        1: detections([[10, 10, 50, 50]], [0], [0.9]),
        2: detections([[0, 0, 20, 20]], [1], [0.8]),
    }
    metrics = evaluate(name, outputs, output_dir=str(tmp_path))["bbox"]
    assert metrics["AP"] == pytest.approx(100.0)
    assert (tmp_path / f"{name}_coco_format.json").exists()


@pytest.mark.standalone_only
def test_keypoints_are_refused(dataset):
    with pytest.raises(ValueError, match="keypoints"):
        COCOEvaluator(dataset(TWO_OBJECTS), kpt_oks_sigmas=[0.1])


@pytest.mark.standalone_only
def test_nothing_is_printed(dataset, capsys):
    evaluate(dataset(TWO_OBJECTS), {1: detections([[10, 10, 50, 50]], [0], [0.9])})
    assert capsys.readouterr().out == ""


def test_json_of_instances():
    output = detections([[10, 20, 30, 60], [0, 0, 1, 1]], [3, 1], [0.5, 0.25], with_masks=True)
    results = instances_to_coco_json(output["instances"], 7)
    assert [x["image_id"] for x in results] == [7, 7]
    assert [x["category_id"] for x in results] == [3, 1]
    assert [x["bbox"] for x in results] == [[10, 20, 20, 40], [0, 0, 1, 1]]
    assert [x["score"] for x in results] == [0.5, 0.25]
    json.dumps(results)
    for result, mask in zip(results, output["instances"].pred_masks.numpy(), strict=True):
        decoded = mask_util.decode(result["segmentation"])
        np.testing.assert_array_equal(np.asarray(decoded), mask)


def test_json_of_no_instances():
    assert instances_to_coco_json(detections([], [], [])["instances"], 7) == []
