"""Reader of the NOCS layout: encodings, embedded tabletops, hand-made folders in both styles."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from roca_nocs.data.categories import NOCS_SYNSETS
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets import load_nocs_camera, load_nocs_real
from roca_nocs.data.datasets.nocs import (
    CLASSES,
    load_nocs,
    nocs_index_file,
)
from roca_nocs.data.datasets.nocs_frames import (
    BadSample,
    NocsFrame,
    decode_coordinates,
    decode_depth,
    decode_instances,
    read_meta,
)
from roca_nocs.data.datasets.nocs_models import ModelTable
from roca_nocs.data.datasets.nocs_objects import frame_objects
from roca_nocs.data.images import read_png
from roca_nocs.data.maps import read_map
from roca_nocs.data.restricted_pickle import load_restricted_pickle
from roca_nocs.data.synthetic.models import CATEGORIES, build_model

Records = list[dict[str, Any]]
SPLITS = [
    ("camera", "train", 40),
    ("camera", "val", 16),
    ("real", "train", 10),
    ("real", "test", 16),
]


@pytest.fixture(scope="module")
def folder(embedded_root: Path) -> Path:
    return embedded_root / "tabletop_tiny"


@pytest.fixture(scope="module")
def loaded(folder: Path) -> dict[tuple[str, str], Records]:
    return {(d, s): load_nocs(folder, d, s) for d, s, _ in SPLITS}


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of the validation images that may be changed."""
    for name in ("camera/val", "obj_models/val", "gts/val", "camera_full_depths/val"):
        shutil.copytree(folder / name, tmp_path / name)
    return tmp_path


def test_classes_agree_with_the_models() -> None:
    assert CATEGORIES["tabletop"] == CLASSES
    for name, catalog_id in NOCS_SYNSETS.items():
        assert build_model(name, 0).catalog_id == catalog_id


def test_encodings_by_hand() -> None:
    np.testing.assert_array_equal(decode_depth(np.array([[[9, 2, 5]]], np.uint8)), [[2 * 256 + 5]])
    deep = np.array([[[0, 255, 255, 255]]], np.uint8)
    assert decode_depth(deep).item() == 65535
    assert decode_depth(np.array([[1234]], np.uint16)).item() == 1234
    coordinates = decode_coordinates(np.array([[[51, 0, 255]]], np.uint8))
    np.testing.assert_allclose(coordinates, [[[1, 0, 0.8]]], atol=1e-6)
    assert decode_instances(np.array([[[1, 2, 3]]], np.uint8)).item() == 3
    with pytest.raises(ValueError, match="float32"):
        decode_depth(np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="uint16"):
        decode_coordinates(np.zeros((2, 2, 3), np.uint16))
    with pytest.raises(ValueError, match="expected 8 bits"):
        decode_instances(np.zeros((2, 2), np.uint16))


@pytest.mark.parametrize(("dataset", "split", "count"), SPLITS)
def test_records(
    loaded: dict[tuple[str, str], Records], dataset: str, split: str, count: int
) -> None:
    records = loaded[dataset, split]
    assert len(records) == count
    for record in records:
        assert record["layout"] == "nocs"
        for key in ("instance", "nocs", "depth"):
            assert Path(record[f"{key}_file_name"]).is_file()
        assert ("depth_full_file_name" in record) == (dataset == "camera")
        for annotation in record["annotations"]:
            assert annotation["model"]["catid_cad"] == (
                NOCS_SYNSETS[CLASSES[annotation["category_id"]]] if dataset == "camera" else ""
            )
            assert np.linalg.norm(annotation["extents"]) == pytest.approx(1, abs=1e-5)


def test_every_class_images_without_objects_and_distractors(
    folder: Path, loaded: dict[tuple[str, str], Records]
) -> None:
    records = loaded["camera", "train"]
    classes = {a["category_id"] for record in records for a in record["annotations"]}
    assert classes == set(range(6))
    assert any(not record["annotations"] for record in records)
    metas = [read_meta(p, 6) for p in (folder / "camera").rglob("*_meta.txt")]
    assert any(line.class_id == 0 for meta in metas for line in meta.values())


def test_both_depth_encodings_occur(folder: Path) -> None:
    kinds = {
        (dataset, read_png(path).dtype.name)
        for dataset in ("camera", "real")
        for path in (folder / dataset).rglob("*_depth.png")
    }
    assert {kind for _, kind in kinds} == {"uint8", "uint16"}


@pytest.mark.parametrize(("dataset", "split"), [s[:2] for s in SPLITS])
def test_depth_pose_and_map_agree(
    loaded: dict[tuple[str, str], Records], dataset: str, split: str
) -> None:
    """Back-projected depth, moved into the model frame, is the map up to its 8 bits."""
    for record in loaded[dataset, split][:10]:
        instances, depth = read_map(record, "instance"), read_map(record, "depth")
        nocs = read_map(record, "nocs")
        if dataset == "camera":
            full = read_map(record, "depth_full")
            assert (full > 0).mean() > 0.95 and not depth[instances == 255].any()
            np.testing.assert_array_equal(depth[depth > 0], full[depth > 0])
        for annotation in record["annotations"]:
            rows, columns = np.nonzero(instances == annotation["alignment_id"])
            pixels = np.stack([columns, rows, np.ones_like(rows)]).astype(float)
            points = np.linalg.inv(record["intrinsics"]) @ pixels * depth[rows, columns]
            w, x, y, z = annotation["q"]
            rotation = Rotation.from_quat([x, y, z, w]).as_matrix()
            model = rotation.T @ (points - np.array(annotation["t"])[:, None])
            model /= np.array(annotation["s"])[:, None]
            tolerance = 0.5 / 255 + 1e-3 / annotation["s"][0]
            np.testing.assert_allclose(nocs[rows, columns], model.T, atol=tolerance)
            half = np.array(annotation["extents"]) / 2 + tolerance
            assert (np.abs(nocs[rows, columns]) <= half).all()


def test_published_poses_equal_the_exact_ones(copied: Path) -> None:
    exact = load_nocs_camera(copied, "val")
    for path in (copied / "camera").rglob("*_pose.npz"):
        path.unlink()
    nocs_index_file(copied, "camera", "val").unlink()
    published = load_nocs_camera(copied, "val")
    assert sum(len(record["annotations"]) for record in published) > 30
    for one, other in zip(exact, published, strict=True):
        for a, b in zip(one["annotations"], other["annotations"], strict=True):
            assert a["handle_visible"] == b["handle_visible"]
            for key in ("q", "t", "s"):
                np.testing.assert_allclose(a[key], b[key], atol=1e-9)


def test_handles_decide_the_symmetry_of_mugs(
    folder: Path, loaded: dict[tuple[str, str], Records]
) -> None:
    seen = set()
    for records in loaded.values():
        for annotation in (a for record in records for a in record["annotations"]):
            name = CLASSES[annotation["category_id"]]
            symmetric = annotation["sym"] == "__SYM_ROTATE_UP_INF"
            hidden = name == "mug" and not annotation["handle_visible"]
            assert symmetric == (name in ("bottle", "bowl", "can") or hidden)
            assert annotation["handle_visible"] or name == "mug"
            seen.add((name, symmetric))
    assert {("mug", False), ("bottle", True), ("laptop", False)} <= seen


def test_images_without_poses(copied: Path) -> None:
    shutil.rmtree(copied / "gts")
    for path in (copied / "camera").rglob("*_pose.npz"):
        path.unlink()
    for record in load_nocs_camera(copied, "val"):
        assert all("q" not in annotation for annotation in record["annotations"])


def test_poses_without_handle_flags_count_as_seen(copied: Path) -> None:
    for path in (copied / "camera").rglob("*_pose.npz"):
        path.unlink()
    for path in (copied / "gts").rglob("*.pkl"):
        content = load_restricted_pickle(path)
        del content["handle_visibility"]
        path.write_bytes(pickle.dumps(content))
    records = load_nocs_camera(copied, "val")
    assert all(a["handle_visible"] for record in records for a in record["annotations"])


def test_wrong_number_of_poses_is_counted(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One of the published files has it; its image must not make the others unreadable."""
    for path in (copied / "camera").rglob("*_pose.npz"):
        path.unlink()
    path = copied / "gts" / "val" / "results_val_00000_0000.pkl"
    content = load_restricted_pickle(path)
    content["gt_RTs"] = content["gt_RTs"][:-1]
    path.write_bytes(pickle.dumps(content))
    records = load_nocs_camera(copied, "val")
    assert "poses of 1 of 16 images are not used, first" in caplog.text
    assert "results_val_00000_0000.pkl: its poses do not belong" in caplog.text
    assert [any("q" in a for a in r["annotations"]) for r in records[:2]] == [False, True]


def test_file_without_poses_is_named(copied: Path) -> None:
    for path in (copied / "camera").rglob("*_pose.npz"):
        path.unlink()
    path = copied / "gts" / "val" / "results_val_00000_0000.pkl"
    for content in ([1, 2], {"image_path": "somewhere"}):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(
            DatasetError, match=r"results_val_00000_0000\.pkl has no field 'gt_RTs'"
        ):
            load_nocs_camera(copied, "val")


def test_index_is_kept_and_made_again(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = nocs_index_file(copied, "camera", "val")
    assert not path.exists()
    first = load_nocs_camera(copied, "val")
    written = path.stat().st_mtime_ns
    assert str(load_nocs_camera(copied, "val")) == str(first)
    assert path.stat().st_mtime_ns == written
    for file in (copied / "camera" / "val" / "00000").glob("0003_*"):
        file.unlink()
    assert len(load_nocs_camera(copied, "val")) == 15
    assert "does not list the images on disk" in caplog.text
    assert json.loads(path.read_text())["annotations"][0]["id"] == 1


def test_incomplete_images_are_left_out_and_counted(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copied / "camera/val/00000/0002_coord.png").unlink()
    (copied / "camera/val/00001/0000_meta.txt").unlink()
    (copied / "camera/val/00001/0001_color.png").unlink()
    assert len(load_nocs_camera(copied, "val")) == 13
    assert "left out 2 images that lack one of their files" in caplog.text
    assert "camera/val/00000/0002" in caplog.text


def change_mask(path: Path, change: Callable[[np.ndarray], None]) -> None:
    mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    change(mask)
    cv2.imwrite(str(path), mask)


def without_background(mask_file: Path) -> None:
    change_mask(mask_file, lambda mask: mask.__setitem__(mask[..., 2] == 255, 1))


def with_unknown_instance(mask_file: Path) -> None:
    change_mask(mask_file, lambda mask: mask[:2].__setitem__(..., 42))


def with_too_many_instances(mask_file: Path) -> None:
    row = np.arange(30, dtype=np.uint8)[:, None]
    change_mask(mask_file, lambda mask: mask[0, :30].__setitem__(..., row))


def truncated(mask_file: Path) -> None:
    mask_file.write_bytes(mask_file.read_bytes()[:-30])


def of_16_bits(mask_file: Path) -> None:
    cv2.imwrite(str(mask_file), np.zeros((120, 160), np.uint16))


def with_bad_object_list(mask_file: Path) -> None:
    mask_file.with_name("0001_meta.txt").write_text("1 2\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_background, "no pixel has the value 255"),
        (with_unknown_instance, "the instances [42] have no line"),
        (with_too_many_instances, "instances; at most 19 exist"),
        (truncated, "is truncated"),
        (of_16_bits, "expected 8 bits"),
        (with_bad_object_list, "line 1 is '1 2'"),
    ],
)
def test_bad_images_are_left_out_counted_and_named(
    copied: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    damage(copied / "camera/val/00000/0001_mask.png")
    frame = NocsFrame(copied, "camera", "val", "00000", "0001")
    with pytest.raises(BadSample, match=re.escape(message)):
        frame_objects(frame, ModelTable(), len(CLASSES))
    # Also of the kept index, which is not made again for it.
    for attempt in range(2):
        caplog.clear()
        records = load_nocs_camera(copied, "val")
        assert len(records) == 15
        assert not any("00000/0001" in record["file_name"] for record in records)
        assert "Left out 1 of 16 images that cannot be used" in caplog.text, attempt
        assert "00000/0001_" in caplog.text and message in caplog.text
        assert "it is made again" not in caplog.text


def test_only_bad_images(copied: Path) -> None:
    for path in (copied / "camera/val").rglob("*_mask.png"):
        truncated(path)
    with pytest.raises(DatasetError, match="camera/val holds no image that can be used"):
        load_nocs_camera(copied, "val")


def test_maps_whose_z_is_not_mirrored(copied: Path) -> None:
    """The same data written without the mirror image read the same."""
    official = load_nocs_camera(copied, "val")
    maps = [read_map(record, "nocs") for record in official]
    for record in official:
        coord = cv2.imread(record["nocs_file_name"], cv2.IMREAD_UNCHANGED)
        coord[..., 0] = 255 - coord[..., 0]
        cv2.imwrite(record["nocs_file_name"], coord)
    plain = load_nocs(copied, "camera", "val", coord_z_mirrored=False)
    assert {record["coord_z_mirrored"] for record in plain} == {False}
    for record, other, expected in zip(plain, official, maps, strict=True):
        assert other["coord_z_mirrored"] and len(record["annotations"]) == len(other["annotations"])
        np.testing.assert_allclose(read_map(record, "nocs"), expected, atol=1e-6)
        assert not np.allclose(read_map(other, "nocs"), expected, atol=1e-2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n", "line 1 is '1 2'"),
        ("1 1 a b\nx 1 a b\n", "line 2 is 'x 1 a b'"),
        ("1 9 02876657 b\n", "line 1: unknown class id 9; expected 0-6"),
        ("1 1 a b\n1 2 a c\n", "line 2: instance 1 occurs twice"),
    ],
)
def test_bad_object_list_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "0000_meta.txt"
    path.write_text(text)
    with pytest.raises(DatasetError, match=rf"0000_meta\.txt: {message}"):
        read_meta(path, 6)


def test_object_list_of_both_datasets(tmp_path: Path) -> None:
    path = tmp_path / "0000_meta.txt"
    path.write_text("1 1 02876657 abc\n\n2 6 mug_white\n")
    lines = read_meta(path, 6)
    assert (lines[1].class_id, lines[1].catalog_id, lines[1].model_id) == (1, "02876657", "abc")
    assert (lines[2].class_id, lines[2].catalog_id, lines[2].model_id) == (6, "", "mug_white")


@pytest.mark.parametrize("text", ["1 2 3\n", "1 2 3\n1 2 x\n", "1 1 1\n2 0 0\n"])
def test_bad_extents_are_named(copied: Path, text: str) -> None:
    for path in (copied / "obj_models").rglob("bbox.txt"):
        path.write_text(text)
    with pytest.raises(DatasetError, match=r"bbox\.txt: "):
        load_nocs_camera(copied, "val")


def test_real_extents_are_normalised_and_give_the_scale(
    folder: Path, loaded: dict[tuple[str, str], Records]
) -> None:
    for record in loaded["real", "test"]:
        for annotation in record["annotations"]:
            path = folder / "obj_models/real_test" / f"{annotation['model']['id_cad']}.txt"
            metric = np.array(path.read_text().split(), float)
            assert np.linalg.norm(metric) == pytest.approx(annotation["s"][0], rel=1e-5)
            np.testing.assert_allclose(
                metric / np.linalg.norm(metric), annotation["extents"], atol=1e-6
            )


def test_missing_folder_is_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match="there is no folder real/nowhere"):
        load_nocs_real(folder, "nowhere")


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "real" / "test").mkdir(parents=True)
    with pytest.raises(DatasetError, match="real/test holds no complete image"):
        load_nocs_real(tmp_path, "test")
