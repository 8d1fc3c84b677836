"""The results cache: what it keeps, its bounds, and that a training does not notice it."""

import json
from pathlib import Path

import cv2
import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage

from modeling.tiny_multiview import build_multiview, training_inputs
from modeling.tiny_nocs import make_input, narrow_nocs
from roca_nocs.engine.config import load_config
from roca_nocs.engine.results_cache import ImageResults, ResultsCache, ResultsFolder


def results(image_id: int, count: int, value: float = 0.5) -> ImageResults:
    coordinates = torch.full((count, 3, 4, 4), value)
    coordinates[:, 1] = 0.25
    return ImageResults(
        image_id=image_id,
        size=(20, 30),
        boxes=torch.tensor([[5.0, 2.0, 15.0, 12.0]]).repeat(count, 1),
        labels=torch.zeros(count, dtype=torch.int64),
        scores=torch.ones(count),
        matched=torch.zeros(count, dtype=torch.int64),
        coordinates=coordinates,
        losses=torch.arange(1.0, count + 1),
    )


def listed(folder: Path) -> dict[str, float]:
    return json.loads((folder / "losses.json").read_text())


def test_files_are_rgb_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    ResultsFolder(folder, 10).add(3, [results(17, 2, value=1.0)])
    assert listed(folder) == {"0003_17_0.png": 1.0, "0003_17_1.png": 2.0}
    image = cv2.imread(str(folder / "0003_17_0.png"))[..., ::-1]
    assert image.shape == (20, 30, 3)
    assert image[7, 10].tolist() == [255, 64, 255]
    assert image[:2].max() == 0 and image[:, :5].max() == 0 and image[12:].max() == 0


def test_oldest_give_way(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "cache", 3)
    folder.add(0, [results(1, 2), results(2, 2)])
    folder.add(0, [results(2, 1)])
    assert list(listed(folder.folder)) == ["0000_2_0.png", "0000_2_1.png", "0000_2_2.png"]
    assert {file.name for file in folder.folder.glob("*.png")} == set(listed(folder.folder))


def test_folder_must_be_new(tmp_path: Path) -> None:
    ResultsFolder(tmp_path / "cache", 3).add(0, [results(1, 1)])
    with pytest.raises(FileExistsError, match="cache exists"):
        ResultsFolder(tmp_path / "cache", 3)
    resumed = ResultsFolder(tmp_path / "cache", 3, resume=True)
    resumed.add(1, [results(1, 1)])
    assert list(listed(tmp_path / "cache")) == ["0000_1_0.png", "0001_1_0.png"]


def test_boxes_outside_the_image(tmp_path: Path) -> None:
    outside = results(1, 2)
    outside.boxes[0] = torch.tensor([-50.0, -50.0, -10.0, -10.0])
    outside.boxes[1] = torch.tensor([25.0, 15.0, 90.0, 90.0])
    blank, corner = outside.images()
    assert blank.max() == 0
    assert corner[16, 26].min() > 0 and corner[:15].max() == 0


def train(hooks: list[ResultsCache], steps: int = 3) -> list[dict[str, float]]:
    """A few steps of a tiny model from the same state; its losses."""
    model = build_multiview(seed=0)
    model.train()
    torch.manual_seed(5)
    losses = []

    class Recording(SimpleTrainer):
        def _write_metrics(self, loss_dict, *args, **kwargs):  # type: ignore[no-untyped-def]
            losses.append({name: loss.item() for name, loss in loss_dict.items()})

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batches = [training_inputs(seed) for seed in range(steps)]
    trainer = Recording(model, batches, optimizer)
    trainer.register_hooks(hooks)
    with EventStorage():
        trainer.train(0, steps)
    return losses


def test_training_does_not_notice(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = ResultsCache(folder, iterations_per_epoch=2, period=2, max_images=1, max_objects=50)
    with_cache, without = train([cache]), train([])
    assert with_cache == without
    assert set(without[0]) >= {"loss_nocs_x", "loss_mask", "loss_multiview_pixelwise"}
    entries = listed(folder)
    # Iterations 0 and 2, epochs 0 and 1, one image each.
    assert {name.split("_")[0] for name in entries} == {"0000", "0001"}
    assert {name.split("_")[1] for name in entries} == {"0", "20"}
    assert all(0 < loss < 20 for loss in entries.values())
    first = cv2.imread(str(folder / next(iter(entries))))
    assert first.shape[:2] == training_inputs(0)[0]["image"].shape[1:]
    assert first.any()


def test_config_with_cache_trains(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "configs/nocs/tabletop_r18_cache.py"
    config = load_config(path, [f"train.output_dir={tmp_path}"])
    narrow_nocs(config.model)
    model = config.optimizer.params.model = instantiate(config.model)
    batches = [[{**make_input(2, seed=seed), "image_id": seed}] for seed in range(2)]
    trainer = SimpleTrainer(model.train(), batches, instantiate(config.optimizer))
    trainer.register_hooks([instantiate(config.hooks.cache)])
    trainer.train(0, 2)
    assert trainer.storage.latest()["loss_nocs_dispersion"][0] > 0
    entries = listed(tmp_path / "results")
    assert entries and all(name.startswith("0000_0_") for name in entries)


def test_model_without_nocs(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    trainer = SimpleTrainer(model, [], torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks([ResultsCache(tmp_path / "cache", iterations_per_epoch=1)])
    trainer.start_iter = 0
    with pytest.raises(ValueError, match="NocsLoss"):
        trainer.before_train()
