"""Poses made for NOCS images that come without, label files, and the re-centring of mugs."""

import importlib.util
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from roca_nocs.data.cad_meshes import nocs_mesh
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.builtin import builtin_datasets, load_builtin
from roca_nocs.data.datasets.nocs import CLASSES, load_nocs, nocs_index_file
from roca_nocs.data.datasets.nocs_frames import MetaLine, NocsFrame
from roca_nocs.data.datasets.nocs_models import (
    MUG_META,
    ModelTable,
    Recentring,
    read_mug_meta,
    recentring_of,
    write_mug_meta,
)
from roca_nocs.data.datasets.nocs_poses import join_transform, match_objects, split_transform
from roca_nocs.data.maps import read_map
from roca_nocs.data.nocs_labels import SKIPPED_MODEL, LabelReport, write_labels
from roca_nocs.data.restricted_pickle import load_restricted_pickle

Records = list[dict[str, Any]]
MUG = CLASSES.index("mug")


def copy_split(source: Path, target: Path, dataset: str, split: str, *, poses: bool) -> None:
    """A split of the embedded data with its models, with or without the exact poses."""
    ignore = None if poses else shutil.ignore_patterns("*_pose.npz")
    shutil.copytree(source / dataset / split, target / dataset / split, ignore=ignore)
    shutil.copytree(source / "obj_models", target / "obj_models", dirs_exist_ok=True)


@pytest.fixture(scope="module")
def folder(embedded_root: Path) -> Path:
    return embedded_root / "tabletop_tiny"


@pytest.fixture(scope="module")
def labelled(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training images without poses, and what was made for them."""
    root = tmp_path_factory.mktemp("labelled")
    for dataset in ("camera", "real"):
        copy_split(folder, root, dataset, "train", poses=False)
        write_labels(root, dataset, "train")
    return root


@pytest.fixture
def validation(folder: Path, tmp_path: Path) -> Path:
    """Validation images with the published poses only, to be changed."""
    copy_split(folder, tmp_path, "camera", "val", poses=False)
    shutil.copytree(folder / "gts/val", tmp_path / "gts/val")
    return tmp_path


def rotation_of(annotation: dict[str, Any]) -> np.ndarray:
    w, x, y, z = annotation["q"]
    return Rotation.from_quat([x, y, z, w]).as_matrix()


def pairs(made: Records, exact: Records) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The annotations of the same objects in both, where both have poses."""
    by_name = {Path(*Path(r["file_name"]).parts[-3:]): r for r in exact}
    found = []
    for record in made:
        other = by_name[Path(*Path(record["file_name"]).parts[-3:])]
        known = {each["alignment_id"]: each for each in other["annotations"]}
        found += [(each, known[each["alignment_id"]]) for each in record["annotations"]]
    return found


@pytest.mark.parametrize("dataset", ["camera", "real"])
def test_aligned_poses_are_the_generating_ones(labelled: Path, folder: Path, dataset: str) -> None:
    made = load_nocs(labelled, dataset, "train", labelled_only=True)
    found = pairs(made, load_nocs(folder, dataset, "train"))
    assert len(found) > 20
    for one, other in found:
        turn = Rotation.from_matrix(rotation_of(one) @ rotation_of(other).T)
        assert np.degrees(turn.magnitude()) < 0.5
        np.testing.assert_allclose(one["t"], other["t"], atol=2e-3)
        np.testing.assert_allclose(one["s"], other["s"], rtol=0.01)
        np.testing.assert_allclose(one["extents"], other["extents"])


def test_maps_whose_z_is_not_mirrored(folder: Path, tmp_path: Path) -> None:
    """Labels are those of the official encoding; damaged maps are left out and named."""
    made = []
    for name in ("official", "plain"):
        copy_split(folder, tmp_path / name, "camera", "val", poses=False)
        paths = sorted((tmp_path / name / "camera/val/00000").glob("*_coord.png"))
        for path in paths if name == "plain" else ():
            coord = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            coord[..., 0] = 255 - coord[..., 0]
            cv2.imwrite(str(path), coord)
        shutil.rmtree(tmp_path / name / "camera/val/00001")
        write_labels(tmp_path / name, "camera", "val", coord_z_mirrored=name == "official")
        made.append(
            [load_restricted_pickle(path) for path in sorted(tmp_path.rglob("*_label.pkl"))]
        )
    half = len(made[0])
    assert half > 3 and len(made[1]) == 2 * half
    for one, other in zip(made[1][:half], made[1][half:], strict=True):
        np.testing.assert_allclose(one["rotations"], other["rotations"], atol=1e-4)
        np.testing.assert_allclose(one["translations"], other["translations"], atol=1e-5)


def test_bad_images_get_no_labels(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy_split(folder, tmp_path, "camera", "val", poses=False)
    first = tmp_path / "camera/val/00000"
    for name in ("0000_coord.png", "0001_depth.png", "0002_mask.png"):
        (first / name).write_bytes((first / name).read_bytes()[:-30])
    report = write_labels(tmp_path, "camera", "val")
    assert report.left_out["a file cannot be used"] == len(report.bad) == 3
    assert "camera/val: 3 of 16 images cannot be used, first: " in caplog.text
    assert all(f"00000/000{row}" in caplog.text for row in range(3))
    assert not {f"val/00000/000{row}" for row in range(3)} & set(report.written)
    assert len(report.written) > 5


def test_visibility_of_handles_is_found(labelled: Path, folder: Path) -> None:
    agreeing = []
    for dataset in ("camera", "real"):
        made = load_nocs(labelled, dataset, "train", labelled_only=True)
        for one, other in pairs(made, load_nocs(folder, dataset, "train")):
            if one["category_id"] == MUG:
                agreeing.append(one["handle_visible"] == other["handle_visible"])
            else:
                assert one["handle_visible"]
    assert len(agreeing) >= 5 and np.mean(agreeing) >= 0.8


def test_label_files(labelled: Path) -> None:
    listed = (labelled / "camera/train_list.txt").read_text().splitlines()
    everything = (labelled / "camera/train_list_all.txt").read_text().splitlines()
    assert set(listed) < set(everything) and listed[0].startswith("train/00000/")
    handles = load_restricted_pickle(labelled / "camera/train/mug_handle.pkl")
    meta = read_mug_meta(labelled)
    seen_mugs = 0
    for stem in everything:
        path = labelled / "camera" / f"{stem}_label.pkl"
        assert path.is_file() == (stem in listed)
        if stem not in listed:
            continue
        label = load_restricted_pickle(path)
        count = len(label["class_ids"])
        shapes = {"bboxes": (4,), "scales": (), "rotations": (3, 3), "translations": (3,)}
        for name, shape in shapes.items():
            assert label[name].shape == (count, *shape)
        assert len(label["model_list"]) == len(label["instance_ids"]) == count > 0
        mugs = np.array(label["class_ids"]) == MUG + 1
        if mugs.any():
            seen_mugs += int(mugs.sum())
            assert all(label["model_list"][row] in meta for row in np.flatnonzero(mugs))
            _, name, number = stem.split("/")
            flag = label["handle_visibility"][mugs].any()
            assert handles[f"{name}_res"][int(number)] == flag
    assert seen_mugs


def test_recentred_records_show_the_same_surface(labelled: Path) -> None:
    """Poses and maps of both conventions give the same camera points, boxes the same mugs."""
    official, moved = (
        load_nocs(labelled, "camera", "train", labelled_only=True, mug_recenter=flag)
        for flag in (False, True)
    )
    compared = 0
    for one, other in zip(official, moved, strict=True):
        maps = [read_map(record, "nocs") for record in (one, other)]
        instance = read_map(one, "instance")
        for a, b in zip(one["annotations"], other["annotations"], strict=True):
            mask = instance == a["alignment_id"]
            if a["category_id"] != MUG:
                assert a == b and (maps[0][mask] == maps[1][mask]).all()
                continue
            compared += 1
            assert np.linalg.norm(b["extents"]) == pytest.approx(1, abs=1e-4)
            assert (np.abs(maps[1][mask]) <= np.array(b["extents"]) / 2 + 0.01).all()
            points = [
                each["s"][0] * values[mask] @ rotation_of(each).T + each["t"]
                for each, values in ((a, maps[0]), (b, maps[1]))
            ]
            np.testing.assert_allclose(points[0], points[1], atol=1e-6)
            assert not np.allclose(a["t"], b["t"], atol=1e-4)
    assert compared


def test_recentring_of_models(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "obj_models", tmp_path / "obj_models")
    written = read_mug_meta(tmp_path)
    (tmp_path / MUG_META).unlink()
    count = write_mug_meta(tmp_path, lambda *m: nocs_mesh(tmp_path / "obj_models", *m)[0])
    found = read_mug_meta(tmp_path)
    assert count == len(found) > 4
    for name, recentring in found.items():
        np.testing.assert_allclose(recentring.shift, written[name].shift, atol=1e-6)
        assert recentring.scale == pytest.approx(written[name].scale, abs=1e-6)


def test_published_and_computed_shifts() -> None:
    vertices = np.array([[-0.3, -0.2, -0.2], [0.5, 0.2, 0.2], [0.0, 0.0, 0.0]])
    size = np.linalg.norm([0.8, 0.4, 0.4])
    recentring = recentring_of(7 * vertices, "some_mug")
    np.testing.assert_allclose(recentring.shift, [(-0.2 + 0.3) / size, 0, 0])
    moved = recentring.points(vertices / size)
    assert np.linalg.norm(2 * np.abs(moved).max(axis=0)) == pytest.approx(1)
    special = recentring_of(vertices, "649a51c711dc7f3b32e150233fdd42e9")
    assert special.shift.tolist() == [0, 0, -0.017]


def test_recentring_of_poses_and_back() -> None:
    recentring = Recentring(np.array([0.1, 0.0, -0.02]), 0.9)
    rotation = Rotation.from_rotvec([0.3, -1.0, 0.5]).as_matrix()
    translation, scale = np.array([0.1, -0.2, 0.9]), 0.25
    points = np.random.default_rng(0).normal(size=(9, 3))
    moved, factor = recentring.pose(rotation, translation, scale)
    np.testing.assert_allclose(
        scale * points @ rotation.T + translation,
        factor * recentring.points(points) @ rotation.T + moved,
    )
    original, back = recentring.original_pose(rotation, moved, factor)
    np.testing.assert_allclose(original, translation)
    assert back == pytest.approx(scale)
    np.testing.assert_allclose(
        recentring.extents(np.array([0.8, 0.4, 0.4])), 0.9 * np.array([1.0, 0.4, 0.44])
    )


def test_registered_names_with_these_conventions(labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "nocs").symlink_to(labelled)
    by_name = {dataset.name: dataset for dataset in builtin_datasets()}
    official = load_builtin(by_name["nocs_camera_train"], tmp_path)
    spd = load_builtin(by_name["nocs_camera_train_spd"], tmp_path)
    assert 0 < len(spd) < len(official) == 40
    mugs = [a for r in spd for a in r["annotations"] if a["category_id"] == MUG]
    assert mugs and all("recentring" in each and each["labelled"] for each in mugs)
    assert not any("recentring" in a for r in official for a in r["annotations"])


def test_published_poses_with_a_wrong_number(
    validation: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are counted; the image has poses again once labels were made for it."""
    exact = load_nocs(validation, "camera", "val")
    path = validation / "gts/val/results_val_00000_0000.pkl"
    content = load_restricted_pickle(path)
    content["gt_RTs"] = content["gt_RTs"][:-1]
    content["handle_visibility"] = content["handle_visibility"][:-1]
    path.write_bytes(pickle.dumps(content))
    nocs_index_file(validation, "camera", "val").unlink()
    records = load_nocs(validation, "camera", "val")
    assert "poses of 1 of 16 images are not used, first:" in caplog.text
    assert "results_val_00000_0000.pkl" in caplog.text
    assert not any("q" in each for each in records[0]["annotations"])
    assert all("q" in each for record in records[1:] for each in record["annotations"])

    report = write_labels(validation, "camera", "val")
    assert report.sources["published poses not assignable, aligned"] == 1
    assert report.sources["published"] == len(report.written) - 1
    records = load_nocs(validation, "camera", "val")
    assert all("q" in each for record in records[1:] for each in record["annotations"])
    labelled = [each for each in records[0]["annotations"] if each["labelled"]]
    assert labelled
    for one, other in pairs([{**records[0], "annotations": labelled}], exact):
        np.testing.assert_allclose(one["t"], other["t"], atol=2e-3)


def test_results_in_another_order_give_visibility(validation: Path, tmp_path: Path) -> None:
    exact = load_nocs(validation, "camera", "val")
    results = tmp_path / "results"
    results.mkdir()
    shutil.rmtree(validation / "gts")
    for record in exact:
        objects = record["annotations"][::-1]
        boxes = np.array([each["bbox"] for each in objects], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        rotations = np.array([rotation_of(each) for each in objects]).reshape(-1, 3, 3)
        content = {
            "gt_class_ids": np.array([each["category_id"] + 1 for each in objects], np.int32),
            "gt_bboxes": np.round(boxes[:, [1, 0, 3, 2]]).astype(np.int32),
            "gt_RTs": join_transform(
                rotations,
                np.array([each["t"] for each in objects]).reshape(-1, 3),
                np.array([each["s"][0] for each in objects]),
            ),
            "gt_handle_visibility": np.array([each["handle_visible"] for each in objects], int),
        }
        stem = "_".join(Path(record["file_name"].removesuffix("_color.png")).parts[-3:])
        (results / f"results_{stem}.pkl").write_bytes(pickle.dumps(content))
    report = write_labels(validation, "camera", "val", results=results)
    assert set(report.sources) == {"published"}
    made = load_nocs(validation, "camera", "val", labelled_only=True)
    for one, other in pairs(made, exact):
        assert one["handle_visible"] == other["handle_visible"]
        np.testing.assert_allclose(one["t"], other["t"], atol=1e-6)
        np.testing.assert_allclose(one["q"], other["q"], atol=1e-6)
        np.testing.assert_allclose(one["s"], other["s"], rtol=1e-6)


def test_what_gets_no_label(validation: Path) -> None:
    base = validation / "camera/val/00000"
    full, empty = base / "0001", base / "0002"
    mask = cv2.imread(f"{full}_mask.png", cv2.IMREAD_UNCHANGED)
    first = int(mask[mask[..., 2] < 255][0, 2])
    mask[:-1] = first
    cv2.imwrite(f"{full}_mask.png", mask)
    (full.parent / "0001_meta.txt").write_text(
        "".join(
            f"{line.split()[0]} 1 {line.split()[2]} {line.split()[3]}\n"
            if int(line.split()[0]) == first
            else f"{line}\n"
            for line in (full.parent / "0001_meta.txt").read_text().splitlines()
        )
    )
    depth = cv2.imread(f"{empty}_depth.png", cv2.IMREAD_UNCHANGED)
    cv2.imwrite(f"{empty}_depth.png", np.zeros_like(depth))
    report = write_labels(validation, "camera", "val")
    assert report.left_out["an object fills the image"] == 1
    assert report.left_out["no object with enough depth"] >= 1
    assert len(report.written) + sum(report.left_out.values()) == 16
    assert not Path(f"{full}_label.pkl").exists() and not Path(f"{empty}_label.pkl").exists()


def test_improper_model_is_left_out(validation: Path) -> None:
    meta = next(
        path
        for path in sorted((validation / "camera/val").rglob("*_meta.txt"))
        if " 6 03797390 " in path.read_text()
    )
    line = next(line for line in meta.read_text().splitlines() if " 6 03797390 " in line)
    model = line.split()[3]
    meta.write_text(meta.read_text().replace(model, SKIPPED_MODEL))
    models = validation / "obj_models/val/03797390"
    shutil.copytree(models / model, models / SKIPPED_MODEL)
    write_labels(validation, "camera", "val")
    for path in (validation / "camera/val").rglob("*_label.pkl"):
        assert SKIPPED_MODEL not in load_restricted_pickle(path)["model_list"]


def test_match_objects() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 1, 10, 11], [50, 50, 60, 60.0]])
    ids = np.array([1, 1, 2])
    order = [2, 1, 0]
    assert match_objects(ids, boxes, ids[order], boxes[order]).tolist() == order
    assert match_objects(ids, boxes, ids[:2], boxes[:2] + 1).tolist() == [0, 1, -1]
    assert match_objects(ids, boxes + 2, ids, boxes).tolist() == [-1, -1, -1]
    assert match_objects(ids, boxes, np.array([2, 2, 1]), boxes).tolist() == [-1, -1, -1]
    assert match_objects(ids[:0], boxes[:0], ids, boxes).tolist() == []
    assert match_objects(ids, boxes, ids[:0], boxes[:0]).tolist() == [-1, -1, -1]


def test_transforms() -> None:
    rng = np.random.default_rng(0)
    rotations = Rotation.random(5, random_state=rng).as_matrix()
    translations, scales = rng.normal(size=(5, 3)), rng.uniform(0.1, 2, size=5)
    found = split_transform(join_transform(rotations, translations, scales))
    for values, expected in zip(found, (rotations, translations, scales), strict=True):
        np.testing.assert_allclose(values, expected, atol=1e-12)
    _, _, scale = split_transform(np.diag([1.0, 1.0, -8.0, 1.0])[None])
    assert scale[0] == pytest.approx(-2)
    assert split_transform(np.zeros((1, 4, 4)))[2].tolist() == [0]


def damage_label(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = sorted((root / "camera/val").rglob("*_label.pkl"))[0]
    content = load_restricted_pickle(path)
    change(content)
    path.write_bytes(pickle.dumps(content))


def test_errors_name_the_file(validation: Path) -> None:
    with pytest.raises(DatasetError, match=r"camera/val has no objects with label files.*prepare"):
        load_nocs(validation, "camera", "val", labelled_only=True)
    write_labels(validation, "camera", "val")
    meta = (validation / MUG_META).read_bytes()
    for content, message in (
        (None, r"mug_meta\.pkl does not exist\. Make it with.*prepare_nocs"),
        ({}, r"mug_meta\.pkl does not list the mug"),
        ({"a": [1, 2]}, r"mug_meta\.pkl: expected model -> \[shift"),
        ({"a": [np.zeros(3), 0.0]}, r"mug_meta\.pkl: the scale of a is not positive"),
    ):
        (validation / MUG_META).unlink(missing_ok=True)
        if content is not None:
            (validation / MUG_META).write_bytes(pickle.dumps(content))
        nocs_index_file(validation, "camera", "val").unlink(missing_ok=True)
        with pytest.raises(DatasetError, match=message):
            load_nocs(validation, "camera", "val", mug_recenter=True)
    (validation / MUG_META).write_bytes(meta)

    damage_label(validation, lambda content: content["scales"].fill(-1))
    with pytest.raises(
        DatasetError, match=r"_label\.pkl: a pose is not a rotation with a positive"
    ):
        load_nocs(validation, "camera", "val")
    damage_label(validation, lambda content: content.pop("scales"))
    with pytest.raises(DatasetError, match=r"_label\.pkl is no label file"):
        load_nocs(validation, "camera", "val")


def test_former_validation_models(tmp_path: Path) -> None:
    path = tmp_path / "obj_models/real_val/cup.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, scale=np.array([3.0, 4.0, 12.0]))
    frame = NocsFrame(tmp_path, "real", "train", "scene_1", "0000")
    extents = ModelTable().extents_of(frame, MetaLine(6, "", "cup.npz"))
    np.testing.assert_allclose(extents, np.array([3, 4, 12]) / 13)


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parents[2] / "datasets" / "prepare_nocs.py"
    spec = importlib.util.spec_from_file_location("prepare_nocs", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    copy_split(folder, tmp_path, "real", "train", poses=False)
    (tmp_path / MUG_META).unlink()
    assert script.main(["--root", str(tmp_path), "--workers", "1"]) == 0
    output = capsys.readouterr().out
    assert "mug_meta.pkl: " in output and "real/train: " in output and "aligned: " in output
    assert load_nocs(tmp_path, "real", "train", labelled_only=True, mug_recenter=True)
    assert script.main(["--root", str(tmp_path / "nowhere")]) == 1
    assert "holds none of camera/train" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main(["--root", str(tmp_path), "--results", str(tmp_path), "--splits", "a"])


def test_report() -> None:
    report = LabelReport()
    report.add(LabelReport(["a"], handles={"0": {1: True}}))
    report.add(LabelReport(["b"], handles={"1": {0: False}}))
    assert report.written == ["a", "b"] and set(report.handles) == {"0", "1"}
