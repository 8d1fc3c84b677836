"""The reader of NOCS files against the official loader's output."""

from pathlib import Path

import numpy as np

from data.nocs_files import write_bbox, write_frame
from roca_nocs.data.datasets.nocs import CLASSES
from roca_nocs.data.datasets.nocs_frames import NocsFrame, decode_coordinates, decode_depth
from roca_nocs.data.datasets.nocs_models import ModelTable
from roca_nocs.data.datasets.nocs_objects import frame_annotations


def test_decoding_agrees_with_the_reference(golden_dir: Path, tmp_path: Path) -> None:
    with np.load(golden_dir / "nocs" / "camera_loader.npz") as golden:
        data = dict(golden)
    # The file holds red first; OpenCV reads and writes blue first.
    coordinates = decode_coordinates(data["coord_png_rgb"][..., ::-1])
    masks = data["masks"].astype(bool)
    for row in range(masks.shape[2]):
        mask = masks[..., row]
        np.testing.assert_allclose(coordinates[mask], data["coords"][mask][:, row], atol=1e-6)
    depth = decode_depth(data["encoded_depth_png_rgb"][..., ::-1])
    np.testing.assert_array_equal(depth, data["decoded_depth_mm"])

    frame = NocsFrame(tmp_path, "camera", "val", "00000", "0000")
    lines = data["meta_lines"].tolist()
    write_frame(frame, data["mask_png_red"], lines)
    for line, (upper, lower) in zip(lines, data["model_bbox_rows_max_min"], strict=True):
        _, _, catalog, model = line.split()
        write_bbox(tmp_path / f"obj_models/val/{catalog}/{model}/bbox.txt", upper, lower)
    annotations = frame_annotations(frame, ModelTable(), len(CLASSES))["annotations"]
    assert [a["category_id"] for a in annotations] == data["class_ids"].tolist()
    np.testing.assert_allclose([a["extents"] for a in annotations], data["scales"], atol=1e-6)
    for annotation, (y1, x1, y2, x2) in zip(
        annotations, data["boxes_y1x1y2x2"].tolist(), strict=True
    ):
        assert annotation["bbox"] == [x1, y1, x2 - x1, y2 - y1]
