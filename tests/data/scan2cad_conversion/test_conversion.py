"""Raw ScanNet25k, Scan2CAD and ShapeNet become a dataset that loads, aligned to the millimetre."""

import dataclasses
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from trimesh import Trimesh
from trimesh.proximity import closest_point_naive

from data.raw_scan2cad import (
    BOX_SYNSET,
    MODELS,
    RAW_INTRINSICS,
    RAW_SIZE,
    TRAIN_SCENE,
    VAL_SCENE,
    cameras,
    model_to_camera,
    write_raw,
)
from roca_nocs.data.cad_catalog import load_cad_catalog
from roca_nocs.data.cad_databases import build_cad_database
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.scan2cad import CLASSES, load_scan2cad, read_matrix
from roca_nocs.data.images import read_png
from roca_nocs.data.process_pool import locked, worker_pool
from roca_nocs.data.roca_mapper import RocaMapper
from roca_nocs.data.scan2cad_conversion import tasks as tasks_module
from roca_nocs.data.scan2cad_conversion.annotations import parse_scene, read_full_annotations
from roca_nocs.data.scan2cad_conversion.convert import (
    Report,
    Sources,
    convert,
    read_frame_list,
    read_scene_list,
    summary,
)
from roca_nocs.data.scan2cad_conversion.scenes import SceneSettings
from roca_nocs.data.scannet_images import resize_intrinsics
from roca_nocs.data.synthetic.models import build_model
from roca_nocs.geometry.camera import back_project

SETTINGS = SceneSettings(height=90, width=120, nocs=True)


def run(root: Path, sources: Sources, **changes: Any) -> Report:
    return convert(root, sources, SETTINGS, **{"progress": False, **changes})


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def raw_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    write_raw(root)
    return root


@pytest.fixture(scope="module")
def made(raw_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "scan2cad"
    report = run(root, sources_of(raw_made))
    assert report.errors == {} and report.kept == 0
    return root


def sources_of(root: Path) -> Sources:
    return Sources(
        scannet=root / "scannet",
        annotations=root / "full_annotations.json",
        shapenet=root / "shapenet",
        scenes={"train": [TRAIN_SCENE], "val": [VAL_SCENE]},
    )


@pytest.fixture
def raw(raw_made: Path, tmp_path: Path) -> Sources:
    """A copy of the raw data that a test may damage."""
    shutil.copytree(raw_made, tmp_path / "raw")
    return sources_of(tmp_path / "raw")


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


@pytest.fixture
def unfinished(copy: Path) -> Path:
    """A conversion that was interrupted when the CAD models were done."""
    for name in ("Dataset", "Images", "Rendering", "Conversion/records/scenes"):
        shutil.rmtree(copy / name)
    return copy


def load(root: Path, split: str) -> list[dict[str, Any]]:
    path = root / "Dataset" / f"scan2cad_instances_{split}.json"
    return load_scan2cad(path, root / "Images", root / "Rendering")


def test_poses_are_those_of_the_annotation(made: Path) -> None:
    for split in ("train", "val"):
        records = load(made, split)
        assert [Path(record["file_name"]).stem for record in records] == ["000000", "000100"]
        first = {a["alignment_id"]: a for a in records[0]["annotations"]}
        # The second model of the list is of a foreign class.
        for idx, (name, variant) in zip((1, 3, 4), MODELS, strict=True):
            expected = model_to_camera(name, variant)
            scale = np.linalg.norm(expected[:3, :3], axis=0)
            annotation = first.pop(idx)
            assert CLASSES[annotation["category_id"]] == name
            np.testing.assert_allclose(annotation["t"], expected[:3, 3], atol=1e-5)
            np.testing.assert_allclose(annotation["s"], scale, atol=1e-5)
            w, *xyz = annotation["q"]
            cross = np.array([[0, -xyz[2], xyz[1]], [xyz[2], 0, -xyz[0]], [-xyz[1], xyz[0], 0]])
            rotation = np.eye(3) + 2 * w * cross + 2 * cross @ cross
            np.testing.assert_allclose(rotation * scale, expected[:3, :3], atol=1e-5)
        assert not first


@pytest.mark.parametrize("split", ["train", "val"])
def test_back_projected_depth_lies_on_the_posed_models(
    made: Path, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the mapper of the model: within 2 mm of the surface, and NOCs say where on it."""
    name = f"converted_{split}"
    MetadataCatalog.get(name).set(cad_folder=str(made / "Dataset"), cad_split=split)
    mapper = RocaMapper(True, augmentations=[], maps=("nocs",), retrieval="voxels", datasets=name)
    MetadataCatalog.pop(name)
    catalog = load_cad_catalog(made / "Dataset", split)
    checked = 0
    for record in load(made, split):
        result = mapper(record)
        instances = result["instances"]
        points = back_project(result["depth"].double(), result["intrinsics"].double())
        for row, key in enumerate(instances.gt_cads):
            mask = result["instance"] == row + 1
            rotation = instances.gt_rotations[row].double()
            scale = instances.gt_scales[row].double()
            model = (points[mask] - instances.gt_translations[row].double()) @ rotation / scale
            entry = catalog.entries[catalog.index(*key)]
            mesh = Trimesh(entry.vertices, entry.faces, process=False)
            sample = model[:: max(1, len(model) // 30)].numpy()
            _, distances, _ = closest_point_naive(mesh, sample)
            assert distances.max() * float(scale.max()) < 2e-3
            nocs = result["nocs"].permute(1, 2, 0)[mask].double()
            assert float(((nocs - model) * scale).norm(dim=1).max()) < 2e-3
            assert int(instances.gt_pos_cads[row].sum()) == len(entry.voxels) > 100
            checked += len(sample)
    assert checked > 150


def test_maps_hold_every_model_and_annotations_those_with_their_centre_inside(made: Path) -> None:
    record = load(made, "train")[0]
    instance, depth = (read_png(record[f"{kind}_file_name"]) for kind in ("instance", "depth"))
    assert set(np.unique(instance)) == {0, 1, 2, 3, 4, 5}
    assert ((depth > 0) == (instance > 0)).all() and depth.dtype == np.uint16
    assert [a["alignment_id"] for a in record["annotations"]] == [1, 3, 4]
    noc = read_png(record["nocs_file_name"])
    assert noc.dtype == np.uint16 and (noc[instance == 0] == 10000).all()


def test_cameras_and_images(made: Path, raw_made: Path) -> None:
    record = load(made, "val")[1]
    expected = resize_intrinsics(RAW_INTRINSICS, RAW_SIZE[::-1], (90, 120))[:3, :3]
    np.testing.assert_array_equal(record["intrinsics"], expected)
    scene = Path(record["file_name"]).parents[1]
    np.testing.assert_allclose(read_matrix(scene / "intrinsics_color.txt")[:3, :3], expected)
    pose = read_matrix(record["pose_file_name"])
    np.testing.assert_allclose(pose, cameras(VAL_SCENE)[1], atol=1e-8)
    assert (record["height"], record["width"]) == (90, 120)


def test_scenes_and_catalogues(made: Path) -> None:
    name = "converted_val"
    MetadataCatalog.get(name).set(
        cad_folder=str(made / "Dataset"),
        cad_split="val",
        scenes_file=str(made / "Dataset/scan2cad_val_scenes.json"),
    )
    database = build_cad_database(name, voxels=True, points=True)
    MetadataCatalog.pop(name)
    assert BOX_SYNSET not in {synset for synset, _ in database.keys}
    assert database.scenes[VAL_SCENE].tolist() == [0, 1, 2]
    assert database.points.shape == (3, 1024, 3)
    catalog = load_cad_catalog(made / "Dataset", "val")
    chair = next(entry for entry in catalog.entries if entry.model_id == "chair_v00")
    original = build_model("chair", 0)
    assert chair.symmetry == original.symmetry
    np.testing.assert_allclose(
        np.sort(chair.vertices[chair.faces].reshape(-1, 9), axis=0),
        np.sort(original.vertices[original.faces].reshape(-1, 9), axis=0),
        atol=1e-6,
    )
    scenes = json.loads((made / "Dataset/scan2cad_val_scenes.json").read_text())
    camera = cameras(VAL_SCENE)[0]
    models = {model["idx"]: model for model in scenes[VAL_SCENE]}
    assert set(models) == {1, 3, 4}
    expected = camera @ model_to_camera(*MODELS[0])
    np.testing.assert_allclose(models[1]["t"], expected[:3, 3], atol=1e-6)
    classes = json.loads((made / "Dataset/scan2cad_alignment_classes.json").read_text())
    assert tuple(classes) == CLASSES
    assert not list(made.rglob("*.part"))


def test_the_number_of_workers_does_not_matter(made: Path, raw_made: Path, tmp_path: Path) -> None:
    report = run(tmp_path / "two", sources_of(raw_made), workers=2)
    assert report.errors == {}
    assert contents(tmp_path / "two") == contents(made)


def test_worker_pool_alone(tmp_path: Path) -> None:
    with worker_pool(1, tmp_path) as pool_map:
        assert list(pool_map(abs, [-1, 2])) == [1, 2]
    with pytest.raises(ValueError, match="workers is 0"), worker_pool(0, tmp_path):
        pass


def test_a_folder_is_written_by_one_process(tmp_path: Path, raw_made: Path) -> None:
    with locked(tmp_path), pytest.raises(DatasetError, match="Another process is writing to"):
        run(tmp_path, sources_of(raw_made))
    with locked(tmp_path):
        pass


def damage_rendering(root: Path) -> None:
    path = root / "Rendering" / TRAIN_SCENE / "depth" / "000100.png"
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: shutil.rmtree(root / "Rendering" / TRAIN_SCENE),
        lambda root: (root / "Conversion/records/scenes" / f"{TRAIN_SCENE}.json").unlink(),
        damage_rendering,
    ],
    ids=["scene deleted", "interrupted", "file damaged"],
)
def test_only_what_is_missing_is_made_again(
    made: Path, raw_made: Path, copy: Path, damage: Callable[[Path], object]
) -> None:
    assert (run(copy, sources_of(raw_made)).done, contents(copy)) == (0, contents(made))
    damage(copy)
    report = run(copy, sources_of(raw_made))
    assert (report.done, report.kept) == (1, 5)
    assert contents(copy) == contents(made)


def test_changed_inputs_are_converted_again(raw: Sources, copy: Path) -> None:
    scenes = json.loads(raw.annotations.read_text())
    scenes[1]["aligned_models"][0]["trs"]["translation"][0] += 0.1
    raw.annotations.write_text(json.dumps(scenes))
    assert run(copy, raw).done == 1
    frames = {"val": {VAL_SCENE: ("000100",)}}
    report = run(copy, dataclasses.replace(raw, frames=frames))
    assert report.done == 1 and report.num_images == {"train": 2, "val": 1}
    assert not list(copy.rglob(f"{VAL_SCENE}/*/000000.*"))
    path = raw.shapenet / "03001627/chair_v00/models/model_normalized.obj"
    path.write_bytes(path.read_bytes() + b"# changed\n")
    # The model and both scenes that show it.
    assert run(copy, raw).done == 3


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: truncate(raw.scannet / VAL_SCENE / "color/000100.jpg"), "000100.jpg: cannot"),
        (lambda raw: (raw.scannet / VAL_SCENE / "pose/000000.txt").unlink(), "pose/000000.txt"),
        (
            lambda raw: (raw.scannet / VAL_SCENE / "pose/000000.txt").write_text("2 " * 16),
            "no rigid motion",
        ),
        (
            lambda raw: (raw.scannet / VAL_SCENE / "intrinsics_color.txt").write_text("1 2"),
            "intrinsics_color.txt: expected a 4x4 matrix",
        ),
        (lambda raw: shutil.rmtree(raw.scannet / VAL_SCENE), "there is no color"),
    ],
    ids=["image", "pose", "no motion", "camera", "folder"],
)
def test_a_broken_scene_is_reported_and_the_others_are_done(
    raw: Sources, unfinished: Path, damage: Callable[[Sources], object], message: str
) -> None:
    damage(raw)
    report = run(unfinished, raw)
    assert list(report.errors) == [f"scenes/{VAL_SCENE}"]
    assert message in report.errors[f"scenes/{VAL_SCENE}"]
    assert (report.done, report.kept) == (1, 4) and "1 scenes failed" in summary(report)
    # Nothing that could be taken for a complete dataset.
    assert not (unfinished / "Dataset").exists()


def test_a_mended_scene_completes_the_dataset(
    made: Path, raw_made: Path, raw: Sources, unfinished: Path
) -> None:
    image = Path("scannet") / VAL_SCENE / "color/000100.jpg"
    truncate(raw.annotations.parent / image)
    assert run(unfinished, raw).errors
    shutil.copy(raw_made / image, raw.annotations.parent / image)
    report = run(unfinished, raw)
    assert (report.errors, report.done, report.kept) == ({}, 1, 5)
    assert contents(unfinished) == contents(made)


@pytest.mark.parametrize(
    "content", [None, b"v 0 0 0\n", b"\x00\xff" * 50], ids=["missing", "no face", "no text"]
)
def test_a_bad_model_fails_the_scenes_that_show_it(
    raw: Sources, tmp_path: Path, content: bytes | None
) -> None:
    path = raw.shapenet / "02747177/bin_v02/models/model_normalized.obj"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    errors = run(tmp_path / "out", raw).errors
    assert set(errors) == {"cads/02747177/bin_v02", f"scenes/{TRAIN_SCENE}", f"scenes/{VAL_SCENE}"}
    assert str(path) in errors["cads/02747177/bin_v02"]
    assert "needs cads/02747177/bin_v02" in errors[f"scenes/{VAL_SCENE}"]


def test_frames_without_a_pose_are_left_out_and_counted(raw: Sources, unfinished: Path) -> None:
    (raw.scannet / TRAIN_SCENE / "pose/000000.txt").write_text("-inf " * 16)
    report = run(unfinished, raw)
    assert report.errors == {} and report.lost_frames == [f"{TRAIN_SCENE}/000000"]
    assert "1 frames have no camera pose and are left out: scene0000_00/000000." in summary(report)
    assert len(load(unfinished, "train")) == 1


def test_scenes_without_annotation_are_counted(raw: Sources, unfinished: Path) -> None:
    scenes = {"train": [TRAIN_SCENE, "scene0099_00"], "val": [VAL_SCENE]}
    report = run(unfinished, dataclasses.replace(raw, scenes=scenes))
    assert report.errors == {} and report.unannotated == ["scene0099_00"]
    scenes["val"].append(TRAIN_SCENE)
    with pytest.raises(DatasetError, match="scene0000_00 is listed twice: for train and for val"):
        run(unfinished, dataclasses.replace(raw, scenes=scenes))


def test_an_error_of_the_program_is_reported_with_its_place(
    raw: Sources, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TypeError("a mistake")

    monkeypatch.setattr(tasks_module, "convert_scene", fail)
    errors = run(unfinished, raw).errors
    assert "Traceback" in errors[f"scenes/{VAL_SCENE}"]
    assert "a mistake" in errors[f"scenes/{VAL_SCENE}"]


BAD_ANNOTATIONS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "too many": (
        lambda scene: scene.update(aligned_models=scene["aligned_models"] * 64),
        "256 aligned models; instance images hold 255",
    ),
    "not finite": (
        lambda scene: scene["aligned_models"][2]["trs"].update(scale=[1, float("nan"), 1]),
        "aligned model 3: 'trs': 'scale' is not finite",
    ),
    "zero": (
        lambda scene: scene["aligned_models"][0]["trs"].update(scale=[1, 0, 1]),
        "aligned model 1: 'trs' has a zero quaternion or a scale of zero",
    ),
    "symmetry": (
        lambda scene: scene["aligned_models"][0].update(sym="round"),
        "aligned model 1: 'sym' is 'round'",
    ),
    "field": (
        lambda scene: scene["aligned_models"][0].pop("id_cad"),
        "aligned model 1: the field 'id_cad' is missing",
    ),
    "scan": (lambda scene: scene.pop("trs"), "the field 'trs' is missing"),
}


@pytest.mark.parametrize("case", BAD_ANNOTATIONS)
def test_bad_annotations_are_named(raw: Sources, case: str) -> None:
    change, message = BAD_ANNOTATIONS[case]
    scene = json.loads(raw.annotations.read_text())[1]
    assert len(scene["aligned_models"]) == 4
    change(scene)
    with pytest.raises(DatasetError, match=rf"{VAL_SCENE}: .*{message}"):
        parse_scene(scene)


def test_poses_that_are_no_rotations_are_refused(raw: Sources) -> None:
    scene = json.loads(raw.annotations.read_text())[1]
    scene["trs"]["scale"] = [1, 2, 1]
    annotation = parse_scene(scene)
    with pytest.raises(DatasetError, match=r"aligned model 1 .*no rotation after a scaling"):
        annotation.models[0].pose_fields(np.eye(4))


def test_matrices_are_left_as_they_are(raw: Sources) -> None:
    annotation = parse_scene(read_full_annotations(raw.annotations)[VAL_SCENE])
    before = annotation.models[0].model_to_scan.copy()
    annotation.models[0].pose_fields(np.eye(4))
    np.testing.assert_array_equal(annotation.models[0].model_to_scan, before)


def test_lists(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("scene0000_00\nscene0001_00\n")
    assert read_scene_list(path) == ["scene0000_00", "scene0001_00"]
    with pytest.raises(DatasetError, match=r"line 1 is 'scene0000_00'; expected <scene> <number>"):
        read_frame_list(path)
    path.write_text("scene0000_00 200\n\nscene0000_00 000100\nscene0001_00 0\n")
    expected = {"scene0000_00": ("000100", "000200"), "scene0001_00": ("000000",)}
    assert read_frame_list(path) == expected
    path.write_text("\n")
    with pytest.raises(DatasetError, match="list of scenes is empty"):
        read_scene_list(path)
    with pytest.raises(DatasetError, match="cannot read the list of scenes"):
        read_scene_list(tmp_path / "none.txt")


@pytest.fixture(scope="module")
def command() -> ModuleType:
    path = Path(__file__).parents[3] / "datasets" / "prepare_scan2cad.py"
    spec = importlib.util.spec_from_file_location("prepare_scan2cad", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command_line(
    command: ModuleType, raw: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = {"train": f"{TRAIN_SCENE}\n", "val": f"{VAL_SCENE}\n", "images": f"{VAL_SCENE} 100\n"}
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    arguments = [
        *("--scannet", str(raw.scannet), "--annotations", str(raw.annotations)),
        *("--shapenet", str(raw.shapenet), "--output", str(tmp_path / "out")),
        *("--train-scenes", str(tmp_path / "train.txt")),
        *("--val-scenes", str(tmp_path / "val.txt")),
        *("--val-images", str(tmp_path / "images.txt")),
        *("--size", "120x90", "--workers", "1"),
    ]
    pose = raw.scannet / VAL_SCENE / "pose/000100.txt"
    text = pose.read_text()
    pose.write_text("")
    assert command.main(arguments) == 1
    errors = capsys.readouterr().err
    assert f"error: scenes/{VAL_SCENE}: " in errors and "The dataset is not finished." in errors
    pose.write_text(text)
    assert command.main(arguments) == 0
    assert "val: 1 images, 3 objects, 3 CAD models." in capsys.readouterr().out
    record = load(tmp_path / "out", "val")[0]
    assert "nocs_file_name" not in record
    (tmp_path / "val.txt").unlink()
    assert command.main(arguments) == 1
    assert "error: " in capsys.readouterr().err


def test_converted_records_train(made: Path) -> None:
    """Without augmentations two calls differ in the drawn negatives only."""
    record = load(made, "train")[0]
    results = [RocaMapper(True, augmentations=[])(record) for _ in range(2)]
    assert torch.equal(results[0]["depth"], results[1]["depth"])
    assert len(results[0]["instances"]) == 3
