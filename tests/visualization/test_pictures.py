"""Posed CAD models lie on the objects, and the panel shows everything."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as rle

from roca_nocs.data.cad_meshes import mesh_finder
from roca_nocs.data.images import read_color
from roca_nocs.data.maps import read_map
from roca_nocs.geometry.camera import project
from roca_nocs.utils.visualize import instance_colors, nocs_picture
from roca_nocs.visualization import pictures
from roca_nocs.visualization.image_result import ImageResult, from_annotations, from_output
from roca_nocs.visualization.pictures import Canvas
from roca_nocs.visualization.posed_cads import PosedCad, model_coordinates, pose_cads, view_cads
from visualization.fake_model import output

NAME = "rooms_tiny_train"
NAMES = ["thing"] * 20


@pytest.fixture
def record(embedded_names: Path) -> dict:
    return DatasetCatalog.get(NAME)[0]


def box_cad(pose: np.ndarray, row: int = 0) -> PosedCad:
    box = trimesh.creation.box()
    color = np.array([200, 100, 50], np.uint8)
    return PosedCad(np.asarray(box.vertices), np.asarray(box.faces), pose, color, row, "box")


def test_silhouettes_of_true_poses_cover_the_masks(embedded_names: Path) -> None:
    mesh, names = mesh_finder(NAME), MetadataCatalog.get(NAME).thing_classes
    objects = 0
    for record in DatasetCatalog.get(NAME)[:5]:
        truth = from_annotations(record["annotations"])
        cads = pose_cads(truth, mesh, names)
        view = view_cads(cads, record["intrinsics"], (120, 160))
        assert [cad.row for cad in cads] == list(range(len(truth)))
        for number, mask in enumerate(truth.masks):
            assert (view.index[mask] == number).mean() > 0.99
            objects += 1
        # Where the object is seen, so are its depth and model coordinates, as stored.
        inside = truth.masks.any(axis=0) & (view.index >= 0)
        assert np.abs(view.depth - read_map(record, "depth"))[inside].max() < 2e-3
        nocs = model_coordinates(view, cads, record["intrinsics"])
        assert np.abs(nocs - read_map(record, "nocs"))[inside].max() < 2e-3
        assert np.allclose(np.linalg.norm(view.normals[inside], axis=-1), 1)
    assert objects > 10


def test_view_of_a_box() -> None:
    """A box of 0.4 x 0.2 x 0.2 m whose front is 0.9 m away."""
    pose = np.diag([0.4, 0.2, 0.2, 1])
    pose[2, 3] = 1.0
    intrinsics = np.array([[100.0, 0, 40], [0, 100, 30], [0, 0, 1]])
    view = view_cads([box_cad(pose)], intrinsics, (60, 80))
    rows, columns = np.nonzero(view.index == 0)
    half = np.array([20, 10]) / 0.9
    assert columns.min() == np.ceil(40 - half[0]) and columns.max() == np.floor(40 + half[0])
    assert rows.min() == np.ceil(30 - half[1]) and rows.max() == np.floor(30 + half[1])
    assert np.allclose(view.depth[view.index == 0], 0.9)
    assert np.allclose(view.normals[30, 40], [0, 0, -1])
    nocs = model_coordinates(view, [box_cad(pose)], intrinsics)
    assert np.allclose(nocs[30, 40], [0, 0, -0.5], atol=1e-6)
    assert (view.depth[view.index < 0] == 0).all() and not nocs[view.index < 0].any()
    # A flat model, whose pose cannot be inverted, and none at all.
    flat = pose.copy()
    flat[2, 2] = 0
    view = view_cads([box_cad(flat)], intrinsics, (60, 80))
    assert (view.index == 0).any()
    assert np.isfinite(model_coordinates(view, [box_cad(flat)], intrinsics)).all()
    view = view_cads([], intrinsics, (60, 80))
    assert (view.index == -1).all() and not model_coordinates(view, [], intrinsics).any()


@pytest.mark.parametrize("size", [(120, 160), (3000, 4000), (97, 61)])
def test_canvas_keeps_the_geometry(size: tuple[int, int]) -> None:
    intrinsics = np.array([[0.9 * size[1], 0, 0.4 * size[1]], [0, size[1], 40], [0, 0, 1]])
    canvas = Canvas(np.zeros((*size, 3), np.uint8), intrinsics)
    panorama = Canvas(np.zeros((size[1], 3 * size[1], 3), np.uint8))
    assert max(panorama.size) == 2 * pictures.TILE
    assert max(canvas.size) == pictures.TILE and canvas.photo.shape[:2] == canvas.size
    point = torch.tensor([[0.1, 0.05, 1.3]], dtype=torch.float64)
    before, after = (
        project(point, torch.from_numpy(matrix))[0].numpy()
        for matrix in (intrinsics, canvas.intrinsics)
    )
    # Edges of pixels scale; their centres are half a pixel away.
    assert np.allclose((before + 0.5) * canvas.factors, after + 0.5)
    masks = np.zeros((1, *size), bool)
    masks[0, size[0] // 2 :] = True
    assert canvas.masks(masks).mean() == pytest.approx(masks.mean(), abs=0.01)
    assert canvas.masks(masks[:0]).shape == (0, *canvas.size)


def test_cad_picture_has_the_colors_of_the_objects(record: dict) -> None:
    image = read_color(record, "RGB")
    truth = from_annotations(record["annotations"])
    cads = pose_cads(truth, mesh_finder(NAME), NAMES)
    canvas = Canvas(image, record["intrinsics"])
    drawn = pictures.draw_cads(canvas, cads)
    view = view_cads(cads, canvas.intrinsics, canvas.size)
    changed = np.abs(drawn.astype(int) - canvas.photo).max(axis=2) > 40
    assert changed[view.index >= 0].mean() > 0.8
    outside = view.index < 0
    assert np.abs(drawn.astype(int) - canvas.photo).max(axis=2)[outside].mean() < 4
    for number, color in enumerate(instance_colors(len(truth)).astype(float)):
        inside = view.index == number
        if inside.sum() > 500:
            mean = drawn[inside].mean(axis=0)
            cosine = mean @ color / np.linalg.norm(mean) / np.linalg.norm(color)
            assert cosine > 0.9
    assert np.array_equal(pictures.draw_cads(canvas, []), canvas.photo)


def test_predicted_coordinates_are_pasted_into_boxes() -> None:
    nocs = np.full((4, 4, 3), -0.5, np.float32)
    nocs[..., 0] = np.linspace(-0.5, 0.5, 4)
    alignments = from_output(output([], (30, 40)), 0).alignments
    masks = np.ones((1, 30, 40), bool)
    masks[0, :, :20] = False
    box = np.array([[10.0, -5, 30, 20]])
    result = ImageResult(box, np.zeros(1, int), np.ones(1), masks, alignments, nocs=[nocs])
    canvas = Canvas(np.zeros((30, 40, 3), np.uint8), np.eye(3), longer_side=40)
    drawn = pictures.draw_nocs(canvas, result, [])
    rows, columns = np.nonzero(drawn.any(axis=2))
    # The right half of the box, inside the image.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 19, 20, 29)
    assert (np.diff(drawn[10, 20:30, 0].astype(int)) >= 0).all() and drawn[10, 29, 0] == 255
    # Without predicted ones, those of the models are drawn.
    pose = np.diag([0.4, 0.2, 0.2, 1])
    pose[2, 3] = 1.0
    intrinsics = np.array([[40.0, 0, 20], [0, 40, 15], [0, 0, 1]])
    canvas = Canvas(np.zeros((30, 40, 3), np.uint8), intrinsics, longer_side=40)
    bare = replace(result, nocs=None)
    cad = box_cad(pose)
    view = view_cads([cad], intrinsics, (30, 40))
    expected = nocs_picture(model_coordinates(view, [cad], intrinsics), view.index >= 0)
    assert np.array_equal(pictures.draw_nocs(canvas, bare, [cad]), expected)


def test_annotated_coordinates_have_no_borders() -> None:
    """Outside its mask an object's grid goes on, so that enlarging mixes nothing in."""
    nocs, masks = np.zeros((30, 40, 3), np.float32), np.zeros((1, 30, 40), bool)
    masks[0, 5:15, 10:20] = True
    masks[0, 5:8, 10:13] = False
    nocs[masks[0]] = 0.4
    annotation = {
        "bbox": [10, 5, 10, 10],
        "category_id": 0,
        "segmentation": rle.encode(np.asfortranarray(masks[0].astype(np.uint8))),
    }
    result = from_annotations([annotation], nocs=nocs)
    assert result.nocs[0].shape == (10, 10, 3) and np.allclose(result.nocs[0], 0.4)
    canvas = Canvas(np.zeros((30, 40, 3), np.uint8), np.eye(3))
    drawn = pictures.draw_nocs(canvas, result, [])
    seen = drawn.any(axis=2)
    assert np.array_equal(seen, canvas.masks(masks)[0])
    assert (drawn[seen] == int(0.9 * 255)).all()


def test_labels_do_not_cover_each_other() -> None:
    canvas = Canvas(np.zeros((120, 160, 3), np.uint8))
    boxes = np.array([[20.0, 30, 60, 80], [21, 31, 60, 80], [150, 2, 160, 20]])
    result = ImageResult(boxes, np.array([0, 1, 2]), np.array([0.9, 0.8, 0.7]), None, None, None)
    drawn = pictures.draw_objects(canvas, result, ["chair", "table", "cabinet"])
    areas = [(drawn == color).all(axis=2).sum() for color in instance_colors(3)]
    # The filled labels (about 70 x 17) of all three can be seen.
    assert min(areas) > 700


def test_panel_size_does_not_depend_on_the_objects(record: dict) -> None:
    image = read_color(record, "RGB")
    canvas = Canvas(image, record["intrinsics"])
    depth = read_map(record, "depth_full")
    full = replace(from_output(output(record["annotations"], (120, 160)), 0), depth=depth)
    empty = replace(from_output(output([], (120, 160)), 0), depth=depth)
    cads = pose_cads(full, mesh_finder(NAME), NAMES)
    panel = pictures.draw_panel(canvas, full, cads, NAMES)
    assert panel.shape == (22 + 304, 5 * 404, 3)
    assert pictures.draw_panel(canvas, empty, [], NAMES).shape == panel.shape
    truth = from_annotations(record["annotations"], read_map(record, "depth"))
    both = pictures.draw_panel(canvas, full, cads, NAMES, truth, cads)
    assert both.shape == (2 * 326, 5 * 404, 3)
    assert np.array_equal(both[:326], panel)
    # An image without annotations has the same columns.
    nothing = pictures.draw_panel(canvas, full, cads, NAMES, from_annotations([]))
    assert nothing.shape == both.shape
    flat = replace(full, alignments=None, depth=None)
    canvas = Canvas(image)
    assert pictures.draw_panel(canvas, flat, [], NAMES).shape == (326, 2 * 404, 3)
    assert pictures.draw_panel(canvas, flat, [], NAMES, truth).shape == (326, 3 * 404, 3)


def test_depth_range_is_written() -> None:
    canvas = Canvas(np.zeros((12, 16, 3), np.uint8))
    depth = np.zeros((12, 16), np.float32)
    picture, text = pictures.draw_depth(canvas, depth)
    assert not picture.any() and text == ""
    depth[:, :8], depth[:, 8:12] = 1.25, 3.0
    picture, text = pictures.draw_depth(canvas, depth)
    assert text == " 1.2-3.0 m" and picture.shape[:2] == canvas.size
    # Holes stay holes.
    assert not picture[:, 300:].any() and picture[:, :300].any(axis=2).all()
