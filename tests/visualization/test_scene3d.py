"""The 3D scene survives export: number, place and colour of everything."""

import io

import numpy as np
import pytest
import trimesh

from roca_nocs.utils.visualize import instance_colors
from roca_nocs.visualization.posed_cads import PosedCad
from roca_nocs.visualization.scene3d import CAMERA_TO_VIEWER, build_scene, depth_points, scene_page

INTRINSICS = np.array([[80.0, 0, 39.5], [0, 85, 29.5], [0, 0, 1]])
IMAGE = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def posed_boxes(count: int) -> list[PosedCad]:
    """Boxes at different places, turned and stretched."""
    box = trimesh.creation.box()
    cads = []
    for row, color in enumerate(instance_colors(count)):
        pose = trimesh.transformations.rotation_matrix(0.4 * row + 0.3, [0.2, 1, 0.1])
        pose[:3, :3] *= np.array([0.5, 0.8, 0.3])
        pose[:3, 3] = 0.4 * row - 0.4, 0.1, 2 + 0.5 * row
        arrays = np.asarray(box.vertices), np.asarray(box.faces)
        cads.append(PosedCad(*arrays, pose, color, row, "night table"))
    return cads


def load(scene: trimesh.Scene) -> trimesh.Scene:
    content = scene.export(file_type="glb")
    return trimesh.load(io.BytesIO(content), file_type="glb", process=False)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_glb_holds_the_models_where_they_are(count: int) -> None:
    cads = posed_boxes(count)
    loaded = load(build_scene(cads, IMAGE, INTRINSICS))
    meshes = {
        name: each for name, each in loaded.geometry.items() if isinstance(each, trimesh.Trimesh)
    }
    assert sorted(meshes) == [f"object_{row:02d}_night_table" for row in range(count)]
    assert len(loaded.geometry) == count + 1  # and the camera
    for cad, name in zip(cads, sorted(meshes), strict=True):
        transform, geometry = loaded.graph[name]
        expected = cad.camera_vertices() * [1, -1, -1]
        placed = trimesh.transform_points(loaded.geometry[geometry].vertices, transform)
        assert np.allclose(np.sort(placed, axis=0), np.sort(expected, axis=0), atol=1e-5)
        # The node is the pose, in the viewer's frame.
        assert np.allclose(transform, CAMERA_TO_VIEWER @ cad.pose, atol=1e-5)
        color = meshes[name].visual.material.baseColorFactor[:3]
        assert np.abs(np.asarray(color).astype(int) - cad.color).max() <= 1


def test_depth_becomes_points() -> None:
    depth = np.full((60, 80), 2.0, np.float32)
    depth[:, 40:] = 0
    cloud = depth_points(IMAGE, INTRINSICS, depth)
    points = np.asarray(cloud.vertices)
    assert 20_000 < len(points) < 35_000 and np.allclose(points[:, 2], 2)
    # Half the image: from its left border to its middle.
    borders = (np.array([-0.5, 39.5]) - 39.5) / 80 * 2
    assert np.allclose([points[:, 0].min(), points[:, 0].max()], borders, atol=0.02)
    height = 2 * 60 / 85
    assert points[:, 1].max() - points[:, 1].min() == pytest.approx(height, abs=0.03)
    # Large images are thinned out; a map of another size fits too.
    large = np.zeros((1200, 1600, 3), np.uint8)
    scaled = INTRINSICS * [[20], [20], [1]]
    thinned = depth_points(large, scaled, np.ones((60, 80), np.float32))
    assert len(thinned.vertices) == pytest.approx(60_000, rel=0.02)
    loaded = load(build_scene([], IMAGE, INTRINSICS, depth))
    clouds = [g for g in loaded.geometry.values() if isinstance(g, trimesh.PointCloud)]
    assert len(clouds) == 1
    assert np.allclose(np.asarray(clouds[0].vertices)[:, 2], 2)
    assert np.allclose(loaded.graph["depth"][0], CAMERA_TO_VIEWER)
    nothing = build_scene([], IMAGE, INTRINSICS, np.zeros((60, 80), np.float32))
    assert "depth" not in nothing.geometry


def test_the_viewer_sees_all_objects_from_outside_the_camera() -> None:
    cads = posed_boxes(3)
    scene = build_scene(cads, IMAGE, INTRINSICS)
    to_viewer = np.linalg.inv(scene.camera_transform)
    for cad in cads:
        x, y, z = (to_viewer @ CAMERA_TO_VIEWER @ cad.pose)[:3, 3]
        assert z < 0  # the viewer looks along -z
        tangents = np.tan(np.radians(scene.camera.fov) / 2)
        assert abs(x / z) < tangents[0] and abs(y / z) < tangents[1]
    assert np.linalg.norm(scene.camera_transform[:3, 3]) > 0.5
    assert scene.camera.fov[0] == pytest.approx(2 * np.degrees(np.arctan(40 / 80)))


def test_page_needs_no_network() -> None:
    page = scene_page(build_scene(posed_boxes(2), IMAGE, INTRINSICS))
    assert len(page) > 500_000  # three.js is inside
    for text in ('src="http', "src='http", 'href="http', "import(", 'importScripts("http'):
        assert text not in page
