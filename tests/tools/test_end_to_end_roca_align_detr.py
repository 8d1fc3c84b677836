"""ROCA on AlignDETR from the generated rooms to poses, with the scripts that users run."""

import json
from pathlib import Path

import pytest

from scripts import ROOT, mean, run_script, training_history

ITERATIONS = 45
# The rooms with few channels: seconds instead of minutes.
CONFIG = """
from detectron2.config import LazyConfig
from modeling.tiny_align_detr import set_sizes
from modeling.tiny_roca import fit_tiny_rooms
from modeling.tiny_roca_align_detr import narrow

dataloader, lr_multiplier, model, optimizer, train = LazyConfig.load(
    r"{root}/configs/roca/rooms_r18_align_detr.py",
    ("dataloader", "lr_multiplier", "model", "optimizer", "train"),
)
narrow(model)
model.roi_heads.depth_head.initial_depth = 0.0  # so that there is something to learn in seconds
set_sizes(model.proposal_generator, embed_dim=32, num_points=4)
model.proposal_generator.update(num_queries=30)
fit_tiny_rooms(dataloader, lr_multiplier, optimizer, train, iterations={iterations})
"""


def train_net(datasets: Path, output: Path, *arguments: str) -> None:
    """Train or evaluate on 16 images of the tiny rooms."""
    config = output / "tiny.py"
    config.write_text(CONFIG.format(root=ROOT, iterations=ITERATIONS))
    options = ["--config-file", str(config), "--num-gpus", "0", *arguments]
    run_script("train_net.py", *options, f"train.output_dir={output}", datasets=datasets)


@pytest.fixture(scope="module")
def trained(embedded_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("roca_align_detr")
    train_net(embedded_root, output)
    return output


def test_training_fits_a_few_images(trained: Path) -> None:
    """16 images; measured over 45 steps: total 0.69, boxes 0.66, depth 0.34, translation 0.30."""
    lines = training_history(trained)
    assert len(lines) == ITERATIONS
    # Over a whole pass, so that no group of images decides.
    first, last = lines[:4], lines[-8:]
    limits = {
        "total_loss": 0.8,
        "loss_bbox": 0.8,
        "loss_bbox_enc": 0.85,
        "loss_image_depth": 0.6,
        "loss_trans_proc": 0.6,
    }
    ratios = {name: mean(last, name) / mean(first, name) for name in limits}
    assert all(ratios[name] < limit for name, limit in limits.items()), ratios


def test_results_are_those_of_roca(trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())
    alignment = ("alignment", "alignment_per_axis", "alignment_retrieval", "alignment_visible")
    others = ("bbox", "segm", "frame_box", "frame_mask", "depth", "detections")
    assert {*alignment, *others, "trivial_predictors"} <= results.keys()
    assert results["bbox"]["AP50"] > 0
    assert 0 < results["depth"]["mean"] < 150


@pytest.mark.slow
def test_evaluation_alone_reproduces_the_numbers(trained: Path, embedded_root: Path) -> None:
    results = trained / "results.json"
    after_training = json.loads(results.read_text())
    results.unlink()
    train_net(embedded_root, trained, "--eval-only")
    assert json.loads(results.read_text()) == after_training
