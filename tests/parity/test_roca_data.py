"""The voxels of the CAD catalogue against those of the published grids."""

from pathlib import Path

import cv2
import numpy as np

from roca_nocs.data.cad_catalog import occupied_voxels
from roca_nocs.data.maps import read_map


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
