"""The demo serves models with 3D boxes: small untrained ones of the street and the table tops."""

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

from modeling.tiny_mono3d import priors
from roca_nocs.data.maps import read_map
from roca_nocs.data.nocs_mapper import NocsMapper
from roca_nocs.visualization.inputs import CameraChoice, InputError, record_sources
from roca_nocs.visualization.predictor import Predictor

ROOT = Path(__file__).parents[2]
STREET, TABLES = "street_tiny_val", "tabletop_tiny_val"

_spec = importlib.util.spec_from_file_location("demo", ROOT / "tools" / "demo.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

_CONFIG = """
from detectron2.config import LazyConfig
from modeling.{module} import {narrow}

_full = LazyConfig.load(r"{config}")
dataloader, model, optimizer = _full.dataloader, _full.model, _full.optimizer
lr_multiplier, train = _full.lr_multiplier, _full.train
{narrow}(model)
model.roi_heads.box_predictor.test_score_thresh = 0.0
model.roi_heads.box_predictor.test_topk_per_image = 4
dataloader.train.dataset.names = "{train}"
dataloader.test.dataset.names = "{test}"
{extra}
"""


def prepare(
    folder: Path, module: str, narrow: str, config: str, test: str, extra: str
) -> list[str]:
    """Options of the demo for a narrow model of a config, with random weights."""
    file, weights = folder / "small.py", folder / "small.pth"
    text = _CONFIG.format(
        module=module,
        narrow=narrow,
        config=ROOT / "configs" / config,
        train=test.replace("_val", "_train"),
        test=test,
        extra=extra,
    )
    file.write_text(text)
    torch.manual_seed(0)
    model = instantiate(LazyConfig.load(str(file)).model)
    if module == "tiny_mono3d":
        model.roi_heads.priors.set(priors())
    torch.save({"model": model.state_dict()}, weights)
    return ["--config-file", str(file), "--weights", str(weights), "--threshold", "0"]


@pytest.fixture
def street(embedded_names: Path, tmp_path: Path) -> list[str]:
    config = "mono3d/street_r18.py"
    resize = (
        "from detectron2.config import LazyCall as L\n"
        "from detectron2.data import transforms as T\n"
        "dataloader.test.mapper.augmentations = [L(T.Resize)(shape=(64, 160))]"
    )
    return prepare(tmp_path, "tiny_mono3d", "narrow_mono3d", config, STREET, resize)


@pytest.fixture
def tables(embedded_names: Path, tmp_path: Path) -> list[str]:
    config = "nocs/tabletop_r18.py"
    return prepare(tmp_path, "tiny_nocs", "narrow_nocs", config, TABLES, "")


def run(*arguments: object) -> int:
    return tool.run(tool.argument_parser().parse_args(list(map(str, arguments))))


def objects(file: Path) -> list[dict]:
    return json.loads(file.read_text())["objects"]


def test_street_of_a_dataset(street: list[str], tmp_path: Path) -> None:
    output = tmp_path / "found"
    assert run(*street, "--count", 1, "--output", output) == 0
    record = DatasetCatalog.get(STREET)[0]
    name = record["scene_id"]
    suffixes = ("glb", "html", "json", "png", "txt")
    expected = ["index.html", *(f"{name}.{suffix}" for suffix in suffixes)]
    assert sorted(path.name for path in output.iterdir()) == sorted(expected)
    found = objects(output / f"{name}.json")
    assert 0 < len(found) <= 4
    camera = np.array(record["projection"])
    for each in found:
        x, y, z = each["box3d"]["center"]
        # An untrained model puts objects about where their 2D boxes are.
        u, v, d = camera @ [x, y, z, 1]
        x0, y0, x1, y1 = each["box_xyxy"]
        assert d > 0 and abs(u / d - (x0 + x1) / 2) < 2 * (x1 - x0)
        assert abs(v / d - (y0 + y1) / 2) < 2 * (y1 - y0)
    assert len((output / f"{name}.txt").read_text().splitlines()) == len(found)
    # Detections above the ground truth.
    assert cv2.imread(str(output / f"{name}.png")).shape == (2 * 426, 4 * 804, 3)


def test_street_photo_with_and_without_a_camera(
    street: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = DatasetCatalog.get(STREET)[0]
    photo = record["file_name"]
    stem = Path(photo).stem
    height, width = record["height"], record["width"]
    camera = f"{2 * height},{2 * height},{(width - 1) / 2},{(height - 1) / 2}"
    assert run(*street, "--input", photo, "--output", tmp_path / "assumed") == 0
    assert "a focal length of twice the height of the image is assumed" in capsys.readouterr().err
    assert run(*street, "--input", photo, "--intrinsics", camera, "--output", tmp_path / "a") == 0
    assert capsys.readouterr().err.count("warning") == 0
    assumed, given = (objects(tmp_path / name / f"{stem}.json") for name in ("assumed", "a"))
    assert assumed == given and len(given) > 0
    # With twice the focal length the same picture shows objects twice as far away.
    longer = f"{4 * height},{4 * height},{(width - 1) / 2},{(height - 1) / 2}"
    assert run(*street, "--input", photo, "--intrinsics", longer, "--output", tmp_path / "b") == 0
    for one, other in zip(given, objects(tmp_path / "b" / f"{stem}.json"), strict=True):
        assert one["box3d"]["center"][2] * 2 == pytest.approx(other["box3d"]["center"][2], rel=1e-4)
        assert one["box3d"]["dimensions"] == pytest.approx(other["box3d"]["dimensions"], rel=1e-4)


def test_tables_of_a_dataset(tables: list[str], tmp_path: Path) -> None:
    output = tmp_path / "found"
    assert run(*tables, "--count", 1, "--output", output) == 0
    (picture,) = output.glob("*.png")
    # Input, found, 3D boxes, coordinates, measured depth; ground truth below.
    assert cv2.imread(str(picture)).shape == (2 * 326, 5 * 404, 3)
    found = objects(picture.with_suffix(".json"))
    assert len(found) > 0
    assert all((each["box3d"] is None) != (each["box3d_failure"] is None) for each in found)
    assert picture.with_suffix(".glb").is_file() and picture.with_suffix(".html").is_file()


def test_photo_of_a_table_with_and_without_depth(tables: list[str], tmp_path: Path) -> None:
    record = DatasetCatalog.get(TABLES)[0]
    photo, stem = record["file_name"], Path(record["file_name"]).stem
    depth = tmp_path / "depth.png"
    cv2.imwrite(str(depth), np.round(read_map(record, "depth") * 1000).astype(np.uint16))
    options = [*tables, "--input", photo, "--fov", 60, "--output"]
    assert run(*options, tmp_path / "a", "--depth", depth) == 0
    assert run(*options, tmp_path / "b") == 0
    scenes = [(tmp_path / name / f"{stem}.glb").stat().st_size for name in "ab"]
    assert scenes[0] > scenes[1] + 50_000  # the points
    widths = [cv2.imread(str(tmp_path / name / f"{stem}.png")).shape[1] for name in "ab"]
    assert widths == [5 * 404, 4 * 404]
    with pytest.raises(InputError, match="has to know the camera"):
        run(*tables, "--input", photo, "--output", tmp_path / "c")


def test_depth_is_for_models_that_use_it(
    street: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = DatasetCatalog.get(STREET)[0]["file_name"]
    options = [*street, "--input", photo, "--depth", photo, "--output", str(tmp_path / "a")]
    monkeypatch.setattr(sys, "argv", ["demo.py", *options])
    with pytest.raises(SystemExit, match="this model makes no use of measured depth"):
        tool.main()


def test_model_input_is_that_of_the_mapper(embedded_names: Path) -> None:
    """What a frame of a dataset becomes is what the evaluation feeds."""
    record = DatasetCatalog.get(TABLES)[0]
    mapper = NocsMapper(False, augmentations=[], image_format="RGB", depth=True)
    (read,) = record_sources([record], CameraChoice(), (), depth=True)
    prepared, expected = Predictor(torch.nn.Identity(), mapper, 0.5).prepare(read()), mapper(record)
    for name in ("image", "intrinsics", "depth"):
        assert torch.equal(prepared[name], expected[name]), name
