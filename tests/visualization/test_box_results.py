"""Outputs and annotations of models with 3D boxes become the same boxes, pictures and numbers."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from detectron2.data import DatasetCatalog, MetadataCatalog

from roca_nocs.data.datasets.kitti_files import read_labels
from roca_nocs.data.maps import read_map
from roca_nocs.geometry.camera import project
from roca_nocs.geometry.cuboids import box_corners
from roca_nocs.geometry.projection import project_points
from roca_nocs.utils.visualize import instance_colors
from roca_nocs.visualization.box_pictures import (
    AXIS_COLORS,
    draw_boxes3d,
    draw_from_above,
    find_reach,
)
from roca_nocs.visualization.image_result import ImageResult, from_annotations, from_output
from roca_nocs.visualization.inputs import CameraChoice, Frame, record_sources
from roca_nocs.visualization.output_folder import OutputFolder
from roca_nocs.visualization.pictures import Canvas, draw_panel
from roca_nocs.visualization.posed_boxes import PosedBox, pose_boxes
from roca_nocs.visualization.results_kitti import kitti_text
from roca_nocs.visualization.scene3d import CAMERA_TO_VIEWER, build_scene
from visualization.box_outputs import mono3d_output, nocs_output

STREET, TABLES = "street_tiny_val", "tabletop_tiny_val"
INTRINSICS = np.array([[100.0, 0, 79.5], [0, 100, 49.5], [0, 0, 1]])
COLOR = np.array([200, 100, 50], np.uint8)


def first_frame(name: str) -> tuple[dict, Frame]:
    """The first record with two objects or more."""
    record = next(each for each in DatasetCatalog.get(name) if len(each["annotations"]) > 1)
    (read,) = record_sources([record], CameraChoice(), (), depth=True)
    return record, read()


def a_box(center: tuple[float, ...], extents: tuple[float, ...], *, front: bool = True) -> PosedBox:
    """Its x axis points away from the camera, its y axis down."""
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    pose[:3, 3] = center
    return PosedBox(pose, np.array(extents), front, COLOR, 0, "car")


def test_monocular_boxes_of_annotations(embedded_names: Path) -> None:
    record, frame = first_frame(STREET)
    truth = from_annotations(record["annotations"])
    found = from_output(mono3d_output(record), 0.0)
    assert found.boxes3d.has_front and truth.boxes3d.has_front and found.in_space
    assert found.alignments is truth.alignments is None
    for name in ("centers", "rotations", "extents", "valid"):
        assert np.allclose(getattr(found.boxes3d, name), getattr(truth.boxes3d, name)), name
    assert np.allclose(found.boxes, truth.boxes)
    angles = np.array([[each["rotation_y"], each["alpha"]] for each in record["annotations"]])
    assert np.allclose(np.stack(found.boxes3d.headings(), axis=1), angles, atol=1e-9)

    # The boxes that are drawn are where the projection of the record has them.
    names = MetadataCatalog.get(STREET).thing_classes
    canvas = Canvas(frame.image, frame.intrinsics, longer_side=max(frame.image.shape))
    drawn = pose_boxes(found.moved(frame.offset), names)
    assert [box.row for box in drawn] == list(range(len(truth)))
    for box, annotation in zip(drawn, record["annotations"], strict=True):
        fields = (annotation[name] for name in ("center", "dimensions", "rotation"))
        corners = box_corners(*(torch.tensor(each, dtype=torch.float64) for each in fields))
        expected, _ = project_points(corners, torch.from_numpy(record["projection"]))
        pixels = project(torch.from_numpy(box.corners()), torch.from_numpy(canvas.intrinsics))
        assert torch.allclose(pixels + 0.5, expected, atol=1e-6)
        # The cross is on the side that the length axis points to.
        ahead = torch.tensor(annotation["rotation"]).double()[:, 0].numpy()
        assert ((box.edges()[12:] - box.pose[:3, 3]) @ ahead > 0).all()


def test_boxes_of_nocs(embedded_names: Path) -> None:
    record, _ = first_frame(TABLES)
    output = nocs_output(record)
    found = from_output(output, 0.0, read_map(record, "depth"))
    truth = from_annotations(record["annotations"], nocs=read_map(record, "nocs"))
    assert not found.boxes3d.has_front and found.alignments is None and found.depth is not None
    assert found.boxes3d.valid.tolist() == [True] * (len(truth) - 1) + [False]
    assert found.boxes3d.failures[-1] == "TOO_FEW_POINTS" and found.boxes3d.failures[0] is None
    # Sides of the model times its scale.
    first = record["annotations"][0]
    sides = np.array(first["s"]) * np.array(first["extents"])
    assert np.allclose(truth.boxes3d.extents[0], sides)
    assert np.allclose(found.boxes3d.extents, truth.boxes3d.extents)
    grid = output["instances"].pred_nocs[0].permute(1, 2, 0).numpy() - 0.5
    assert np.allclose(found.nocs[0], grid)
    limited = truth.limited_to(found)
    assert limited.alignments is None and limited.boxes3d is truth.boxes3d
    # Posed points of the annotated map lie inside the annotated box.
    mask, boxes = truth.masks[0], truth.boxes3d
    points = read_map(record, "nocs")[mask] * first["s"][0]
    assert (np.abs(points) <= boxes.extents[0] / 2 + 0.02 * np.linalg.norm(sides)).all()


def test_boxes_that_are_not_finite(embedded_names: Path) -> None:
    record, _ = first_frame(STREET)
    output = mono3d_output(record)
    output["instances"].pred_center_cam[0, 2] = torch.nan
    output["instances"].pred_dimensions[1] = 0
    boxes = from_output(output, 0.0).boxes3d
    assert boxes.valid[:2].tolist() == [False, False] and boxes.valid[2:].all()
    # Objects without a usable 3D box keep their 2D box.
    record["annotations"][0]["has3d"] = False
    truth = from_annotations(record["annotations"])
    assert not truth.boxes3d.valid[0] and len(pose_boxes(truth, ["a"] * 3)) == len(truth) - 1
    nothing = from_output({"instances": output["instances"][:0]}, 0.0)
    assert nothing.in_space and pose_boxes(nothing, []) == []


def test_wireframe_marks_the_front_or_shows_axes() -> None:
    photo = np.zeros((100, 160, 3), np.uint8)
    box = a_box((0.0, 0.0, 4.0), (2.0, 1.0, 1.6))
    drawn = draw_boxes3d(photo, INTRINSICS, [box])
    rows, columns = np.nonzero(drawn[..., 0] > COLOR[0] / 2)
    # The near face, 3 m away, is 1.6 m wide and 1 m high.
    assert abs(columns.min() - (79.5 - 80 / 3)) < 1.5 and abs(columns.max() - (79.5 + 80 / 3)) < 1.5
    assert abs(rows.min() - (49.5 - 50 / 3)) < 1.5 and abs(rows.max() - (49.5 + 50 / 3)) < 1.5
    # The diagonals of the far face meet at the centre of the image.
    assert drawn[48:52, 78:82].any()
    model = a_box((0.8, 0.4, 4.0), (2.0, 1.0, 1.6), front=False)
    plain = draw_boxes3d(photo, INTRINSICS, [model])
    for (center, end), color in zip(model.axes(), AXIS_COLORS, strict=True):
        point = torch.from_numpy(center + 0.75 * (end - center))[None]
        x, y = project(point, torch.from_numpy(INTRINSICS))[0].round().int().tolist()
        near = plain[y - 2 : y + 2, x - 2 : x + 2].reshape(-1, 3)
        assert (np.abs(near.astype(int) - color).max(axis=1) < 60).any(), color
    behind = a_box((0.0, 0.0, -4.0), (2.0, 1.0, 1.6))
    assert not draw_boxes3d(photo, INTRINSICS, [behind]).any()
    assert np.array_equal(draw_boxes3d(photo, INTRINSICS, []), photo)


def test_view_from_above() -> None:
    box = a_box((4.0, 1.0, 14.0), (4.0, 1.5, 2.0))
    assert find_reach([box]) == 20 and find_reach([]) == 5
    assert find_reach([a_box((0, 0, 3.0), (1, 1, 1))]) == 5
    assert find_reach([a_box((0, 0, 1e5), (1, 1, 1))]) == 100
    empty = draw_from_above((224, 400), INTRINSICS, 160, [], 20)
    drawn = draw_from_above((224, 400), INTRINSICS, 160, [box], 20)
    assert drawn.shape == (224, 400, 3)
    rows, columns = np.nonzero((drawn != empty).any(axis=2))
    # 10 pixels a metre; the camera is 12 pixels above the lower border.
    borders = np.array([columns.min(), columns.max(), rows.min(), rows.max()])
    assert np.abs(borders - [230, 250, 212 - 160, 212 - 120]).max() <= 2
    # A thick line from the centre to the front.
    middle = drawn[54:70, 240].astype(int) - drawn[54:70, 234]
    assert (np.abs(middle).max(axis=1) > 30).all()
    # Far beside the picture, and nearer than the camera: nothing breaks.
    odd = [a_box((1e7, 0, 5.0), (1, 1, 1)), a_box((0, 0, -50.0), (1, 1, 1))]
    assert np.array_equal(draw_from_above((224, 400), INTRINSICS, 160, odd, 20), empty)


def test_panel_of_boxes(embedded_names: Path) -> None:
    record, frame = first_frame(STREET)
    names = MetadataCatalog.get(STREET).thing_classes
    canvas = Canvas(frame.image, frame.intrinsics)
    assert canvas.size[1] == 800
    found = from_output(mono3d_output(record), 0.0).moved(frame.offset)
    # Input, found, 3D boxes; the view from above is as high as half the width.
    panel = draw_panel(canvas, found, [], names)
    assert panel.shape == (22 + 404, 4 * 804, 3)
    truth = from_annotations(record["annotations"]).moved(frame.offset)
    both = draw_panel(canvas, found, [], names, truth)
    assert both.shape == (2 * panel.shape[0], panel.shape[1], 3)
    # A view from above that shows more has the same size.
    wider = draw_panel(canvas, found, [], names, least_reach=100)
    assert wider.shape == panel.shape
    assert np.array_equal(wider[:, : 3 * 804], panel[:, : 3 * 804]) and (wider != panel).any()
    # Perfect boxes look like the annotated ones.
    half = panel.shape[0]
    for column in (2, 3):
        tiles = (
            both[top + 22 : top + 22 + 400, column * 804 : column * 804 + 800] for top in (0, half)
        )
        assert np.array_equal(*tiles)
    unseen = draw_panel(canvas, found, [], names, from_annotations([]))
    assert unseen.shape == both.shape
    nothing = from_output({"instances": mono3d_output(record)["instances"][:0]}, 0.0)
    assert draw_panel(canvas, nothing, [], names).shape == panel.shape

    record, frame = first_frame(TABLES)
    names = MetadataCatalog.get(TABLES).thing_classes
    canvas = Canvas(frame.image, frame.intrinsics)
    found = from_output(nocs_output(record), 0.0, frame.depth)
    # Input, found, 3D boxes, coordinates, depth.
    assert draw_panel(canvas, found, [], names).shape == (326, 5 * 404, 3)


@pytest.mark.parametrize("front", [True, False])
def test_scene_holds_the_boxes_where_they_are(front: bool) -> None:
    box = replace(a_box((0.4, 0.2, 3.0), (2.0, 1.0, 1.5), front=front), label="night table")
    image = np.zeros((100, 160, 3), np.uint8)
    content = build_scene([], image, INTRINSICS, boxes=[box]).export(file_type="glb")
    loaded = trimesh.load(io.BytesIO(content), file_type="glb", process=False)
    names = ["box_00_night_table", *([] if front else [f"box_00_night_table_{a}" for a in "xyz"])]
    assert sorted(loaded.geometry) == sorted([*names, "photo_camera"])
    transform, geometry = loaded.graph[names[0]]
    assert np.allclose(transform, CAMERA_TO_VIEWER @ box.pose, atol=1e-5)
    mesh = loaded.geometry[geometry]
    assert np.allclose(np.ptp(mesh.vertices, axis=0), box.extents, atol=0.03)
    # All edges, and the front, can be met by a ray; the other sides are open.
    inside = mesh.ray.intersects_any([[0.3, 0.2, 0.1]] * 2, [[1, 0, 0], [-1, 0, 0]])
    assert inside.tolist() == [front, False]
    assert np.abs(mesh.visual.material.baseColorFactor[:3].astype(int) - COLOR).max() <= 1
    for axis, name in enumerate(names[1:]):
        bar = loaded.geometry[loaded.graph[name][1]]
        assert np.argmax(np.ptp(bar.vertices, axis=0)) == axis
        assert bar.vertices[:, axis].max() == pytest.approx(box.extents[axis] / 2, abs=1e-4)


def written(folder: Path, frame: Frame, result: ImageResult, name: str) -> dict:
    output = OutputFolder(folder, MetadataCatalog.get(name).thing_classes, None, None)
    output.write_image(frame, result)
    assert output.write_index().is_file()
    return json.loads((folder / f"{frame.name}.json").read_text())


def test_files_of_monocular_boxes(embedded_names: Path, tmp_path: Path) -> None:
    record, frame = first_frame(STREET)
    results = written(tmp_path, frame, from_output(mono3d_output(record), 0.0), STREET)
    assert {path.suffix for path in tmp_path.iterdir()} >= {
        *(".png", ".json", ".txt", ".glb", ".html")
    }
    assert np.allclose(results["camera_offset"], frame.offset)
    for found, annotation in zip(results["objects"], record["annotations"], strict=True):
        assert np.allclose(found["box_xyxy"], annotation["bbox"])
        assert list(found["box3d"]) == ["center", "rotation", "dimensions", "rotation_y", "alpha"]
        for name, value in found["box3d"].items():
            assert np.allclose(value, annotation[name], atol=1e-9), name
        assert "box3d_failure" not in found

    # The lines can be read as results of the benchmark.
    read = read_labels(tmp_path / f"{frame.name}.txt")
    truth = read_labels(record["label_file"])
    rows = [annotation["annotation_id"] for annotation in record["annotations"]]
    assert read.types == tuple(truth.types[row] for row in rows)
    for name in ("boxes", "dimensions", "centers", "rotation_y"):
        assert np.allclose(getattr(read, name), getattr(truth, name)[rows], atol=2e-3), name
    assert np.allclose(read.scores, 0.9 - 0.01 * np.arange(len(rows)), atol=1e-6)

    # The scene is in the frame of the photo's camera.
    scene = trimesh.load(tmp_path / f"{frame.name}.glb")
    boxes = [each for each in scene.geometry if each.startswith("box_")]
    assert len(boxes) == len(rows)
    for name in boxes:
        place = scene.graph[name][0][:3, 3] * [1, -1, -1] - frame.offset
        assert np.allclose(place, record["annotations"][int(name.split("_")[1])]["center"])
    page = (tmp_path / f"{frame.name}.html").read_text()
    assert "heading (degrees)" in page and f"#{instance_colors(1).tobytes().hex()}" in page

    empty = replace(frame, name="empty")
    nothing = from_output({"instances": mono3d_output(record)["instances"][:0]}, 0.0)
    assert written(tmp_path, empty, nothing, STREET)["objects"] == []
    assert (tmp_path / "empty.txt").read_text() == ""


def test_files_of_nocs(embedded_names: Path, tmp_path: Path) -> None:
    record, frame = first_frame(TABLES)
    result = from_output(nocs_output(record), 0.0, frame.depth)
    *posed, failed = written(tmp_path, frame, result, TABLES)["objects"]
    assert failed["box3d"] is None and failed["box3d_failure"] == "TOO_FEW_POINTS"
    for found, annotation in zip(posed, record["annotations"], strict=False):
        assert list(found["box3d"]) == ["center", "rotation", "extents"]
        assert np.allclose(found["box3d"]["center"], annotation["t"])
        assert found["box3d_failure"] is None and found["mask"] is not None
    scene = trimesh.load(tmp_path / f"{frame.name}.glb")
    # Edges and three axes for each, the measured points, the camera.
    assert len(scene.geometry) == 4 * len(posed) + 2 and "depth" in scene.geometry
    assert not (tmp_path / f"{frame.name}.txt").exists()
    assert "heading" not in (tmp_path / f"{frame.name}.html").read_text().split("</iframe>")[1]


def test_class_names_with_blanks_stay_one_word(embedded_names: Path) -> None:
    record, _ = first_frame(STREET)
    result = from_output(mono3d_output(record), 0.0)
    lines = kitti_text(result, ["traffic cone"] * 3).splitlines()
    assert len(lines) == len(result)
    assert all(line.split()[0] == "traffic_cone" and len(line.split()) == 16 for line in lines)
