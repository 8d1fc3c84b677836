"""Drawing puts things where the geometry says."""

import numpy as np
import torch
import trimesh

from roca_nocs.utils.visualize import (
    contact_sheet,
    depth_picture,
    draw_boxes,
    draw_masks,
    draw_wireframe,
    feature_edges,
    instance_colors,
    magnification,
    magnify,
    nocs_picture,
)

INTRINSICS = torch.tensor([[50.0, 0, 20], [0, 50, 15], [0, 0, 1]])


def blank(height: int = 30, width: int = 40) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def test_masks_tint_their_pixels_alone() -> None:
    masks = np.zeros((2, 30, 40), bool)
    masks[0, 2:5, 3:9] = True
    masks[1, 20:25, 30:33] = True
    drawn = draw_masks(blank(), masks)
    assert np.array_equal(drawn.any(axis=2), masks.any(axis=0))
    assert not draw_masks(blank(), masks[:0]).any()


def test_boxes_have_exclusive_edges() -> None:
    drawn = draw_boxes(blank(), np.array([[5.0, 6, 15, 20]]))
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 19, 5, 14)
    assert draw_boxes(blank(), np.array([[5.0, 6, 15, 20]]), ["chair"]).sum() > drawn.sum()


def test_depth_and_nocs_pictures() -> None:
    depth = np.zeros((4, 5), np.float32)
    assert not depth_picture(depth).any()
    depth[0], depth[1] = 1.0, 3.0
    picture = depth_picture(depth)
    assert picture[0, 0, 0] > picture[0, 0, 2] and picture[1, 0, 2] > picture[1, 0, 0]
    nocs = np.full((2, 2, 3), 0.5)
    mask = np.array([[True, False], [False, False]])
    assert nocs_picture(nocs, mask).tolist()[0] == [[255, 255, 255], [0, 0, 0]]


def test_feature_edges_of_a_box_are_its_twelve_edges() -> None:
    box = trimesh.creation.box()
    edges = feature_edges(box.vertices, box.faces)
    assert edges.shape == (12, 2, 3)
    assert np.allclose(np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1), 1)


def test_wireframe_projects_and_clips() -> None:
    inside = np.array([[[0, 0, 1.0], [0.2, 0, 1.0]]])
    drawn = draw_wireframe(blank(), inside, INTRINSICS, (255, 0, 0))
    rows, columns = np.nonzero(drawn[..., 0] > 128)
    assert set(rows) == {15} and columns.min() == 20 and columns.max() == 30
    behind = np.array([[[0, 0, -1.0], [0.2, 0, -1.0]]])
    assert not draw_wireframe(blank(), behind, INTRINSICS, (255, 0, 0)).any()
    crossing = np.array([[[0.0, 0, -1.0], [0.0, 0.1, 1.0]]])
    assert draw_wireframe(blank(), crossing, INTRINSICS, (255, 0, 0)).any()


def test_contact_sheet_fits_all() -> None:
    sheet = contact_sheet([[blank(), blank(10, 12)], [blank() + 7, blank()]], ["a", "b"])
    assert sheet.shape == (22 + 2 * 34, 2 * 44, 3)
    assert (sheet[22 + 34 : 22 + 64, :40] == 7).all()


def test_neighbouring_colors_differ() -> None:
    colors = instance_colors(12).astype(int)
    assert np.abs(np.diff(colors, axis=0)).max(axis=1).min() > 60
    assert instance_colors(0).shape == (0, 3)


def test_small_pictures_are_magnified() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1).repeat(3, 2)
    assert magnification(np.zeros((120, 160, 3))) == 2
    assert magnification(np.zeros((360, 480, 3))) == 1
    assert (
        magnify(image, 2)[:, :, 0].tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2
    )
    assert magnify(np.zeros((5, 2, 3)), 3, (1, 2)).shape == (5, 6, 9)
