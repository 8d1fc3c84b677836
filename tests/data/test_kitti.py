"""KITTI's label and calibration files, and the records made of them."""

import math
from pathlib import Path

import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.box3d_records import heading, wrap_angle
from roca_nocs.data.datasets.kitti import load_kitti, read_projection, yaw_rotation
from roca_nocs.data.datasets.kitti_files import (
    KittiLabels,
    calibration_text,
    label_text,
    read_calibration,
    read_labels,
)

P2 = np.array([[700.0, 0, 600, 45], [0, 710, 170, 0.2], [0, 0, 1, 0.003]])

LABELS = """\
Car 0.10 1 -1.60 100.50 120.00 200.25 180.00 1.50 1.60 4.00 2.00 1.70 20.00 -1.50
Van 0.00 0 1.00 10.00 20.00 60.00 70.00 2.00 1.90 5.00 -5.00 1.80 30.00 0.80
Pedestrian 0.00 0 0.50 300.00 100.00 320.00 160.00 1.80 0.60 0.80 1.00 1.60 12.00 3.14
DontCare -1 -1 -10 500.00 150.00 540.00 170.00 -1 -1 -1 -1000 -1000 -1000 -10
Truck 0.00 0 1.00 10.00 20.00 60.00 70.00 3.00 2.50 9.00 -5.00 1.80 40.00 0.80
Cyclist 0.00 3 0.20 400.00 120.00 430.00 170.00 1.70 0.60 1.80 3.00 1.70 15.00 0.40

Car 0.80 0 1.20 0.00 120.00 30.00 180.00 1.50 1.60 4.00 -6.00 1.70 7.00 1.00
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three training images of different size, the second without any object, and a test image."""
    for folder, names in (("training", (3, 7, 11)), ("testing", (2,))):
        for kind in ("image_2", "label_2", "calib"):
            (tmp_path / folder / kind).mkdir(parents=True)
        for number in names:
            size = (120 + number, 40)
            Image.new("RGB", size).save(tmp_path / folder / f"image_2/{number:06d}.png")
            text = calibration_text({"P0": P2[:, ::-1].copy(), "P2": P2, "R0_rect": np.eye(3)})
            (tmp_path / folder / f"calib/{number:06d}.txt").write_text(text)
    for number, text in ((3, LABELS), (7, ""), (11, LABELS)):
        (tmp_path / f"training/label_2/{number:06d}.txt").write_text(text)
    (tmp_path / "ImageSets").mkdir()
    for split, numbers in {"train": (3, 7), "val": (11,), "test": (2,)}.items():
        lines = "".join(f"{number:06d}\n" for number in numbers)
        (tmp_path / f"ImageSets/{split}.txt").write_text(lines)
    return tmp_path


def label_file(root: Path, text: str) -> Path:
    path = root / "training/label_2/000003.txt"
    path.write_text(text)
    return path


def test_record_field_by_field(root: Path) -> None:
    first, empty = load_kitti(root, "train")
    assert first["layout"] == "kitti"
    assert first["file_name"] == str(root / "training/image_2/000003.png")
    assert (first["height"], first["width"]) == (40, 123)
    assert (empty["height"], empty["width"]) == (40, 127)
    assert (first["image_id"], first["scene_id"]) == (3, "000003")
    np.testing.assert_array_equal(first["projection"], P2)
    np.testing.assert_array_equal(first["intrinsics"], P2[:, :3])
    car, pedestrian = first["annotations"]
    assert car["bbox"] == [100.5, 120.0, 200.25, 180.0]
    assert car["bbox_mode"] == BoxMode.XYXY_ABS
    assert (car["category_id"], car["iscrowd"], car["annotation_id"]) == (0, 0, 0)
    assert car["dimensions"] == [1.6, 1.5, 4.0]  # the file has height, width, length
    assert car["center"] == [2.0, 1.7 - 0.75, 20.0]  # the file has the bottom
    assert car["rotation_y"] == pytest.approx(-1.5)
    # Computed: the stored -1.60 is rounded.
    assert car["alpha"] == pytest.approx(-1.5 - math.atan2(2.0, 20.0), abs=1e-12)
    np.testing.assert_allclose(car["rotation"], yaw_rotation(-1.5), atol=1e-15)
    assert car["has3d"] is True
    assert (car["truncation"], car["occlusion"]) == (0.1, 1)
    assert (pedestrian["category_id"], pedestrian["annotation_id"]) == (1, 2)
    # Van, DontCare, the occluded cyclist and the truncated car; but not the truck.
    left = [box[0] for box in first["ignore_boxes"]]
    assert left == [10.0, 500.0, 400.0, 0.0]
    ignored = [
        (each["annotation_id"], each["category_id"], each["has3d"]) for each in first["ignored"]
    ]
    assert ignored == [(1, 0, True), (5, 2, True), (6, 0, True)]  # the van as a car
    assert first["label_file"] == str(root / "training/label_2/000003.txt")


def test_image_without_objects_and_images_without_labels(root: Path) -> None:
    empty = load_kitti(root, "train")[1]
    assert empty["annotations"] == empty["ignored"] == empty["ignore_boxes"] == []
    (test,) = load_kitti(root, "test")
    assert test["annotations"] == [] and "label_file" not in test
    assert test["file_name"].endswith("testing/image_2/000002.png")


def test_classes_can_be_chosen(root: Path) -> None:
    (record,) = load_kitti(root, "val", classes=("Truck", "Van"))
    assert [each["category_id"] for each in record["annotations"]] == [1, 0]
    assert len(record["ignore_boxes"]) == 1  # vans are no neighbours of trucks
    (record,) = load_kitti(root, "val", classes=("Car", "Van"))
    # Where they are a class of their own, they are no neighbours of cars either.
    assert [each["category_id"] for each in record["annotations"]] == [0, 1]
    assert [each["annotation_id"] for each in record["ignored"]] == [6]


def test_labels_keep_everything(root: Path) -> None:
    labels = read_labels(root / "training/label_2/000003.txt")
    assert len(labels) == 7
    assert labels.types[3:5] == ("DontCare", "Truck")
    assert labels.alpha[0] == -1.6 and labels.occlusion[3] == -1
    assert np.isnan(labels.scores).all()
    assert len(read_labels(root / "training/label_2/000007.txt")) == 0


def test_written_labels_are_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count = 6
    labels = KittiLabels(
        types=("Car",) * count,
        truncation=rng.uniform(0, 1, count).round(4),
        occlusion=rng.integers(0, 4, count),
        alpha=rng.uniform(-np.pi, np.pi, count).round(6),
        boxes=rng.uniform(0, 900, (count, 4)).round(3),
        dimensions=rng.uniform(0.5, 5, (count, 3)),
        centers=rng.uniform(-40, 40, (count, 3)),
        rotation_y=rng.uniform(-np.pi, np.pi, count).round(6),
        scores=rng.uniform(0, 1, count).round(6),
    )
    path = tmp_path / "labels.txt"
    path.write_text(label_text(labels))
    assert all(len(line.split()) == 16 for line in path.read_text().splitlines())
    read = read_labels(path)
    for name in ("truncation", "occlusion", "alpha", "boxes", "rotation_y", "scores"):
        np.testing.assert_array_equal(getattr(read, name), getattr(labels, name))
    np.testing.assert_allclose(read.dimensions, labels.dimensions, atol=5.1e-7)
    np.testing.assert_allclose(read.centers, labels.centers, atol=1.1e-6)


def test_calibration_is_read_by_key(tmp_path: Path) -> None:
    path = tmp_path / "calib.txt"
    text = calibration_text({"P2": P2, "R0_rect": np.eye(3), "Tr_velo_to_cam": np.eye(3, 4)})
    assert text.endswith("\n\n")
    lines = text.splitlines()
    path.write_text(
        "\n".join([lines[2], "", "calib_time: 09-Jan-2012 13:57:47", lines[0]]) + "\n\n"
    )
    matrices = read_calibration(path)
    assert set(matrices) == {"P2", "Tr_velo_to_cam"}
    np.testing.assert_allclose(matrices["P2"], P2, rtol=1e-12)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Car 0.1 1 -1.6 100 120 200 180 1.5 1.6 4.0 2.0 1.7", r"line 2 has 13 words.*before 'z'"),
        ("Car", "has 1 words.*ends before 'truncated'"),
        (LABELS.splitlines()[0] + " 0.9 7", "has 17 words.*too many"),
        (LABELS.splitlines()[0].replace(" 20.00", " 2O.00"), r"line 2: 'z' is '2O\.00'"),
        (LABELS.splitlines()[0].replace("4.00", "nan"), "line 2: 'length' is 'nan'"),
    ],
)
def test_damaged_label_line_is_named(root: Path, line: str, message: str) -> None:
    path = label_file(root, f"{LABELS.splitlines()[2]}\n{line}\n")
    with pytest.raises(DatasetError, match=message) as error:
        load_kitti(root, "train")
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("4.00", "-4.00", r"object 0 \(Car\): height, width and length.*positive"),
        ("200.25", "90.00", r"object 0 \(Car\): the box .* has a negative size"),
    ],
)
def test_impossible_object_is_named(root: Path, old: str, new: str, message: str) -> None:
    path = label_file(root, LABELS.replace(old, new, 1))
    with pytest.raises(DatasetError, match=message) as error:
        load_kitti(root, "train")
    assert str(path) in str(error.value)


def test_missing_files_are_named(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"ImageSets/other\.txt"):
        load_kitti(root, "other")
    (root / "training/calib/000007.txt").unlink()
    with pytest.raises(DatasetError, match=r"calib/000007\.txt: no such file"):
        load_kitti(root, "train")
    (root / "training/label_2/000011.txt").unlink()
    with pytest.raises(DatasetError, match=r"label_2/000011\.txt: no such file"):
        load_kitti(root, "val")
    (root / "training/image_2/000011.png").unlink()
    with pytest.raises(DatasetError, match=r"image_2/000011\.png does not exist"):
        load_kitti(root, "val")
    (root / "testing/image_2/000002.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"000002\.png: not a readable image"):
        load_kitti(root, "test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("P0: 1 2 3\n", r"P0 has 3 numbers; expected 3 x 4"),
        ("R0_rect: 1 0 0 0 1 0 0 0 1\n", r"no line 'P2:'; the file has \['R0_rect'\]"),
        ("P2: 1 0 0 0 0 1 0 0 0 0 one 0\n", "'P2' is 'one'"),
        ("P2: -7 0 0 0 0 1 0 0 0 0 1 0\n", "focal lengths -7 and 1"),
    ],
)
def test_damaged_calibration_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "000001.txt"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message) as error:
        read_projection(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["12a", "../3"])
def test_listing_holds_numbers(root: Path, name: str) -> None:
    (root / "ImageSets/val.txt").write_text(f"000011\n{name}\n")
    with pytest.raises(DatasetError, match="is no image number"):
        load_kitti(root, "val")


def test_angles_at_the_seam() -> None:
    for angle in (-math.pi, -1.0, 0.0, 0.5, 3.0):
        assert heading(yaw_rotation(angle)) == pytest.approx(angle, abs=1e-12)
        for turns in (-2, 1, 3):
            assert wrap_angle(angle + 2 * math.pi * turns) == pytest.approx(angle, abs=1e-12)
    assert wrap_angle(math.pi) == -math.pi
    assert wrap_angle(-math.pi - 1e-16) == -math.pi
    assert -math.pi <= wrap_angle(-1e-17) < math.pi
    # The length axis points ahead at -pi/2, to the right at 0.
    np.testing.assert_allclose(yaw_rotation(-math.pi / 2)[:, 0], [0, 0, 1], atol=1e-15)
    np.testing.assert_allclose(yaw_rotation(0.0)[:, 0], [1, 0, 0], atol=1e-15)
