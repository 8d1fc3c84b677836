"""Counting over datasets: hand-worked numbers, the embedded sets, a plain COCO file."""

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from roca_nocs.data.cad_meshes import mesh_finder
from roca_nocs.data.coco_json import read_json
from roca_nocs.data.datasets import load_coco_format, register_coco_format
from roca_nocs.data.statistics import (
    DEPTH_BIN,
    bin_shares,
    box_shares,
    collect_statistics,
    depth_histogram,
    depth_quantile,
    instances_per_class,
    object_to_camera,
    objects_per_image,
    occlusion_from_models,
)

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location(
    "dataset_statistics", ROOT / "tools/dataset_statistics.py"
)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


def annotation(category: int, box: list[float], **fields: Any) -> dict[str, Any]:
    return {"category_id": category, "bbox": box, "bbox_mode": BoxMode.XYWH_ABS, **fields}


RECORDS = [
    {
        "file_name": "a.jpg",
        "image_id": 1,
        "height": 30,
        "width": 40,
        "annotations": [
            annotation(2, [0, 0, 12, 10]),
            annotation(0, [5, 5, 20, 15], iscrowd=1),
            {"category_id": 2, "bbox": [10, 5, 40, 20], "bbox_mode": BoxMode.XYXY_ABS},
        ],
    },
    {"file_name": "b.jpg", "image_id": 2, "height": 10, "width": 10, "annotations": []},
    {
        "file_name": "c.jpg",
        "image_id": 3,
        "height": 10,
        "width": 20,
        "annotations": [annotation(1, [0, 0, 20, 10])],
    },
]


def test_counts_leave_out_crowds() -> None:
    assert objects_per_image(RECORDS).tolist() == [2, 0, 1]
    assert instances_per_class(RECORDS, 4).tolist() == [0, 1, 2, 0]
    # 12 * 10 and 30 * 15 of 1200 pixels, 200 of 200.
    assert box_shares(RECORDS).tolist() == [0.1, 0.375, 1.0]


def test_no_records() -> None:
    statistics = collect_statistics([], ["chair"])
    assert statistics.instances_per_class.tolist() == [0]
    for values in (statistics.objects_per_image, statistics.box_shares, statistics.visibility):
        assert len(values) == 0
    assert statistics.depth_limits == (0.0, 0.0)


def test_unknown_category_is_named() -> None:
    with pytest.raises(ValueError, match=r"image_id=1, file a.jpg: category_id is 2; .* 0 to 1"):
        instances_per_class(RECORDS, 2)


def test_shares_of_bins() -> None:
    shares = bin_shares(np.array([0.0, 0.2, 0.49, 0.5, 1.0]), [0, 0.25, 0.5, 1])
    assert shares.tolist() == [0.4, 0.2, 0.4]
    assert bin_shares(np.zeros(0), [0, 0.5, 1]).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"values from 0\.5 to 1\.5 do not all lie within"):
        bin_shares(np.array([0.5, 1.5]), [0, 1])


def test_depth_histogram_skips_unmeasured_pixels() -> None:
    assert DEPTH_BIN == 0.05
    first = np.array([[0.0, 0.02, 0.03], [0.0, 0.07, 0.0]])
    second = np.array([[0.17, 0.01]])
    counts, limits = depth_histogram([first, np.zeros((4, 4)), second])
    assert counts.tolist() == [3, 1, 0, 1]
    assert limits == (0.01, 0.17)
    counts, limits = depth_histogram([np.zeros((4, 4))])
    assert counts.tolist() == [] and limits == (0.0, 0.0)


def test_depth_quantiles_are_linear_within_a_bin() -> None:
    counts = np.array([0, 4, 0, 4])
    assert depth_quantile(counts, 0.25) == pytest.approx(0.075)
    assert depth_quantile(counts, 0.75) == pytest.approx(0.175)
    assert depth_quantile(counts, 1.0) == pytest.approx(0.2)


def plate_record(folder: Path, x: float) -> tuple[dict[str, Any], Any]:
    """A unit square 2 m ahead, moved to the right by ``x`` metres: 20 x 20 pixels."""
    instances = np.zeros((30, 40), np.uint8)
    instances[10:15, 10:30] = 7
    name = str(folder / "instance.png")
    assert cv2.imwrite(name, instances)
    square = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    pose = {"q": [1.0, 0, 0, 0], "t": [x, 0, 2.0], "s": [1.0, 1, 1]}
    model = {"catid_cad": "1", "id_cad": "plate"}
    record = {
        "layout": "scan2cad",
        "file_name": "plate.jpg",
        "image_id": 5,
        "height": 30,
        "width": 40,
        "intrinsics": np.array([[40.0, 0, 19.5], [0, 40, 14.5], [0, 0, 1]]),
        "instance_file_name": name,
        "annotations": [annotation(0, [10, 10, 20, 5], alignment_id=7, model=model, **pose)],
    }
    return record, lambda *key: (square, np.array([[0, 1, 2], [0, 2, 3]]))


@pytest.mark.parametrize(
    ("x", "visibility", "truncation"), [(0, 0.25, 0), (1, 0.5, 0.5), (5, 0, 1)]
)
def test_occlusion_of_a_plate(
    tmp_path: Path, x: float, visibility: float, truncation: float
) -> None:
    """100 pixels are visible, of 400, of the 200 that remain inside, of none."""
    record, mesh = plate_record(tmp_path, x)
    visible, outside = occlusion_from_models(record, mesh)
    assert visible.tolist() == [visibility]
    assert outside == pytest.approx([truncation], abs=1e-9)
    empty = occlusion_from_models({**record, "annotations": []}, mesh)
    assert [len(values) for values in empty] == [0, 0]


def test_object_to_camera_is_a_quarter_turn_with_scale() -> None:
    half = np.sqrt(0.5)
    matrix = object_to_camera({"q": [half, 0, 0, half], "t": [1, 2, 3], "s": [2, 3, 4]})
    # x of the model becomes y of the camera, twice as long; y becomes -x, three times as long.
    expected = [[0, -3, 0, 1], [2, 0, 0, 2], [0, 0, 4, 3], [0, 0, 0, 1]]
    assert np.allclose(matrix, expected)


def test_occlusion_of_rooms_is_that_of_the_generator(embedded_names: Path) -> None:
    """From the files alone: meshes of the catalogue, annotated poses, id maps."""
    name = "rooms_tiny_train"
    data = read_json(MetadataCatalog.get(name).json_file)
    written = {each["id"]: each for each in data["annotations"]}
    mesh = mesh_finder(name)
    compared = 0
    for record in DatasetCatalog.get(name)[:10]:
        visible, outside = occlusion_from_models(record, mesh)
        expected = [written[each["annotation_id"]] for each in record["annotations"]]
        assert visible == pytest.approx([each["visibility"] for each in expected], abs=0.01)
        assert outside == pytest.approx([each["truncation"] for each in expected], abs=2e-4)
        compared += len(expected)
    assert compared > 20


def test_table_and_plot_of_the_tiny_sets(
    embedded_names: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "plot.png"
    tool.main(["--dataset", "rooms_tiny_val", "tabletop_tiny_val", "--output", str(picture)])
    rows = read_table(capsys.readouterr().out)
    for column, name in enumerate(("rooms_tiny_val", "tabletop_tiny_val")):
        data = read_json(MetadataCatalog.get(name).json_file)
        names = {each["id"]: each["name"] for each in data["categories"]}
        counts = Counter(names[each["category_id"]] for each in data["annotations"])
        for each in names.values():
            assert rows[f"instances: {each}"][column] == str(counts[each])
        assert rows["objects"][column] == str(len(data["annotations"]))
        assert rows["images"][column] == "16"
    for kind in ("visibility", "truncation"):
        for column in range(2):
            shares = [float(v[column]) for k, v in rows.items() if k.startswith(f"{kind} ")]
            assert len(shares) == 5 and sum(shares) == pytest.approx(100, abs=0.3)
    nearest, farthest = map(float, rows["depth, m: smallest, largest"][1].split(", "))
    assert 0.2 <= nearest < farthest < 9
    image = cv2.imread(str(picture))
    # Both columns leave lines of their colours.
    assert image.shape == (512, 840, 3)
    for color in ((180, 119, 31), (14, 127, 255)):
        assert (image == color).all(axis=2).sum() > 200


def read_table(text: str) -> dict[str, list[str]]:
    lines = [line.strip().strip("|").split("|") for line in text.splitlines()]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_some_images_are_spread_evenly(embedded_names: Path) -> None:
    records = DatasetCatalog.get("rooms_tiny_val")
    chosen = [records[0], records[8], records[15]]
    statistics = tool.statistics_of("rooms_tiny_val", 3)
    assert statistics.objects_per_image.tolist() == [len(each["annotations"]) for each in chosen]
    assert len(tool.statistics_of("rooms_tiny_val", 99).objects_per_image) == 16


@pytest.fixture
def coco_file(tmp_path: Path) -> Path:
    """Two images, three objects that know their visibility, no depth."""
    for name in ("0.jpg", "1.jpg"):
        assert cv2.imwrite(str(tmp_path / name), np.zeros((30, 40, 3), np.uint8))
    boxes = [(1, 2, [0, 0, 20, 15]), (1, 5, [3, 3, 4, 4]), (2, 5, [0, 0, 40, 30])]
    occlusion = [(1.0, 0.0), (0.3, 0.0), (0.5, 0.75)]
    data = {
        "images": [
            {"id": i + 1, "height": 30, "width": 40, "file_name": f"{i}.jpg"} for i in range(2)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "iscrowd": 0,
                "visibility": visibility,
                "truncation": truncation,
            }
            for number, ((image, category, box), (visibility, truncation)) in enumerate(
                zip(boxes, occlusion, strict=True), start=1
            )
        ],
        "categories": [{"id": 2, "name": "cup"}, {"id": 5, "name": "fork"}],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(data))
    return path


def test_fields_of_the_annotations_are_used(coco_file: Path) -> None:
    keys = ("visibility", "truncation")
    records = load_coco_format(coco_file, coco_file.parent, extra_annotation_keys=keys)
    statistics = collect_statistics(records, ["cup", "fork"])
    assert statistics.visibility.tolist() == [1.0, 0.3, 0.5]
    assert statistics.truncation.tolist() == [0.0, 0.0, 0.75]


def test_plain_coco_file(
    coco_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "statistics_of_plain_coco"
    register_coco_format(name, {}, coco_file, coco_file.parent)
    try:
        tool.main(["--dataset", name, "--output", str(tmp_path / "plot.png")])
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
    rows = read_table(capsys.readouterr().out)
    assert rows["objects per image: mean"] == ["1.50"]
    assert [rows[f"instances: {each}"] for each in ("cup", "fork")] == [["1"], ["2"]]
    assert rows["box area, % of the image: 5 %, median, 95 %"] == ["3.70, 25.00, 92.50"]
    assert not any("depth" in title or "visibility" in title for title in rows)
    assert (tmp_path / "plot.png").stat().st_size > 10000


def test_mistakes_are_named(
    coco_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tool.main(["--dataset", "rooms_tiny_val", "--images", "0"])
    assert "--images is 0; at least one is needed" in capsys.readouterr().err
    DatasetCatalog.register("statistics_of_nothing", list)
    try:
        with pytest.raises(SystemExit, match="statistics_of_nothing has no images"):
            tool.main(["--dataset", "statistics_of_nothing"])
    finally:
        DatasetCatalog.pop("statistics_of_nothing")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="needs matplotlib: pip install"):
        tool.plot({}, "plot.png")
