"""The demo serves FutureDETR: animations of clips, and boxes and masks of single images."""

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog
from PIL import Image
from pycocotools import mask as rle

from roca_nocs.geometry.bev import BevGrid

ROOT = Path(__file__).parents[2]
CLIPS, ROOMS = "traffic_tiny_val", "rooms_tiny_val"

_spec = importlib.util.spec_from_file_location("demo", ROOT / "tools" / "demo.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

_CLIPS = """
from detectron2.config import LazyCall as L, LazyConfig
from modeling.tiny_future_detr import build_future_detr
from roca_nocs.data.mixtures import first_records
from roca_nocs.modeling.future.clip_results import ClipResults

_full = LazyConfig.load(r"{root}/configs/future_detr/bev_smoke.py")
dataloader, optimizer = _full.dataloader, _full.optimizer
lr_multiplier, train = _full.lr_multiplier, _full.train
model = L(build_future_detr)(
    detector=dict(in_channels=5, num_classes=1),
    results=L(ClipResults)(min_score=0.0, min_value=0.0, max_masks=4),
)
dataloader.test.dataset.records.names = "{clips}"
dataloader.test.dataset.count = 1
"""

_IMAGES = """
from detectron2.config import LazyConfig

_full = LazyConfig.load(r"{root}/configs/future_detr/image_r18.py")
dataloader, model, optimizer = _full.dataloader, _full.model, _full.optimizer
lr_multiplier, train = _full.lr_multiplier, _full.train
model.detector.update(num_queries=6, enc_layers=1, dec_layers=2, dim_feedforward=32)
model.detections_per_image = 5
dataloader.test.dataset.names = "{rooms}"
"""


def prepare(folder: Path, text: str) -> list[str]:
    """Options of the demo for the model of a config, with random weights."""
    file, weights = folder / "small.py", folder / "small.pth"
    file.write_text(text.format(root=ROOT, clips=CLIPS, rooms=ROOMS))
    torch.manual_seed(0)
    model = instantiate(LazyConfig.load(str(file)).model)
    torch.save({"model": model.state_dict()}, weights)
    return ["--config-file", str(file), "--weights", str(weights), "--threshold", "0"]


@pytest.fixture
def clips(embedded_names: Path, tmp_path: Path) -> list[str]:
    return prepare(tmp_path, _CLIPS)


def run(*arguments: object) -> int:
    return tool.run(tool.argument_parser().parse_args(list(map(str, arguments))))


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_clips_that_the_config_tests_on(clips: list[str], tmp_path: Path) -> None:
    """Its only clip, although more are asked for: film, numbers, page."""
    output = tmp_path / "found"
    assert run(*clips, "--output", output) == 0
    name = DatasetCatalog.get(CLIPS)[0]["clip_id"]
    assert written(output) == sorted([f"{name}.gif", f"{name}.json", "index.html"])
    with Image.open(output / f"{name}.gif") as film:
        assert film.n_frames == 4  # two observed frames, two future ones
        assert film.width > 3 * 4 * 96 and film.height > 4 * 96
        pictures = []
        for number in range(film.n_frames):
            film.seek(number)
            pictures.append(np.asarray(film.convert("RGB")).astype(int))
    # Predictions are in the middle panel, from the present on; Pillow's palette blurs colours.
    width = pictures[0].shape[1]
    middle = slice(width // 3 + 2, 2 * width // 3 - 2)
    colored = [(np.ptp(each[:, middle], axis=2) > 60).sum() for each in pictures]
    assert colored[0] == 0 and colored[1] > 0

    page = (output / "index.html").read_text()
    assert f'<img src="{name}.gif"' in page and f'href="{name}.json"' in page

    results = json.loads((output / f"{name}.json").read_text())
    grid = BevGrid(**results["grid"])
    assert (grid.height, grid.width) == (96, 96) and results["clip"] == name
    assert results["observed_frames"] == 2 and results["seconds"] == [0.0, 0.5, 1.0]
    objects = results["objects"]
    assert len(objects) == 4 and len({each["id"] for each in objects}) == 4
    scores = [each["score"] for each in objects]
    assert scores == sorted(scores, reverse=True)
    seen = 0
    for each in objects:
        assert each["class"] == "vehicle"
        assert max(each["score_per_step"]) == pytest.approx(each["score"])
        assert np.shape(each["box_xyxy_per_step"]) == (3, 4)
        for place, code in zip(each["trajectory"], each["mask_per_step"], strict=True):
            assert (place is None) == (code is None)
            if code is not None:
                seen += 1
                mask = rle.decode(code)
                assert mask.shape == (96, 96)
                centre = grid.cells_to_metres(np.argwhere(mask).mean(axis=0))
                np.testing.assert_allclose(place, centre, atol=1e-4)
    assert seen > 0


def test_named_dataset_threshold_and_other_films(clips: list[str], tmp_path: Path) -> None:
    """Nothing exceeds a score of one: the clips are shown with the truth alone."""
    options = [*clips, "--dataset", CLIPS, "--count", 2, "--threshold", 1.01, "--animation", "webp"]
    assert run(*options, "--output", tmp_path / "found") == 0
    films = sorted((tmp_path / "found").glob("*.webp"))
    assert len(films) == 2
    for film in films:
        with Image.open(film) as opened:
            assert opened.n_frames == 4
        assert json.loads(film.with_suffix(".json").read_text())["objects"] == []


def test_film_with_pyav(clips: list[str], tmp_path: Path) -> None:
    pytest.importorskip("av")
    assert run(*clips, "--animation", "mp4", "--output", tmp_path / "found") == 0
    (film,) = (tmp_path / "found").glob("*.mp4")
    assert f'<video src="{film.name}"' in (tmp_path / "found" / "index.html").read_text()


def test_what_clips_cannot_be(
    clips: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = ["--output", str(tmp_path / "found")]
    photo = DatasetCatalog.get(ROOMS)[0]["file_name"]
    for arguments, message in (
        (["--input", photo], r"--input: this model takes clips of a dataset"),
        (["--dataset", ROOMS], rf"{ROOMS} has no clips of rasters"),
    ):
        monkeypatch.setattr(sys, "argv", ["demo.py", *clips, *arguments, *output])
        with pytest.raises(SystemExit, match=message):
            tool.main()
    # A clip that is shorter than what the model is made for is reported, others go on.
    longer = Path(clips[1])
    longer.write_text(longer.read_text() + "\ndataloader.test.mapper.n_past = 9\n")
    assert run(*clips, *output) == 1
    assert "n_past=9" in capsys.readouterr().err
    assert written(tmp_path / "found") == ["index.html"]


def test_image_mode_works_like_other_detectors(embedded_names: Path, tmp_path: Path) -> None:
    options, output = prepare(tmp_path, _IMAGES), tmp_path / "found"
    assert run(*options, "--count", 1, "--output", output) == 0
    (picture,) = output.glob("*.png")
    files = ["index.html", picture.with_suffix(".json").name, picture.name]
    assert written(output) == sorted(files)
    # Image; boxes and masks; ground truth.
    assert cv2.imread(str(picture)).shape == (326, 3 * 404, 3)
    objects = json.loads(picture.with_suffix(".json").read_text())["objects"]
    assert len(objects) == 5
    for each in objects:
        assert rle.decode(each["mask"]).shape == (120, 160)

    photo = tmp_path / "a photo.png"
    photo.write_bytes(Path(DatasetCatalog.get(ROOMS)[0]["file_name"]).read_bytes())
    assert run(*options, "--input", photo, "--output", output) == 0
    assert json.loads((output / "a photo.json").read_text())["objects"] == objects
