"""From the generated rooms to a picture of detections, with the scripts that users run."""

import json
from pathlib import Path

import cv2
import pytest

from scripts import ROOT, run_script

CONFIG = ROOT / "configs" / "mask_rcnn" / "rooms_r18.py"


def train_net(datasets: Path, output: Path, *arguments: str) -> str:
    """Train or evaluate the default config on the tiny rooms."""
    options = ["--config-file", str(CONFIG), "--num-gpus", "0"]
    overrides = [
        f"train.output_dir={output}",
        "train.max_iter=80",
        "train.eval_period=40",
        "train.checkpointer.period=40",
        "dataloader.train.total_batch_size=4",
        "dataloader.train.dataset.names=rooms_tiny_train",
        "dataloader.test.dataset.names=rooms_tiny_train",
    ]
    return run_script("train_net.py", *options, *arguments, *overrides, datasets=datasets)


@pytest.fixture(scope="module")
def trained(embedded_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("rooms")
    train_net(embedded_root, output)
    return output


def test_training_improves_the_metric(trained: Path) -> None:
    """Mask R-CNN from scratch begins to fit 40 images in 80 small steps (8.8 measured)."""
    lines = [json.loads(line) for line in (trained / "metrics.json").read_text().splitlines()]
    scores = [line["bbox/AP50"] for line in lines if "bbox/AP50" in line]
    assert len(scores) == 2
    assert scores[1] > 3 and scores[1] > 1.5 * scores[0]


def test_evaluation_alone_reproduces_the_numbers(trained: Path, embedded_root: Path) -> None:
    results = trained / "results.json"
    after_training = json.loads(results.read_text())
    results.unlink()
    train_net(embedded_root, trained, "--eval-only")
    assert json.loads(results.read_text()) == after_training


def test_demo_draws_what_was_found(trained: Path, embedded_root: Path, tmp_path: Path) -> None:
    """Mask R-CNN has no 3D: pictures and numbers, and no camera is asked for."""
    arguments = ["--run", str(trained), "--threshold", "0.1"]
    run_script("demo.py", *arguments, "--count", "2", datasets=embedded_root)
    pictures = sorted((trained / "demo").glob("*.png"))
    names = [path.with_suffix(suffix).name for path in pictures for suffix in (".json", ".png")]
    assert sorted(path.name for path in (trained / "demo").iterdir()) == sorted(
        [*names, "index.html"]
    )
    # Three columns (input, found, ground truth) of 160x120, enlarged to 400x300, and gaps.
    assert cv2.imread(str(pictures[0])).shape == (22 + 304, 3 * 404, 3)
    photo, output = tmp_path / "photo.jpg", tmp_path / "found"
    cv2.imwrite(str(photo), cv2.imread(str(pictures[0]))[22:322:2, :400:2])
    run_script(
        "demo.py", *arguments, "--input", str(photo), "--output", str(output), datasets=tmp_path
    )
    assert cv2.imread(str(output / "photo.png")).shape == (22 + 304, 2 * 404, 3)
    found = json.loads((output / "photo.json").read_text())
    assert found["image_size"] == {"height": 150, "width": 200} and found["intrinsics"] is None
    for each in found["objects"]:
        assert each["score"] >= 0.1 and each["mask"]["size"] == [150, 200]
        assert "translation" not in each
