"""Images, cameras, maps, masks and voxels against those of the official scripts."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from roca_nocs.data.cad_catalog import occupied_voxels
from roca_nocs.data.maps import read_map
from roca_nocs.data.masks import mask_fields
from roca_nocs.data.scan2cad_conversion.annotations import parse_scene
from roca_nocs.data.scannet_images import resize_image, resize_intrinsics


def test_voxels_agree_with_the_reference(golden_dir: Path) -> None:
    with np.load(golden_dir / "roca" / "data_codecs.npz") as golden:
        counts = golden["out_cad_voxel_count"]
        expected = np.split(golden["out_cad_voxel_index_zyx"], np.cumsum(counts)[:-1])
        for vertices, faces, cells in zip(
            golden["cad_vertices"], golden["cad_faces"], expected, strict=True
        ):
            ours = {tuple(cell) for cell in occupied_voxels(vertices, faces).tolist()}
            theirs = {tuple(cell) for cell in cells.tolist()}
            assert len(ours & theirs) / len(ours | theirs) >= 0.95


def test_depth_and_nocs_decoding(golden_dir: Path, tmp_path: Path) -> None:
    with np.load(golden_dir / "roca" / "data_codecs.npz") as golden:
        stored = {"depth": golden["depth_png_u16"], "nocs": golden["noc_png_u16_xyz"]}
        expected = {"depth": golden["out_depth_m"], "nocs": golden["out_noc"]}
    record = {"layout": "scan2cad"}
    for name, array in stored.items():
        record[f"{name}_file_name"] = str(tmp_path / f"{name}.png")
        cv2.imwrite(record[f"{name}_file_name"], array)
    np.testing.assert_allclose(read_map(record, "depth"), expected["depth"][0, 0], atol=1e-7)
    nocs = read_map(record, "nocs").transpose(2, 0, 1)
    np.testing.assert_allclose(nocs, expected["nocs"][0], atol=1e-6)


def test_image_resize_and_camera(golden_dir: Path) -> None:
    with np.load(golden_dir / "roca" / "data_codecs.npz") as golden:
        image, matrix = golden["image"], golden["intrinsics_4x4"]
        size = tuple(golden["resize_short_long"].tolist())
        expected = golden["out_resized_image"]
        np.testing.assert_array_equal(
            resize_intrinsics(matrix, image.shape[:2], size),
            golden["out_resized_intrinsics_rounded"],
        )
    resized = resize_image(image, size)
    assert resized.shape == expected.shape and resized.dtype == np.uint8
    assert np.abs(resized.astype(float) - expected).mean() < 1


def test_mask_box_and_area(golden_dir: Path) -> None:
    with np.load(golden_dir / "roca" / "data_codecs.npz") as golden:
        fields = mask_fields(golden["instance_mask"])
        assert fields["segmentation"]["counts"] == str(golden["out_rle_counts"])
        assert fields["segmentation"]["size"] == golden["out_rle_size"].tolist()
        assert fields["bbox"] == golden["out_bbox_xywh"].tolist()
        assert fields["area"] == int(golden["out_area"])


def test_images_that_cannot_be_cropped_are_refused() -> None:
    image = np.zeros((100, 120, 3), np.uint8)
    with pytest.raises(ValueError, match="120x100 pixels is too narrow for 60x45"):
        resize_image(image, (45, 60))
    with pytest.raises(ValueError, match="too narrow"):
        resize_intrinsics(np.eye(3), (100, 120), (45, 60))
    same = np.zeros((45, 60, 3), np.uint8)
    assert resize_image(same, (45, 60)) is same
    matrix = np.full((3, 3), 1.23456)
    np.testing.assert_array_equal(resize_intrinsics(matrix, (45, 60), (45, 60)), matrix)


def test_poses_of_scan2cad_annotations_in_the_scan(golden_dir: Path) -> None:
    with np.load(golden_dir / "roca" / "alignment_accuracy.npz") as golden:
        data = dict(golden)
    found = []
    for number, scene in enumerate(data["scene_names"].tolist()):
        rows = np.flatnonzero(data["annot_model_scene"] == number)
        raw = {"id_scan": scene, **_trs(data, "annot_scan", number), "aligned_models": []}
        for row in rows:
            names = {"catid_cad": "catid", "id_cad": "id", "sym": "sym"}
            fields = {key: str(data[f"annot_model_{name}"][row]) for key, name in names.items()}
            raw["aligned_models"].append({**fields, **_trs(data, "annot_model", row)})
        models = [each for each in parse_scene(raw).models if each.category_id is not None]
        found += [(number, each.pose_fields(np.eye(4))) for each in models]
    assert [number for number, _ in found] == data["out_gt_world_scene"].tolist()
    for name in ("t", "s"):
        ours = np.array([pose[name] for _, pose in found])
        np.testing.assert_allclose(ours, data[f"out_gt_world_{name}"], atol=1e-6)
    cosines = (np.array([pose["q"] for _, pose in found]) * data["out_gt_world_q"]).sum(axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-9)


def _trs(data: dict[str, np.ndarray], prefix: str, row: int) -> dict[str, dict[str, list[float]]]:
    names = {"translation": "translation", "rotation": "rotation_wxyz", "scale": "scale"}
    return {"trs": {key: data[f"{prefix}_{name}"][row].tolist() for key, name in names.items()}}
