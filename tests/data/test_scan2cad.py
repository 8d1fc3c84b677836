"""Reader of ROCA's layout, on the embedded rooms and on damaged copies of their annotations."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from scipy.spatial.transform import Rotation

from roca_nocs.data.categories import SCAN2CAD_SYNSETS
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets import scan2cad as scan2cad_module
from roca_nocs.data.datasets.scan2cad import (
    CLASS_REPEATS,
    CLASSES,
    image_repeat_factors,
    keep_centered,
    load_scan2cad,
    read_matrix,
    scan2cad_records,
)
from roca_nocs.data.images import read_png
from roca_nocs.data.maps import read_map
from roca_nocs.data.synthetic.models import CATEGORIES, build_model


@pytest.fixture(scope="module")
def folder(embedded_root: Path) -> Path:
    return embedded_root / "rooms_tiny"


def load(folder: Path, split: str = "train", **options: Any) -> list[dict[str, Any]]:
    path = folder / "Dataset" / f"scan2cad_instances_{split}.json"
    return load_scan2cad(path, folder / "Images", folder / "Rendering", **options)


@pytest.fixture(scope="module")
def records(folder: Path) -> list[dict[str, Any]]:
    return load(folder)


@pytest.fixture
def reload_changed(folder: Path, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Load the validation file after a change of its content."""
    source = folder / "Dataset" / "scan2cad_instances_val.json"

    def run(change: Callable[[dict[str, Any]], object], **options: Any) -> list[dict[str, Any]]:
        data = json.loads(source.read_text())
        change(data)
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(data))
        return load_scan2cad(path, folder / "Images", folder / "Rendering", **options)

    return run


def test_classes_agree_with_the_models() -> None:
    assert CATEGORIES["rooms"] == CLASSES == tuple(sorted(CLASSES)) == tuple(CLASS_REPEATS)
    for name, catalog_id in SCAN2CAD_SYNSETS.items():
        assert build_model(name, 0).catalog_id == catalog_id


@pytest.mark.parametrize(("split", "count"), [("train", 40), ("val", 16), ("val_seen", 16)])
def test_splits(folder: Path, split: str, count: int) -> None:
    records = load(folder, split)
    assert len(records) == count
    assert len({record["file_name"] for record in records}) == count
    variants = {
        int(annotation["model"]["id_cad"][-2:])
        for record in records
        for annotation in record["annotations"]
    }
    assert variants <= (set(range(8, 12)) if split == "val" else set(range(8)))


def test_splits_share_no_scene_and_train_has_every_class(folder: Path) -> None:
    scenes = [{r["scene_id"] for r in load(folder, s)} for s in ("train", "val", "val_seen")]
    assert sum(map(len, scenes)) == len(set.union(*scenes)) == 36
    classes = {a["category_id"] for record in load(folder) for a in record["annotations"]}
    assert classes == set(range(9))


def test_record_fields(records: list[dict[str, Any]]) -> None:
    assert {record["layout"] for record in records} == {"scan2cad"}
    assert sum(len(record["annotations"]) for record in records) > 2.5 * len(records)
    for record in records:
        assert record["intrinsics"].shape == (3, 3)
        # ScanNet25k at a third of 480x360, pixel centres at integers.
        assert record["intrinsics"][0, 0] == pytest.approx(433.2 / 3, abs=0.2)
        for key in ("depth", "instance", "nocs", "depth_full", "pose"):
            assert Path(record[f"{key}_file_name"]).is_file()
        assert read_matrix(record["pose_file_name"])[3].tolist() == [0, 0, 0, 1]
        for annotation in record["annotations"]:
            assert annotation["bbox_mode"] == BoxMode.XYWH_ABS
            assert np.linalg.norm(annotation["q"]) == pytest.approx(1)
            assert annotation["q"][0] >= 0
            assert 0 < annotation["visibility"] <= 1 and 0 <= annotation["truncation"] <= 1
            assert (
                annotation["model"]["catid_cad"]
                == SCAN2CAD_SYNSETS[CLASSES[annotation["category_id"]]]
            )


def test_masks_boxes_and_areas_are_those_of_the_instance_image(
    folder: Path, records: list[dict[str, Any]]
) -> None:
    data = json.loads((folder / "Dataset" / "scan2cad_instances_train.json").read_text())
    areas = {annotation["id"]: annotation["area"] for annotation in data["annotations"]}
    for record in records[:12]:
        instances = read_map(record, "instance")
        for annotation in record["annotations"]:
            mask = instances == annotation["alignment_id"]
            np.testing.assert_array_equal(mask_util.decode(annotation["segmentation"]), mask)
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            assert areas[annotation["annotation_id"]] == mask.sum() >= 0.0025 * mask.size


def test_depth_pose_and_nocs_agree(records: list[dict[str, Any]]) -> None:
    """Back-projected depth, moved into the model frame, is the NOCS map."""
    for record in records[:12]:
        instances, depth = read_map(record, "instance"), read_map(record, "depth")
        nocs, full = read_map(record, "nocs"), read_map(record, "depth_full")
        assert ((depth > 0) == (instances > 0)).all()
        np.testing.assert_array_equal(depth[instances > 0], full[instances > 0])
        assert (full > 0).mean() > 0.99
        assert not nocs[instances == 0].any()
        for annotation in record["annotations"]:
            rows, columns = np.nonzero(instances == annotation["alignment_id"])
            pixels = np.stack([columns, rows, np.ones_like(rows)]).astype(float)
            points = np.linalg.inv(record["intrinsics"]) @ pixels * depth[rows, columns]
            w, x, y, z = annotation["q"]
            rotation = Rotation.from_quat([x, y, z, w]).as_matrix()
            model = rotation.T @ (points - np.array(annotation["t"])[:, None])
            model /= np.array(annotation["s"])[:, None]
            # Half a millimetre of depth, seen under the flattest ray, over the smallest scale.
            tolerance = 2e-3 / min(annotation["s"])
            np.testing.assert_allclose(nocs[rows, columns], model.T, atol=tolerance)


def test_nocs_image_stores_x_first_and_10000_as_background(records: list[dict[str, Any]]) -> None:
    raw = read_png(records[0]["nocs_file_name"])
    instances = read_map(records[0], "instance")
    assert raw.dtype == np.uint16 and (raw[instances == 0] == 10000).all()
    assert (raw[instances > 0] != 10000).any()


def test_world_poses_of_the_scene_file(folder: Path) -> None:
    scenes = json.loads((folder / "Dataset" / "scan2cad_val_scenes.json").read_text())
    for record in load(folder, "val"):
        models = {model["idx"]: model for model in scenes[record["scene_id"]]}
        camera_to_world = read_matrix(record["pose_file_name"])
        for annotation in record["annotations"]:
            model = models[annotation["alignment_id"]]
            assert model["id_cad"] == annotation["model"]["id_cad"]
            world = camera_to_world[:3, :3] @ annotation["t"] + camera_to_world[:3, 3]
            np.testing.assert_allclose(world, model["t"], atol=1e-5)
            np.testing.assert_allclose(annotation["s"], model["s"], atol=1e-8)
            assert model["to_scene"] == np.eye(4).tolist()


def test_center_filter_drops_and_counts(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def centers(records: list[dict[str, Any]]) -> np.ndarray:
        return np.array(
            [
                [*(p := record["intrinsics"] @ a["t"])[:2] / p[2], p[2]]
                for record in records
                for a in record["annotations"]
            ]
        )

    everything = centers(load(folder))
    inside = (everything >= 0).all(axis=1) & (everything[:, :2] < [160, 120]).all(axis=1)
    with caplog.at_level("INFO"):
        kept = centers(load(folder, center_filter=True))
    assert 0 < len(kept) < len(everything)
    np.testing.assert_array_equal(kept, everything[inside])
    dropped = len(everything) - len(kept)
    assert f"Left out {dropped} x object whose CAD centre is outside the image" in caplog.text


def test_registered_records_with_center_filter(embedded_names: Path) -> None:
    folder = embedded_names / "rooms_tiny"
    everything = scan2cad_records("rooms_tiny_val", center_filter=True, filter_empty=False)
    assert len(everything) == 16
    filtered = load(folder, "val", center_filter=True)
    assert [r["annotations"] for r in everything] == [r["annotations"] for r in filtered]
    assert len(scan2cad_records(["rooms_tiny_val", "rooms_tiny_train"], filter_empty=False)) == 56
    bare = [
        {**everything[0], "annotations": [{**everything[0]["annotations"][0], "t": [0, 0, -1]}]}
    ]
    assert keep_centered(bare)[0]["annotations"] == [] != bare[0]["annotations"]


def test_images_that_the_center_filter_empties_are_left_out(
    monkeypatch: pytest.MonkeyPatch, embedded_names: Path
) -> None:
    def emptied(names: object, filter_empty: bool) -> list[dict[str, Any]]:
        records = load(embedded_names / "rooms_tiny", "val")
        for annotation in records[3]["annotations"]:
            annotation["t"] = [0, 0, -1]
        return records

    monkeypatch.setattr(scan2cad_module, "get_detection_dataset_dicts", emptied)
    assert len(scan2cad_records("rooms_tiny_val", center_filter=True)) == 15
    assert len(scan2cad_records("rooms_tiny_val", center_filter=False)) == 16


def test_repeated_images_and_objects_without_cad_are_counted(
    reload_changed: Callable[..., list[dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    def change(data: dict[str, Any]) -> None:
        copied = {**data["images"][0], "id": 1000, "duplicate": True}
        data["images"].append(copied)
        data["annotations"][0]["is_cad"] = False

    with caplog.at_level("INFO"):
        records = reload_changed(change)
    assert len(records) == 16
    assert "left out 1 x repeated image" in caplog.text
    assert "left out 1 x object without CAD model" in caplog.text


def test_training_files_have_no_segmentation(
    reload_changed: Callable[..., list[dict[str, Any]]],
) -> None:
    def change(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            del annotation["segmentation"]

    records = reload_changed(change)
    assert all("segmentation" not in a for record in records for a in record["annotations"])


def test_image_without_annotation_takes_the_intrinsics_of_its_scene(
    reload_changed: Callable[..., list[dict[str, Any]]],
) -> None:
    records = reload_changed(lambda data: data["annotations"].clear())
    assert all(record["annotations"] == [] for record in records)
    expected = np.array([[144.4, 0, 79.533333], [0, 144.7, 60.4], [0, 0, 1]])
    np.testing.assert_allclose(records[0]["intrinsics"], expected, atol=0.1)


BAD_ANNOTATIONS = {
    "t": ([0, float("nan"), 1], "'t' is not finite"),
    "q": ([2, 0, 0, 0], "'q' has the norm 2; expected a unit quaternion"),
    "q, not finite": ([float("nan"), 0, 0, 0], "'q' is not finite"),
    "s": ([1, 0, 1], "a scale of zero"),
    "s, not finite": ([1, float("inf"), 1], "'s' is not finite"),
    "s, a number": (1.0, "'s' has the wrong length"),
    "sym": ("__SYM_3", "'sym' is '__SYM_3'; expected one of"),
    "alignment_id": (0, "'alignment_id' is 0; expected a whole number from 1 to 255"),
    "model": ({"catid_cad": "03001627"}, "'model': the field 'id_cad' is missing"),
    "category_id": (9, "unknown category id 9"),
}


@pytest.mark.parametrize("case", BAD_ANNOTATIONS)
def test_bad_annotation_is_named(
    reload_changed: Callable[..., list[dict[str, Any]]], case: str
) -> None:
    value, message = BAD_ANNOTATIONS[case]
    field = case.partition(",")[0]
    with pytest.raises(DatasetError, match=rf"changed\.json: annotation 4: .*{message}"):
        reload_changed(lambda data: data["annotations"][3].__setitem__(field, value))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[100, 0, 80], [0, float("nan"), 60], [0, 0, 1]], "'intrinsics' is not finite"),
        ([[100, 0, 80], [0, 0, 60], [0, 0, 1]], "focal length that is not positive"),
        ([[100, 0, 80], [0, 100, 60]], "'intrinsics' has the wrong length"),
    ],
)
def test_bad_camera_is_named(
    reload_changed: Callable[..., list[dict[str, Any]]], matrix: list, message: str
) -> None:
    with pytest.raises(DatasetError, match=rf"changed\.json: annotation 1: .*{message}"):
        reload_changed(lambda data: data["annotations"][0].__setitem__("intrinsics", matrix))


def test_objects_of_an_image_have_different_alignment_ids(
    reload_changed: Callable[..., list[dict[str, Any]]],
) -> None:
    def change(data: dict[str, Any]) -> None:
        first, second = data["annotations"][:2]
        assert first["image_id"] == second["image_id"]
        second["alignment_id"] = first["alignment_id"]

    with pytest.raises(DatasetError, match=r"annotation 2: 'alignment_id' is \d+, as that of .* 1"):
        reload_changed(change)


@pytest.mark.parametrize("field", ["q", "t", "s", "sym", "model", "alignment_id", "intrinsics"])
def test_missing_field_is_named(
    reload_changed: Callable[..., list[dict[str, Any]]], field: str
) -> None:
    with pytest.raises(DatasetError, match=rf"annotation 1: the field '{field}' is missing"):
        reload_changed(lambda data: data["annotations"][0].pop(field))


def test_other_classes_are_refused(
    reload_changed: Callable[..., list[dict[str, Any]]],
) -> None:
    with pytest.raises(DatasetError, match=r"the categories are .*'tub'.*; expected .*'bathtub'"):
        reload_changed(lambda data: data["categories"][0].__setitem__("name", "tub"))


def test_other_file_names_are_refused(
    reload_changed: Callable[..., list[dict[str, Any]]],
) -> None:
    with pytest.raises(DatasetError, match=r"image 1: 'file_name' is 'a\.jpg'; expected"):
        reload_changed(lambda data: data["images"][0].__setitem__("file_name", "a.jpg"))


@pytest.mark.parametrize("kind", ["instance", "depth", "noc", "depth_full"])
def test_missing_map_is_named_at_load(folder: Path, tmp_path: Path, kind: str) -> None:
    rendering = tmp_path / "Rendering"
    shutil.copytree(folder / "Rendering", rendering)
    broken = rendering / "scene0001_00" / kind / "000100.png"
    broken.unlink()
    path = folder / "Dataset" / "scan2cad_instances_val.json"
    with pytest.raises(DatasetError, match=r"scene0001_00/.*/000100\.png does not exist"):
        load_scan2cad(path, folder / "Images", rendering)


def test_published_renderings_have_depth_and_instances_only(folder: Path, tmp_path: Path) -> None:
    rendering = tmp_path / "Rendering"
    shutil.copytree(folder / "Rendering", rendering)
    for scene in rendering.iterdir():
        shutil.rmtree(scene / "noc")
        shutil.rmtree(scene / "depth_full")
    path = folder / "Dataset" / "scan2cad_instances_val.json"
    for record in load_scan2cad(path, folder / "Images", rendering):
        assert "nocs_file_name" not in record and "depth_full_file_name" not in record


@pytest.mark.parametrize("text", ["", "1 2 3", "a " * 16, "nan " * 16])
def test_bad_matrix_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pose.txt"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"pose\.txt: "):
        read_matrix(path)


def test_repeat_factors_by_hand() -> None:
    def image(*names: str) -> dict[str, Any]:
        return {"annotations": [{"category_id": CLASSES.index(name)} for name in names]}

    records = [image("chair"), image("chair", "table"), image("bed", "sofa"), image()]
    assert image_repeat_factors(records) == [1, 2, 4, 1]


def test_validation_file_serves_the_coco_evaluator(
    embedded_names: Path, tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    """Ground truth as prediction scores 100: ids, boxes and masks are as COCO has them."""
    evaluator = COCOEvaluator("rooms_tiny_val", ("bbox", "segm"), False, output_dir=str(tmp_path))
    evaluator.reset()
    for record in load(embedded_names / "rooms_tiny", "val"):
        annotations = record["annotations"]
        instances = Instances((record["height"], record["width"]))
        boxes = [
            BoxMode.convert(a["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for a in annotations
        ]
        masks = [mask_util.decode(a["segmentation"]) for a in annotations]
        instances.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        instances.scores = torch.ones(len(annotations))
        instances.pred_classes = torch.tensor([a["category_id"] for a in annotations])
        instances.pred_masks = torch.from_numpy(np.array(masks, dtype=bool))
        evaluator.process([copy.copy(record)], [{"instances": instances}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100, abs=1e-6)
    assert results["segm"]["AP"] == pytest.approx(100, abs=1e-6)
