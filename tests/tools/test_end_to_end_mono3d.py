"""Monocular 3D boxes from the generated street to result files, with the scripts that users run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roca_nocs.data.datasets.kitti import CLASSES, load_kitti
from roca_nocs.data.datasets.kitti_files import read_labels
from roca_nocs.data.synthetic.generate import generate
from roca_nocs.data.synthetic.presets import DatasetArguments
from roca_nocs.evaluation.kitti_ap import kitti_precision
from roca_nocs.evaluation.mono3d_writers import read_kitti_objects, read_omni3d_results
from roca_nocs.evaluation.omni3d_ap import IN_SPACE, omni3d_precision
from roca_nocs.evaluation.omni3d_evaluator import annotated_truth
from scripts import ROOT, run_script, training_history

ITERATIONS = 8
# The street with few channels: seconds instead of minutes.
CONFIG = """
from detectron2.config import LazyConfig
from modeling.tiny_mono3d import narrow_mono3d

dataloader, hooks, lr_multiplier, model, optimizer, train = LazyConfig.load(
    r"{root}/configs/mono3d/street_r18.py",
    ("dataloader", "hooks", "lr_multiplier", "model", "optimizer", "train"),
)
narrow_mono3d(model)
model.roi_heads.box_predictor.test_score_thresh = 0.0
model.roi_heads.box_predictor.test_topk_per_image = 6
dataloader.train.dataset.names = "street_tiny_train"
dataloader.test.dataset.names = "street_tiny_val"
dataloader.train.total_batch_size = 2
dataloader.evaluator[1].output_dir = "${{train.output_dir}}"
hooks.history.period = 4
train.max_iter = {iterations}
train.eval_period = 6
train.log_period = 1
"""


def train_net(datasets: Path, config: Path, *arguments: str) -> None:
    options = ["--config-file", str(config), "--num-gpus", "0", *arguments]
    run_script("train_net.py", *options, datasets=datasets)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    arguments = DatasetArguments("street", train=4, val=4, width=192, height=56, seed=3)
    generate(root / "street_tiny", arguments, progress=False)
    return root


@pytest.fixture(scope="module")
def trained(datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("mono3d")
    config = output / "tiny_mono3d.py"
    config.write_text(CONFIG.format(root=ROOT, iterations=ITERATIONS))
    train_net(datasets, config, f"train.output_dir={output}")
    return output


def test_training_is_logged(trained: Path) -> None:
    lines = training_history(trained)
    assert len(lines) == ITERATIONS
    assert all(np.isfinite(line["total_loss"]) for line in lines)
    history = [json.loads(x) for x in (trained / "history.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in history] == [4, 8]
    evaluated = [json.loads(x) for x in (trained / "evaluations.jsonl").read_text().splitlines()]
    assert [each["iteration"] for each in evaluated] == [6, 8]
    assert all("omni3d_3d/AP" in each["results"] for each in evaluated)


def test_evaluation_alone_reproduces_the_numbers(trained: Path, datasets: Path) -> None:
    results = trained / "results.json"
    after_training = results.read_text()
    expected = {"kitti_3d_strict_R40", "kitti_aos_R11", "omni3d_3d", "omni3d_2d", "omni3d_errors"}
    assert expected <= json.loads(after_training).keys()
    results.unlink()
    train_net(datasets, trained / "config.yaml", "--eval-only")
    assert results.read_text() == after_training


def test_written_files_give_the_numbers(trained: Path, datasets: Path) -> None:
    results: dict[str, Any] = json.loads((trained / "results.json").read_text())
    records = load_kitti(datasets / "street_tiny", "val")
    files = [trained / f"kitti_results/{record['scene_id']}.txt" for record in records]
    assert sorted(files) == sorted((trained / "kitti_results").iterdir())
    found = read_kitti_objects(files)
    assert len(found.scores) > 0 and np.isfinite(found.scores).all()
    truth = read_kitti_objects([record["label_file"] for record in records])
    precision = kitti_precision(found, truth)
    for metric in ("2d", "bev_loose", "3d_loose"):
        expected = results[f"kitti_{metric}_R40"]
        for name, row in zip(CLASSES, precision.average(metric, 40), strict=True):
            if expected[f"{name}-easy"] is not None:  # there is something to find
                # Files have rounded numbers.
                assert row[0] == pytest.approx(expected[f"{name}-easy"], abs=0.5)

    pred = read_omni3d_results(trained / "omni3d_results.json", records, {0: 0, 1: 1, 2: 2})
    assert len(pred) == len(found.scores)
    again = omni3d_precision(pred, *annotated_truth(records), len(CLASSES), IN_SPACE)
    assert 100 * again.summary()["AP"] == pytest.approx(results["omni3d_3d"]["AP"], abs=1e-9)


def test_demo_writes_a_file_of_kitti(trained: Path, datasets: Path, tmp_path: Path) -> None:
    record = load_kitti(datasets / "street_tiny", "val")[0]
    camera = ",".join(
        str(record["intrinsics"][place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2))
    )
    options = ["--run", str(trained), "--threshold", "0", "--input", record["file_name"]]
    options += ["--intrinsics", camera, "--output", str(tmp_path)]
    run_script("demo.py", *options, datasets=datasets)
    stem = Path(record["file_name"]).stem
    objects = json.loads((tmp_path / f"{stem}.json").read_text())["objects"]
    labels = read_labels(tmp_path / f"{stem}.txt")
    assert len(labels) == len(objects) > 0
    for each, center in zip(objects, labels.centers, strict=True):
        assert each["box3d"]["center"] == pytest.approx(center.tolist(), abs=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_eight_images_can_be_learned(tmp_path: Path) -> None:
    """Iterations as calibrated in docs/results.md: half an hour of one core."""
    arguments = DatasetArguments("street", train=8, val=8, width=384, height=112, seed=3)
    generate(tmp_path / "datasets/street", arguments, progress=False)
    train_net(
        tmp_path / "datasets",
        ROOT / "configs/mono3d/street_r18.py",
        "dataloader.train.dataset.names=street_val",
        "train.max_iter=1500",
        "train.eval_period=300",
        "lr_multiplier.flat=0.5",
        f"train.output_dir={tmp_path / 'output'}",
    )
    results = json.loads((tmp_path / "output/results.json").read_text())
    assert results["omni3d_3d"]["AP50"] >= 90
    assert results["omni3d_errors"]["rotation"] < 5  # degrees
    assert results["omni3d_errors"]["depth"] < 3  # percent
