"""Contact sheets: what is drawn agrees with the samples, for every layout."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from roca_nocs.data.cad_meshes import mesh_finder
from roca_nocs.data.datasets import register_coco_format
from roca_nocs.data.mappers import CocoMapper, SceneMapper

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("visualize_data", ROOT / "tools/visualize_data.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

GAP, HEAD = 4, 22


def run(monkeypatch: pytest.MonkeyPatch, output: Path, *arguments: str) -> np.ndarray:
    """The tool's picture, (H, W, 3) BGR."""
    command = ["visualize_data.py", *arguments, "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    tool.main()
    return cv2.imread(str(output))


def cells(sheet: np.ndarray, height: int, width: int) -> np.ndarray:
    """(rows, columns, height, width, 3) pictures of a contact sheet."""
    rows = (sheet.shape[0] - HEAD) // (height + GAP)
    columns = sheet.shape[1] // (width + GAP)
    grid = sheet[HEAD:].reshape(rows, height + GAP, columns, width + GAP, 3)
    return grid.swapaxes(1, 2)[:, :, :height, :width]


@pytest.mark.parametrize(
    ("name", "columns"),
    [("rooms_tiny_train", 6), ("tabletop_tiny_train", 6), ("tabletop_tiny_real_test", 5)],
)
def test_sheet_of_an_embedded_set(
    embedded_names: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    columns: int,
) -> None:
    """Image, boxes and masks, depth, (full depth,) NOCS map, wireframes; the seed decides all."""
    arguments = ("--dataset", name, "--count", "3", "--seed", "4")
    sheet = run(monkeypatch, tmp_path / "sheet.png", *arguments)
    pictures = cells(sheet, 120, 160)
    assert pictures.shape[:2] == (3, columns)
    for row in pictures:
        for first in range(columns):
            assert all((row[first] != other).any() for other in row[first + 1 :])
    again = run(monkeypatch, tmp_path / "again.png", *arguments)
    assert np.array_equal(sheet, again)
    other = run(monkeypatch, tmp_path / "other.png", *arguments[:-1], "5")
    assert not np.array_equal(sheet, other)


@pytest.mark.parametrize("name", ["rooms_tiny_train", "tabletop_tiny_train"])
def test_wireframes_surround_the_masks(embedded_names: Path, name: str) -> None:
    """After jitter and roll, an unoccluded object's wireframe has the box of its mask."""
    records = DatasetCatalog.get(name)
    mapper = tool.build_mapper(records, None)
    mesh = mesh_finder(name)
    compared = 0
    for record in records[:12]:
        sample = mapper(record)
        instances = sample["instances"]
        blank = np.zeros((*instances.image_size, 3), np.uint8)
        for row in range(len(instances)):
            single = {**sample, "instances": instances[row : row + 1]}
            drawn = tool.draw_cads(blank, single, mesh).any(axis=2)
            box = instances.gt_boxes.tensor[row].numpy()
            lines = np.array([*np.argwhere(drawn).min(0)[::-1], *np.argwhere(drawn).max(0)[::-1]])
            lines[2:] += 1
            # Never smaller than what is visible; a line is up to two pixels wider than a surface.
            assert (lines[:2] <= box[:2] + 1.5).all() and (lines[2:] >= box[2:] - 1.5).all()
            whole = (box[:2] > 3).all() and (box[2:] < [157, 117]).all()
            compared += whole and np.abs(lines - box).max() <= 2.5
    assert compared >= 8


def test_pictures_of_a_sample(embedded_names: Path) -> None:
    name = "rooms_tiny_train"
    records = DatasetCatalog.get(name)
    sample = tool.build_mapper(records, None)(records[0])
    names = MetadataCatalog.get(name).thing_classes
    drawn = tool.pictures(sample, names, mesh_finder(name))
    titles = ["image", "boxes, masks", "depth", "depth, full", "NOCS", "CAD models"]
    assert list(drawn) == titles
    inside = (sample["instance"] > 0).numpy()
    assert np.array_equal(drawn["depth"].any(axis=2), inside)
    assert not drawn["NOCS"][~inside].any()
    assert drawn["depth, full"].any(axis=2).sum() > inside.sum()
    assert list(tool.pictures(sample, names, None)) == titles[:-1]


def test_flips_of_a_config_leave_out_poses(
    embedded_names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training config of the rooms mirrors images: no NOCS maps, no wireframes then."""
    config = str(ROOT / "configs/mask_rcnn/rooms_r18.py")
    records = DatasetCatalog.get("rooms_tiny_train")
    mapper = tool.build_mapper(records, config)
    assert isinstance(mapper, SceneMapper)
    assert mapper.maps == ("depth", "depth_full") and not mapper.poses
    arguments = ("--dataset", "rooms_tiny_train", "--count", "2", "--config-file", config)
    assert cells(run(monkeypatch, tmp_path / "sheet.png", *arguments), 120, 160).shape[:2] == (2, 4)


DETR_CONFIG = """
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from roca_nocs.data.detr_mapper import DetrDatasetMapper

dataloader = dict(train=dict(mapper=L(DetrDatasetMapper)(
    augmentation=[{plain}],
    augmentation_with_crop={cropped},
)))
"""


@pytest.mark.parametrize("where", ["plain", "cropped"])
def test_config_with_the_mapper_of_detr(
    embedded_names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Both of its lists are used, and a flip in either of them leaves out poses."""
    resized = "L(T.Resize)(shape=(60, 80))"
    lists = {
        "plain": resized,
        "cropped": f"[{resized}, L(T.RandomCrop)(crop_type='absolute', crop_size=(30, 40))]",
    }
    config = tmp_path / "detr.py"
    config.write_text(DETR_CONFIG.format(**lists))
    records = DatasetCatalog.get("rooms_tiny_train")
    mapper = tool.build_mapper(records, str(config))
    assert isinstance(mapper, SceneMapper) and mapper.poses
    np.random.seed(0)
    sizes = {tuple(mapper(records[0])["image"].shape[1:]) for _ in range(12)}
    assert sizes == {(60, 80), (30, 40)}
    arguments = ("--dataset", "rooms_tiny_train", "--count", "2", "--config-file", str(config))
    sheet = run(monkeypatch, tmp_path / "sheet.png", *arguments)
    assert sheet.shape[1] % 6 == 0  # with NOCS maps and wireframes

    flip = "L(T.RandomFlip)()"
    lists[where] = f"{flip}, {resized}" if where == "plain" else f"[{flip}]"
    config.write_text(DETR_CONFIG.format(**lists))
    assert not tool.build_mapper(records, str(config)).poses
    lists["cropped"] = "None"
    config.write_text(DETR_CONFIG.format(**lists))
    assert tool.build_mapper(records, str(config)).poses == (where == "cropped")


def test_published_config_of_align_detr(coco_name: str) -> None:
    mapper = tool.build_mapper(
        DatasetCatalog.get(coco_name), str(ROOT / "configs/aligndetr/r50_12ep.py")
    )
    assert isinstance(mapper, CocoMapper)
    np.random.seed(0)
    heights = [mapper(record)["image"].shape[1] for record in DatasetCatalog.get(coco_name)]
    assert min(heights) >= 384


def test_mapper_without_augmentations(embedded_names: Path, tmp_path: Path) -> None:
    config = tmp_path / "bare.py"
    config.write_text("dataloader = dict(train=dict(mapper=dict(is_train=True)))")
    message = r"bare\.py: dataloader\.train\.mapper has neither 'augmentations' nor .*is_train"
    with pytest.raises(SystemExit, match=message):
        tool.build_mapper(DatasetCatalog.get("rooms_tiny_train"), str(config))


@pytest.fixture(params=[True, False], ids=["masks", "boxes"])
def coco_name(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A plain COCO file: a red square on grey, and an image without any object."""
    for number in range(2):
        image = np.full((30, 40, 3), 90, np.uint8)
        if number == 0:
            image[5:15, 10:30] = (0, 0, 255)
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    square: dict[str, Any] = {
        "id": 1,
        "image_id": 1,
        "category_id": 3,
        "bbox": [10, 5, 20, 10],
        "area": 200,
        "iscrowd": 0,
    }
    if request.param:
        square["segmentation"] = [[10, 5, 30, 5, 30, 15, 10, 15]]
    data = {
        "images": [
            {"id": i + 1, "height": 30, "width": 40, "file_name": f"{i}.png"} for i in range(2)
        ],
        "annotations": [square],
        "categories": [{"id": 3, "name": "tile"}],
    }
    (tmp_path / "tiles.json").write_text(json.dumps(data))
    name = f"tiles_{request.param}"
    register_coco_format(name, {}, tmp_path / "tiles.json", tmp_path)
    yield name
    DatasetCatalog.pop(name)
    MetadataCatalog.pop(name)


def test_plain_coco_file(coco_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = DatasetCatalog.get(coco_name)
    assert isinstance(tool.build_mapper(records, None), CocoMapper)
    sheet = run(monkeypatch, tmp_path / "sheet.png", "--dataset", coco_name)
    pictures = cells(sheet, 30, 40).astype(int)
    assert pictures.shape[:2] == (2, 2)
    changed = np.abs(pictures[:, 0] - pictures[:, 1]).sum(axis=(1, 2, 3)) > 0
    # One of the two has an object, whose outline is drawn; a mask also tints the inside.
    assert changed.sum() == 1
    image, drawn = pictures[int(changed.argmax())]
    tinted = (image[8:12, 24:28] != drawn[8:12, 24:28]).any()
    assert tinted == coco_name.endswith("True")


def test_folder_that_does_not_exist(
    coco_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"cannot write .*absent/sheet\.png"):
        run(monkeypatch, tmp_path / "absent" / "sheet.png", "--dataset", coco_name)
