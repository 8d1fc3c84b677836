"""The registered names: metadata without a file, clear errors, everything loads."""

import importlib
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts

from data.embedded_fixture import forget_builtin
from roca_nocs.data import datasets
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets import builtin
from roca_nocs.data.datasets.builtin import (
    builtin_datasets,
    dataset_root,
    load_builtin,
    register_builtin,
)

NAMES = {
    "rooms_train",
    "rooms_val",
    "rooms_val_seen",
    "rooms_tiny_train",
    "rooms_full_val",
    "tabletop_train",
    "tabletop_val",
    "tabletop_real_train",
    "tabletop_tiny_real_test",
    "tabletop_full_val",
    "scan2cad_train",
    "scan2cad_val",
    "nocs_camera_train",
    "nocs_camera_val",
    "nocs_real_train",
    "nocs_real_test",
    "nocs_camera_train_spd",
    "nocs_real_test_spd",
    "nocs_coco_train",
    "street_train",
    "street_tiny_val",
    "street_omni3d_train",
    "street_full_omni3d_val",
    "kitti_train",
    "kitti_val",
    "kitti_trainval",
    "kitti_test",
    "a2d2_train",
    "omni3d_sunrgbd_train",
    "omni3d_kitti_test",
    "omni3d_all_hypersim_val",
    "traffic_train",
    "traffic_tiny_val",
    "traffic_full_test",
    "nuscenes_bev_train",
    "lyft_bev_val",
}


def test_names_are_registered_once() -> None:
    names = [dataset.name for dataset in builtin_datasets()]
    assert len(names) == len(set(names)) == 102
    assert set(names) >= NAMES
    assert set(DatasetCatalog.list()) >= set(names)


def test_importing_and_registering_again_changes_nothing() -> None:
    before = {name: MetadataCatalog.get(name).as_dict() for name in NAMES}
    importlib.reload(builtin)
    importlib.reload(datasets)
    register_builtin()
    assert {name: MetadataCatalog.get(name).as_dict() for name in NAMES} == before


def test_metadata_is_there_without_files() -> None:
    rooms = MetadataCatalog.get("rooms_val_seen")
    assert rooms.thing_classes[:3] == ["bathtub", "bed", "bin"]
    assert rooms.thing_dataset_id_to_contiguous_id == {i: i for i in range(9)}
    assert rooms.evaluator_type == "coco"
    base = str(dataset_root() / "rooms")
    assert rooms.json_file == f"{base}/Dataset/scan2cad_instances_val_seen.json"
    assert (rooms.image_root, rooms.rendering_root) == (f"{base}/Images", f"{base}/Rendering")
    assert (rooms.cad_folder, rooms.cad_split) == (f"{base}/Dataset", "train")
    assert rooms.scenes_file == f"{base}/Dataset/scan2cad_val_seen_scenes.json"
    assert MetadataCatalog.get("rooms_train").get("scenes_file") is None
    real = MetadataCatalog.get("nocs_real_test")
    assert real.thing_dataset_id_to_contiguous_id == {i + 1: i for i in range(6)}
    assert real.json_file == str(dataset_root() / "nocs/annotations/nocs_real_test.json")
    assert real.model_split == "test"
    kitti = MetadataCatalog.get("kitti_test")
    assert kitti.thing_classes == ["Car", "Pedestrian", "Cyclist"]
    assert kitti.evaluator_type == "kitti" and kitti.get("json_file") is None
    assert kitti.image_root == str(dataset_root() / "kitti/testing/image_2")
    assert len(MetadataCatalog.get("omni3d_sunrgbd_train").thing_classes) == 38
    assert len(MetadataCatalog.get("omni3d_all_sunrgbd_train").thing_classes) == 50
    exhaustive = {
        name: MetadataCatalog.get(f"omni3d_{name}_test").exhaustive
        for name in ("sunrgbd", "hypersim", "arkitscenes", "objectron", "kitti", "nuscenes")
    }
    assert [name for name, value in exhaustive.items() if not value] == ["sunrgbd", "objectron"]
    assert MetadataCatalog.get("street_omni3d_val").thing_classes == [
        "car",
        "pedestrian",
        "cyclist",
    ]
    assert set(real.symmetries) == {"bottle", "bowl", "can"} and real.handle_class == "mug"


def test_registering_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(f"opened {arguments}")

    forget_builtin()
    for target in ("builtins.open", "io.open", "os.scandir", "os.stat"):
        monkeypatch.setattr(target, refuse)
    register_builtin(tmp_path)
    monkeypatch.undo()
    assert set(DatasetCatalog.list()) >= NAMES
    forget_builtin()
    register_builtin()


def test_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data/sets")
    assert dataset_root() == Path("/data/sets")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert dataset_root() == Path("datasets")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        (
            "rooms_val",
            r"Make it with: python datasets/prepare_embedded\.py --kind rooms --preset demo",
        ),
        ("tabletop_tiny_real_test", "--kind tabletop --preset tiny"),
        ("scan2cad_train", r"see datasets/README\.md"),
        ("nocs_camera_val", r"see datasets/README\.md"),
        ("street_val", "--kind street --preset demo"),
        ("kitti_train", r"see datasets/README\.md"),
        ("omni3d_nuscenes_val", r"see datasets/README\.md"),
        ("traffic_test", "--kind traffic --preset demo"),
        ("nuscenes_bev_val", r"see datasets/README\.md"),
    ],
)
def test_missing_folder_says_what_to_do(
    name: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dataset,) = (d for d in builtin_datasets() if d.name == name)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    folder = tmp_path / dataset.folder
    with pytest.raises(DatasetError, match=advice) as error:
        load_builtin(dataset, tmp_path)
    message = str(error.value)
    assert f"Dataset '{name}' needs the folder {folder}" in message
    assert "$DETECTRON2_DATASETS is not set" in message
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError, match=rf"\$DETECTRON2_DATASETS is '{tmp_path}'"):
        load_builtin(dataset, tmp_path)


@pytest.mark.parametrize("name", [d.name for d in builtin_datasets() if "tiny" in d.name])
def test_embedded_names_load(embedded_names: Path, name: str) -> None:
    records = get_detection_dataset_dicts(name, filter_empty="train" in name)
    assert len(records) >= 9
    metadata = MetadataCatalog.get(name)
    if (json_file := metadata.get("json_file")) is not None:
        assert Path(json_file).is_file()
    assert all(Path(record["file_name"]).is_relative_to(embedded_names) for record in records)


def test_real_names_read_the_same_layout(embedded_root: Path, tmp_path: Path) -> None:
    """The readers of the published data are those of the embedded data."""
    (tmp_path / "scan2cad").symlink_to(embedded_root / "rooms_tiny")
    (tmp_path / "nocs").symlink_to(embedded_root / "tabletop_tiny")
    counts = {
        dataset.name: len(load_builtin(dataset, tmp_path))
        for dataset in builtin_datasets()
        if dataset.folder in ("scan2cad", "nocs") and not dataset.name.endswith("_spd")
    }
    assert counts == {
        "scan2cad_train": 40,
        "scan2cad_val": 16,
        "nocs_camera_train": 40,
        "nocs_camera_val": 16,
        "nocs_real_train": 10,
        "nocs_real_test": 16,
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("rooms", "Images/tasks/scannet_frames_25k/scene0000_00/color/000000.jpg"),
        ("rooms", "Dataset/scan2cad_instances_val.json"),
        ("tabletop", "camera/train/00000/0000_mask.png"),
        ("street", "training/label_2/000000.txt"),
        ("street", "Omni3D/street_val.json"),
        ("traffic", "clips/train-000000/clip.json"),
        ("traffic", "meta.json"),
    ],
)
def test_damage_is_noticed_at_load(
    embedded_root: Path, tmp_path: Path, kind: str, name: str
) -> None:
    shutil.copytree(embedded_root / f"{kind}_tiny", tmp_path / f"{kind}_tiny")
    dataset = next(d for d in builtin_datasets() if d.name == f"{kind}_tiny_train")
    load_builtin(dataset, tmp_path)
    path = tmp_path / f"{kind}_tiny" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"has been changed\. Only the damaged scenes"):
        load_builtin(dataset, tmp_path)
