"""The renderer against its own definitions, brute force, and hand-made scenes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from data.synthetic.rendered_scenes import Rendered
from roca_nocs.data.synthetic.assembly import scene_geometry
from roca_nocs.data.synthetic.cameras import look_at, sample_views
from roca_nocs.data.synthetic.layout import world_vertices
from roca_nocs.data.synthetic.models import build_model
from roca_nocs.data.synthetic.models.builder import ModelBuilder
from roca_nocs.data.synthetic.raycast import NEAR, pixel_directions
from roca_nocs.data.synthetic.render import (
    NOISE,
    Renderer,
    render_depth_instance,
    render_silhouettes,
)
from roca_nocs.data.synthetic.rooms import sample_room
from roca_nocs.data.synthetic.shading import shade
from roca_nocs.data.synthetic.supersampling import SAMPLE_OFFSETS, supersample
from roca_nocs.data.synthetic.symmetry import distance_to_surface
from roca_nocs.data.synthetic.types import (
    CadModel,
    Frame,
    Lighting,
    Material,
    PlacedObject,
    Scene,
    Surface,
    View,
)
from roca_nocs.data.synthetic.visibility import clipped_box, mask_box, pixel_window, truncation


def object_to_camera(placed: PlacedObject, view: View) -> np.ndarray:
    to_world = np.eye(4)
    to_world[:3, :3] = placed.rotation * placed.scale
    to_world[:3, 3] = placed.translation
    return view.world_to_camera @ to_world


def as_mesh(model: CadModel) -> tuple[np.ndarray, np.ndarray]:
    return model.vertices, model.faces


def object_scene(*placed: PlacedObject, surfaces: tuple[Surface, ...] = ()) -> Scene:
    light = Lighting(np.array([0.0, 0.0, 5.0]), 20.0, np.array([0.0, 0.6, 0.8]), 0.2, 0.5, 1.0)
    return Scene("by hand", placed, surfaces, light, (1, 2))


def plain_box(width: float, height: float, depth: float) -> CadModel:
    builder = ModelBuilder()
    builder.box("body", (0.0, width), (0.0, height), (0.0, depth))
    return builder.finish("carton", 0)


def upright(model: CadModel, position: tuple[float, float, float]) -> PlacedObject:
    """A model of its nominal size, front along world +y, its centre at ``position``."""
    rotation = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    material = Material(np.array([0.8, 0.4, 0.2], dtype=np.float32))
    scale = np.full(3, float(np.linalg.norm(model.size)))
    materials = (material,) * len(model.part_names)
    return PlacedObject(model, rotation, scale, np.array(position), materials)


def pinhole(size: tuple[int, int], focal: float) -> np.ndarray:
    return np.array([[focal, 0, (size[1] - 1) / 2], [0, focal, (size[0] - 1) / 2], [0, 0, 1.0]])


def test_frame_types(rendered: list[Rendered]) -> None:
    for _, scene, view, frame in rendered:
        count = len(scene.objects)
        height, width = view.size
        expected = {
            "rgb": ((height, width, 3), np.uint8),
            "depth": ((height, width), np.float32),
            "instance": ((height, width), np.uint8),
            "nocs": ((height, width, 3), np.float32),
            "normals": ((height, width, 3), np.float32),
            "amodal_masks": ((count, height, width), np.bool_),
            "amodal_boxes": ((count, 4), np.float32),
            "visible_boxes": ((count, 4), np.float32),
            "visible_pixels": ((count,), np.int64),
            "visibility": ((count,), np.float32),
            "truncation": ((count,), np.float32),
        }
        for name, (shape, dtype) in expected.items():
            array = getattr(frame, name)
            assert array.shape == shape, name
            assert array.dtype == dtype, name
            assert np.isfinite(array).all(), name


def test_depth_back_projects_to_nocs(rendered: list[Rendered]) -> None:
    """Back-projection, inverse pose and NOCS agree to 1e-5 model units and 0.1 mm."""
    for _, scene, view, frame in rendered:
        rows, columns = np.nonzero(frame.instance)
        rays = pixel_directions(view.intrinsics, columns, rows)
        points = rays * frame.depth[rows, columns, None].astype(np.float64)
        nocs = frame.nocs[rows, columns]
        assert np.abs(nocs).max() <= 0.5 + 1e-5
        for index, placed in enumerate(scene.objects):
            chosen = frame.instance[rows, columns] == index + 1
            pose = object_to_camera(placed, view)
            expected = (points[chosen] - pose[:3, 3]) @ np.linalg.inv(pose[:3, :3]).T
            np.testing.assert_allclose(nocs[chosen], expected, atol=1e-5)
            forward = nocs[chosen].astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
            np.testing.assert_allclose(forward, points[chosen], atol=1e-4)
        assert (frame.nocs[frame.instance == 0] == 0).all()


def test_nocs_lies_on_the_model(rendered: list[Rendered]) -> None:
    rng = np.random.default_rng(0)
    for _, scene, _, frame in rendered[::4]:
        for index, placed in enumerate(scene.objects):
            points = frame.nocs[frame.instance == index + 1]
            if len(points):
                points = rng.permutation(points)[:30]
                model = placed.model
                distance = distance_to_surface(points, model.vertices, model.faces)
                assert distance.max() < 2e-5


def test_normals(rendered: list[Rendered]) -> None:
    for _, _, view, frame in rendered:
        hit = frame.depth > 0
        np.testing.assert_allclose(np.linalg.norm(frame.normals[hit], axis=-1), 1.0, atol=1e-4)
        height, width = view.size
        rays = pixel_directions(view.intrinsics, np.arange(width)[None], np.arange(height)[:, None])
        assert ((frame.normals * rays).sum(axis=-1)[hit] <= 1e-6).all()


def test_rooms_are_closed(rendered: list[Rendered]) -> None:
    for _, _, _, frame in rendered:
        assert (frame.depth > 0).mean() > 0.9999
        assert frame.rgb.std() > 10
        assert 40 < frame.rgb.mean() < 220


def test_masks_lie_in_projected_boxes(rendered: list[Rendered]) -> None:
    """The visible mask is inside the image of the oriented box, and of the amodal box."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2.0
    checked = 0
    for _, scene, view, frame in rendered:
        for index, placed in enumerate(scene.objects):
            if not frame.visible_pixels[index]:
                continue
            x0, y0, x1, y1 = frame.visible_boxes[index]
            box = frame.amodal_boxes[index]
            # A pixel is seen at its centre, so that its outer half may stick out.
            assert x0 + 0.5 >= box[0] - 1e-3 and y0 + 0.5 >= box[1] - 1e-3
            assert x1 - 0.5 <= box[2] + 1e-3 and y1 - 0.5 <= box[3] + 1e-3
            pose = object_to_camera(placed, view)
            extent = placed.model.size / np.linalg.norm(placed.model.size)
            corners = (signs * extent) @ pose[:3, :3].T + pose[:3, 3]
            if corners[:, 2].min() < NEAR:
                continue
            image = corners @ view.intrinsics.T
            image = image[:, :2] / image[:, 2:]
            assert x0 >= image[:, 0].min() - 1e-3 and x1 - 1 <= image[:, 0].max() + 1e-3
            assert y0 >= image[:, 1].min() - 1e-3 and y1 - 1 <= image[:, 1].max() + 1e-3
            checked += 1
    assert checked > 80


def test_silhouettes_match_the_amodal_masks(rendered: list[Rendered]) -> None:
    """IoU of at least 0.99 for every instance: a few pixels of grazing rays may differ."""
    checked = 0
    for _, scene, view, frame in rendered:
        poses = [object_to_camera(placed, view) for placed in scene.objects]
        meshes = [as_mesh(placed.model) for placed in scene.objects]
        silhouettes = render_silhouettes(meshes, poses, view.intrinsics, view.size)
        for mask, silhouette in zip(frame.amodal_masks, silhouettes, strict=True):
            union = np.count_nonzero(mask | silhouette)
            if union:
                checked += 1
                differing = np.count_nonzero(mask ^ silhouette)
                assert differing <= max(0.01 * union, 1), differing
    assert checked > 100


def test_masks_boxes_and_counts_agree(rendered: list[Rendered]) -> None:
    for _, scene, view, frame in rendered:
        for index in range(len(scene.objects)):
            visible = frame.instance == index + 1
            amodal = frame.amodal_masks[index]
            assert not (visible & ~amodal).any()
            assert frame.visible_pixels[index] == visible.sum()
            np.testing.assert_array_equal(frame.visible_boxes[index], mask_box(visible))
            expected = visible.sum() / max(amodal.sum(), 1)
            assert frame.visibility[index] == pytest.approx(expected)
            box = frame.amodal_boxes[index]
            assert frame.truncation[index] == pytest.approx(truncation(box, view.size), abs=1e-4)


def test_depth_instance_of_meshes_matches_the_frame(rendered: list[Rendered]) -> None:
    for _, scene, view, frame in rendered[::5]:
        poses = [object_to_camera(placed, view) for placed in scene.objects]
        meshes = [as_mesh(placed.model) for placed in scene.objects]
        depth, instance = render_depth_instance(meshes, poses, view.intrinsics, view.size)
        # The room itself is missing, and hides nothing in front of the objects.
        same = frame.instance == instance
        assert same.mean() > 0.999
        objects = same & (instance > 0)
        np.testing.assert_allclose(depth[objects], frame.depth[objects], rtol=1e-4)


def brute_force(renderer: Renderer, scene: Scene, view: View) -> np.ndarray:
    """Four traced and shaded rays for every pixel: (N, 3)."""
    geometry = scene_geometry(scene)
    hits = renderer.trace(view)
    colors = np.zeros((len(hits.faces), 3), dtype=np.float32)
    for step in hits.steps:
        directions = hits.directions + step
        faces, depth = geometry.caster.first_hit(hits.eye, directions)
        points = hits.eye + depth[:, None] * directions
        colors += shade(geometry, scene.lighting, faces, points, directions)[0] / 4.0
    return colors


def test_adaptive_supersampling_equals_brute_force(rendered: list[Rendered]) -> None:
    for _, scene, view, frame in rendered[::4]:
        renderer = Renderer(scene)
        expected = 255.0 * brute_force(renderer, scene, view)
        geometry = scene_geometry(scene)
        adaptive = 255.0 * supersample(geometry, scene.lighting, renderer.trace(view))
        difference = np.abs(adaptive - expected).max(axis=1)
        assert np.mean(difference < 1.0) > 0.99
        assert difference.mean() < 0.1
        noise = frame.rgb.reshape(-1, 3) - adaptive
        inner = (adaptive > 15).all(axis=1) & (adaptive < 240).all(axis=1)
        assert noise[inner].std() == pytest.approx(NOISE, rel=0.05)
        assert abs(noise[inner].mean()) < 0.1


def test_sample_offsets_are_a_grid() -> None:
    assert sorted(SAMPLE_OFFSETS) == [(x, y) for x in (-0.25, 0.25) for y in (-0.25, 0.25)]


def test_box_by_hand() -> None:
    """A box 1 m wide, 0.5 m high and 0.8 m deep, 2 m before the camera, behind it a wall."""
    placed = upright(plain_box(1.0, 0.5, 0.8), (0.0, 2.4, 0.0))
    corners = np.array([[-5, 4, -5], [5, 4, -5], [5, 4, 5], [-5, 4, 5]], dtype=np.float32)
    quad = np.array([[0, 1, 2], [0, 2, 3]], dtype=np.int32)
    wall = Surface(corners, quad, Material(np.full(3, 0.5, dtype=np.float32)))
    size = (61, 81)
    view = View(pinhole(size, 60.0), look_at(np.zeros(3), np.array([0.0, 1.0, 0.0])), size)
    frame = Renderer(object_scene(placed, surfaces=(wall,))).render(view)
    assert frame.instance[30, 40] == 1
    assert frame.depth[30, 40] == pytest.approx(2.0, abs=1e-4)
    assert frame.depth[0, 0] == pytest.approx(4.0, abs=1e-4)
    np.testing.assert_allclose(frame.normals[30, 40], [0, 0, -1], atol=1e-6)
    # What is seen is the model's back (+z), for its front looks along world +y.
    diagonal = np.sqrt(1.0 + 0.25 + 0.64)
    np.testing.assert_allclose(frame.nocs[30, 40], [0, 0, 0.4 / diagonal], atol=1e-5)
    # Its near face spans 60 * 1 / 2 = 30 by 15 pixels about the centre of pixel (40, 30).
    np.testing.assert_allclose(frame.amodal_boxes[0], [25.5, 23, 55.5, 38], atol=1e-4)
    assert frame.visibility[0] == 1.0
    assert frame.truncation[0] == 0.0
    rows = np.flatnonzero(frame.instance[:, 40])
    assert rows.tolist() == list(range(23, 38))


def test_occlusion_by_hand() -> None:
    """A carton hides the lower right of a farther, larger one."""
    near = upright(plain_box(0.4, 0.3, 0.3), (0.3, 2.0, -0.2))
    far = upright(plain_box(1.0, 0.8, 0.5), (0.0, 3.0, 0.0))
    size = (60, 80)
    view = View(pinhole(size, 60.0), look_at(np.zeros(3), np.array([0.0, 1.0, 0.0])), size)
    frame = Renderer(object_scene(near, far)).render(view)
    alone = Renderer(object_scene(far)).render(view)
    np.testing.assert_array_equal(frame.amodal_masks[1], alone.instance == 1)
    assert frame.visibility[0] == 1.0
    assert 0.2 < frame.visibility[1] < 1.0
    assert frame.visible_pixels[1] == (frame.instance == 2).sum() < alone.visible_pixels[0]


def test_object_through_the_near_plane() -> None:
    """A table that reaches behind the camera is drawn, from inside and outside alike."""
    placed = upright(build_model("table", 0), (0.0, 0.2, -0.5))
    size = (60, 80)
    view = View(pinhole(size, 60.0), look_at(np.zeros(3), np.array([0.0, 1.0, -0.5])), size)
    frame = Renderer(object_scene(placed)).render(view)
    assert frame.visible_pixels[0] > 200
    assert frame.depth[frame.depth > 0].min() >= NEAR
    assert np.isfinite(frame.amodal_boxes).all()
    assert 0.0 < frame.truncation[0] < 1.0
    x0, y0, x1, y1 = frame.visible_boxes[0]
    box = frame.amodal_boxes[0]
    assert box[0] <= x0 + 0.5 and box[1] <= y0 + 0.5 and box[2] >= x1 - 0.5 and box[3] >= y1 - 0.5


def test_object_behind_the_camera_and_nothing_at_all() -> None:
    size = (12, 16)
    view = View(pinhole(size, 15.0), look_at(np.zeros(3), np.array([0.0, 1.0, 0.0])), size)
    frame = Renderer(object_scene(upright(build_model("chair", 0), (0.0, -3.0, 0.0)))).render(view)
    assert (frame.depth == 0).all() and (frame.instance == 0).all()
    assert (frame.rgb <= 4 * NOISE).all()
    np.testing.assert_array_equal(frame.amodal_boxes, np.zeros((1, 4)))
    assert frame.visibility[0] == 0.0
    assert frame.truncation[0] == 1.0


def test_inside_of_a_box_is_visible() -> None:
    size = (12, 16)
    view = View(pinhole(size, 15.0), look_at(np.zeros(3), np.array([0.0, 1.0, 0.0])), size)
    frame = Renderer(object_scene(upright(build_model("carton", 1), (0.0, 0.0, 0.0)))).render(view)
    assert (frame.instance == 1).all()
    assert frame.visibility[0] == 1.0


def test_clipped_box_by_hand() -> None:
    vertices = np.array([[0.0, 0.0, 2.0], [1.0, 0.0, 2.0], [0.0, 0.0, -2.0]])
    faces = np.array([[0, 1, 2]])
    intrinsics = np.array([[10.0, 0, 5], [0, 10, 5], [0, 0, 1]])
    # The edge from (1, 0, 2) to (0, 0, -2) meets z = 0.05 at x = 0.5125.
    box = clipped_box(vertices, faces, intrinsics)
    np.testing.assert_allclose(box, [5.5, 5.5, 5.5 + 10 * 0.5125 / NEAR, 5.5])
    behind = clipped_box(vertices - [0.0, 0.0, 3.0], faces, intrinsics)
    np.testing.assert_array_equal(behind, np.zeros(4))


def test_windows_and_truncation_by_hand() -> None:
    assert pixel_window(np.array([-3.2, 4.5, 5.2, 90.0]), (20, 30)) == (slice(4, 20), slice(0, 6))
    assert pixel_window(np.array([40.0, 4.0, 50.0, 6.0]), (20, 30)) == (slice(4, 6), slice(30, 30))
    assert truncation(np.array([-10.0, 0.0, 10.0, 10.0]), (20, 30)) == pytest.approx(0.5)
    assert truncation(np.array([40.0, 0.0, 50.0, 10.0]), (20, 30)) == 1.0
    assert truncation(np.array([2.0, 3.0, 4.0, 5.0]), (20, 30)) == 0.0


def test_render_functions_on_nothing_and_errors() -> None:
    intrinsics = pinhole((4, 6), 5.0)
    depth, instance = render_depth_instance([], [], intrinsics, (4, 6))
    assert depth.shape == instance.shape == (4, 6)
    assert not depth.any() and not instance.any()
    assert render_silhouettes([], [], intrinsics, (4, 6)).shape == (0, 4, 6)
    mesh = as_mesh(build_model("mug", 0))
    with pytest.raises(ValueError, match="1 meshes and 0 poses"):
        render_silhouettes([mesh], [], intrinsics, (4, 6))
    with pytest.raises(ValueError, match=r"object_to_camera has shape \(3, 4\)"):
        render_depth_instance([mesh], [np.eye(4)[:3]], intrinsics, (4, 6))
    view = View(intrinsics, np.eye(4), (0, 6))
    with pytest.raises(ValueError, match=r"view.size is \(0, 6\)"):
        Renderer(object_scene(upright(build_model("chair", 0), (0.0, 2.0, 0.0)))).render(view)


def test_too_many_objects() -> None:
    crowd = [upright(build_model("ball", 0), (0.0, float(i), 0.0)) for i in range(256)]
    with pytest.raises(ValueError, match="by hand has 256 objects; instance images count to 255"):
        Renderer(object_scene(*crowd))


def digest(frame: Frame) -> str:
    arrays = (getattr(frame, name) for name in frame.__dataclass_fields__)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def digests(indices: list[int]) -> list[str]:
    """One hash for all that two views of each room show."""
    results = []
    for index in indices:
        scene = sample_room(11, "train", index, range(8))
        renderer = Renderer(scene)
        views = sample_views(scene, 2, (48, 64), "rooms")
        results.append("".join(digest(renderer.render(view)) for view in reversed(views)))
    return results


def test_frames_are_identical_in_any_order_process_and_thread_count() -> None:
    here = dict(zip((1, 0), digests([1, 0]), strict=True))
    assert len(set(here.values())) == 2
    program = "import test_synthetic_render as t; print(*t.digests([0, 1]))"
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    environment["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    command = [sys.executable, "-W", "ignore", "-c", program]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.split() == [here[index] for index in range(2)]


def test_world_vertices_follow_the_pose() -> None:
    placed = upright(build_model("chair", 2), (1.0, 2.0, 3.0))
    vertices = world_vertices(placed)
    centre = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    np.testing.assert_allclose(centre, [1, 2, 3], atol=1e-6)
    np.testing.assert_allclose(np.ptp(vertices, axis=0), placed.model.size[[0, 2, 1]], atol=1e-5)
