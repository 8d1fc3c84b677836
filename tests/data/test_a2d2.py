"""A2D2: frames, order of the 2D boxes, conversion of rotations, bad input."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.a2d2 import axis_angle, load_a2d2
from roca_nocs.data.datasets.box3d_records import wrap_angle

K = [[1000.0, 0.0, 960.0], [0.0, 1000.0, 604.0], [0.0, 0.0, 1.0]]
# The camera of the vehicle: 1.7 m ahead and 0.9 m up, turned a little to the left.
TURN = 0.1
VIEW = {
    "origin": [1.7, 0.0, 0.9],
    "x-axis": [2 * math.cos(TURN), 2 * math.sin(TURN), 0.0],
    "y-axis": [0.5 - math.sin(TURN), math.cos(TURN), 0.0],  # not yet orthogonal, nor of unit length
}
SEQUENCES = [f"2018080{number}_000000" for number in range(1, 7)]


def box_2d(center: Any, size: Any, yaw: float) -> list[float]:
    """Left, top, right, bottom of a box in the camera's own frame (x forward, y left, z up)."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
    corners = np.asarray(center) + (signs * size) @ axis_angle(np.array([0, 0, 1.0]), yaw).T
    u = 960 - 1000 * corners[:, 1] / corners[:, 0]
    v = 604 - 1000 * corners[:, 2] / corners[:, 0]
    box = [u.min(), v.min(), u.max(), v.max()]
    return np.clip(box, 0, [1920, 1208, 1920, 1208]).tolist()


def to_vehicle(center: Any) -> list[float]:
    x, y, z = center
    turned = [math.cos(TURN) * x - math.sin(TURN) * y, math.sin(TURN) * x + math.cos(TURN) * y, z]
    return (np.array(turned) + VIEW["origin"]).tolist()


def write(root: Path, *, vehicle: bool = False, swapped: bool = False) -> Path:
    """Six sequences with two images each; boxes are known in the camera's own frame."""
    rng = np.random.default_rng(4)
    (root / "cams_lidars.json").write_text(
        json.dumps(
            {
                "cameras": {
                    "front_center": {"CamMatrix": K, "Resolution": [1920, 1208], "view": VIEW}
                }
            }
        )
    )
    for sequence in SEQUENCES:
        base = root / "camera_lidar_semantic_bboxes" / sequence
        for kind in ("camera", "label3D"):
            (base / kind / "cam_front_center").mkdir(parents=True)
        stem = sequence.replace("_", "")
        for number in (7, 12):
            entries = {}
            for index, name in enumerate(("Car", "VanSUV", "Truck", "Pedestrian")):
                center = [rng.uniform(8, 30), rng.uniform(-4, 4), rng.uniform(-1.5, 0)]
                size, yaw = [4.0 + index, 1.5, 1.0 + 0.2 * index], rng.uniform(-3, 3)
                left, top, right, bottom = box_2d(center, size, yaw)
                entries[f"box_{index}"] = {
                    "class": name,
                    "id": f"{index}",
                    "alpha": 0.0,
                    "center": to_vehicle(center) if vehicle else center,
                    "size": size,
                    "axis": [0.0, 0.0, -1.0],
                    "rot_angle": -(yaw + TURN if vehicle else yaw),
                    "truncation": 0.25,
                    "occlusion": "1.0",
                    "2d_bbox": [top, left, bottom, right]
                    if swapped
                    else [left, top, right, bottom],
                    "true": [*center, yaw],
                }
            label = base / f"label3D/cam_front_center/{stem}_label3D_frontcenter_{number:09d}.json"
            label.write_text(json.dumps(entries))
            picture = base / f"camera/cam_front_center/{stem}_camera_frontcenter_{number:09d}.png"
            Image.new("RGB", (16, 10)).save(picture)
    return root


def first_label(root: Path, sequence: int = 0) -> Path:
    base = root / "camera_lidar_semantic_bboxes" / SEQUENCES[sequence]
    return sorted((base / "label3D/cam_front_center").iterdir())[0]


@pytest.mark.parametrize("vehicle", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_records_are_the_same_whatever_the_files_mean(
    tmp_path: Path,
    vehicle: bool,
    swapped: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("roca_nocs"), "propagate", True)
    caplog.set_level(logging.INFO, logger="roca_nocs")
    records = load_a2d2(write(tmp_path, vehicle=vehicle, swapped=swapped), "train")
    assert ("top, left" if swapped else "left, top") in caplog.text
    assert ("of the vehicle" if vehicle else "of the camera") in caplog.text
    record = records[0]
    assert (record["layout"], record["image_id"], record["scene_id"]) == ("a2d2", 1, SEQUENCES[0])
    assert (record["height"], record["width"]) == (1208, 1920)
    np.testing.assert_array_equal(record["projection"], np.column_stack([K, np.zeros(3)]))
    assert [each["category_id"] for each in record["annotations"]] == [0, 0, 1]  # without the truck
    entries = list(json.loads(first_label(tmp_path).read_text()).values())
    for annotation, entry in zip(
        record["annotations"], (entries[0], entries[1], entries[3]), strict=True
    ):
        x, y, z, yaw = entry["true"]
        np.testing.assert_allclose(annotation["center"], [-y, -z, x], atol=1e-9)
        length, width, height = entry["size"]
        assert annotation["dimensions"] == [width, height, length]
        assert annotation["rotation_y"] == pytest.approx(wrap_angle(-yaw - math.pi / 2), abs=1e-9)
        assert np.linalg.det(annotation["rotation"]) == pytest.approx(1.0)
        np.testing.assert_allclose(
            annotation["bbox"], box_2d((x, y, z), entry["size"], yaw), atol=1e-6
        )
        assert (annotation["truncation"], annotation["occlusion"]) == (0.25, 1)


def test_boxes_out_of_sight_do_not_decide(tmp_path: Path, caplog: Any, monkeypatch: Any) -> None:
    """Sixty boxes behind the camera come first; by them alone nothing could be told."""
    monkeypatch.setattr(logging.getLogger("roca_nocs"), "propagate", True)
    caplog.set_level(logging.INFO, logger="roca_nocs")
    path = first_label(write(tmp_path, swapped=True))
    entries = json.loads(path.read_text())
    behind = {
        f"behind_{number}": entries["box_0"] | {"center": [-9.0, 0.0, 0.0]} for number in range(60)
    }
    path.write_text(json.dumps(behind | entries))
    load_a2d2(tmp_path, "train")
    assert "2d_bbox is (top, left, bottom, right): mean IoU 1.00 over 40 boxes" in caplog.text


def test_every_fifth_sequence_is_for_validation(tmp_path: Path) -> None:
    write(tmp_path)
    train, val = load_a2d2(tmp_path, "train"), load_a2d2(tmp_path, "val")
    assert {record["scene_id"] for record in val} == {SEQUENCES[4]}
    assert (len(train), len(val)) == (10, 2)
    with pytest.raises(ValueError, match="split is 'test'"):
        load_a2d2(tmp_path, "test")


def test_object_behind_the_camera_is_left_out_and_partly_visible_one_clipped(
    tmp_path: Path,
) -> None:
    write(tmp_path)
    path = first_label(tmp_path)
    entries = json.loads(path.read_text())
    entries["box_0"] |= {"center": [-9.0, 0.0, 0.0]}
    # A car that reaches from behind the camera to 1.5 m ahead, on the right.
    entries["box_1"] |= {"center": [-0.5, -2.0, -1.0], "size": [4.0, 2.0, 1.5], "rot_angle": 0.0}
    path.write_text(json.dumps(entries))
    record = load_a2d2(tmp_path, "train")[0]
    assert [each["annotation_id"] for each in record["annotations"]] == [1, 3]
    left, top, right, bottom = record["annotations"][0]["bbox"]
    # The nearest visible corner ahead is 1.5 m away, 1 m to the right and 0.25 m down.
    assert left == pytest.approx(960 + 1000 * 1.0 / 1.5)
    assert top == pytest.approx(604 + 1000 * 0.25 / 1.5)
    assert (right, bottom) == (1920, 1208)


def test_other_spelling_of_the_calibration(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "cams_lidars.json").rename(tmp_path / "camera_lidars.json")
    assert len(load_a2d2(tmp_path, "val")) == 2


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no calibration; expected cams_lidars\.json"):
        load_a2d2(tmp_path, "train")
    write(tmp_path)
    picture = first_label(tmp_path, 4)
    picture = Path(str(picture).replace("label3D", "camera")).with_suffix(".png")
    picture.unlink()
    with pytest.raises(DatasetError, match=picture.name):
        load_a2d2(tmp_path, "val")


def change(name: str, value: Any) -> Callable[[dict], None]:
    return lambda entries: entries["box_2"].__setitem__(name, value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("center", [1.0, 2.0]), "box_2: 'center'"),
        (change("size", [4.0, 0.0, 1.0]), "box_2: 'size' is .*positive"),
        (change("axis", [0.0, 0.0, 0.0]), "box_2: 'axis' is .*direction"),
        (change("rot_angle", float("nan")), "box_2: 'rot_angle' is not finite"),
        (lambda entries: entries["box_2"].pop("2d_bbox"), "box_2: the field '2d_bbox' is missing"),
        (lambda entries: entries.__setitem__("box_2", 3), "box_2 is 3; expected an object"),
    ],
)
def test_bad_label_is_named(tmp_path: Path, damage: Callable, message: str) -> None:
    write(tmp_path)
    path = first_label(tmp_path)
    entries = json.loads(path.read_text())
    damage(entries)
    path.write_text(json.dumps(entries))
    with pytest.raises(DatasetError, match=message) as error:
        load_a2d2(tmp_path, "train")
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"x-axis": [0, 0, 0]}, "'x-axis' is"),
        ({"y-axis": [4 * math.cos(TURN), 4 * math.sin(TURN), 0]}, "'y-axis' is parallel"),
        ({"origin": None}, "'origin'"),
    ],
)
def test_bad_calibration_is_named(tmp_path: Path, view: dict, message: str) -> None:
    write(tmp_path)
    path = tmp_path / "cams_lidars.json"
    data = json.loads(path.read_text())
    data["cameras"]["front_center"]["view"] |= view
    path.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=message):
        load_a2d2(tmp_path, "train")
