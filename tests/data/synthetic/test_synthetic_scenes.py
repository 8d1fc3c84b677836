"""Rooms and table tops: contact, overlap, orientation, purity."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from roca_nocs.data.synthetic.layout import Footprint, occupied, world_vertices, yaw_facing
from roca_nocs.data.synthetic.materials import sample_materials
from roca_nocs.data.synthetic.models import CATEGORIES, UNSEEN_VARIANTS, build_model
from roca_nocs.data.synthetic.rooms import sample_room
from roca_nocs.data.synthetic.tabletop import sample_tabletop
from roca_nocs.data.synthetic.textures import TEXTURES
from roca_nocs.data.synthetic.types import PlacedObject, Scene


def bottom(placed: PlacedObject) -> float:
    return float(world_vertices(placed)[:, 2].min())


def top(placed: PlacedObject) -> float:
    return float(world_vertices(placed)[:, 2].max())


def half_extent(scene: Scene) -> np.ndarray:
    """(2,) half the floor; the floor is the first surface."""
    return scene.surfaces[0].vertices[:, :2].max(axis=0)


def test_everything_rests_on_its_support(rooms: list[Scene]) -> None:
    raised = 0
    for scene in rooms:
        tops = [top(placed) for placed in scene.objects if abs(bottom(placed)) < 1e-3]
        for placed in scene.objects:
            if abs(bottom(placed)) >= 1e-3:
                raised += 1
                assert min(abs(bottom(placed) - height) for height in tops) < 1e-3
    assert raised >= 5


def test_no_floor_rectangles_overlap_and_all_are_inside(rooms: list[Scene]) -> None:
    for scene in rooms:
        half = half_extent(scene)
        for placed in scene.objects:
            assert (np.abs(world_vertices(placed)[:, :2]) <= half + 1e-6).all()
        standing = [occupied(placed) for placed in scene.objects if abs(bottom(placed)) < 1e-3]
        for a, b in combinations(standing, 2):
            assert not a.overlaps(b)


def test_raised_objects_stand_wholly_on_a_top(rooms: list[Scene]) -> None:
    for scene in rooms:
        for placed in scene.objects:
            if abs(bottom(placed)) < 1e-3:
                continue
            supports = [o for o in scene.objects if abs(top(o) - bottom(placed)) < 1e-3]
            assert any(occupied(support).contains(occupied(placed)) for support in supports)


def test_wall_furniture_faces_into_the_room(rooms: list[Scene]) -> None:
    seen = set()
    for scene in rooms:
        half = half_extent(scene)
        for placed in scene.objects:
            if placed.model.category not in ("bathtub", "bed", "bookcase", "cabinet", "sofa"):
                continue
            seen.add(placed.model.category)
            front = placed.rotation @ [0.0, 0.0, -1.0]
            wall = int(np.argmax(np.abs(front[:2])))
            assert abs(front[wall]) == pytest.approx(1.0)
            # The back is at most 6 cm from the wall that the front points away from.
            points = world_vertices(placed)[:, wall] * np.sign(front[wall])
            assert points.min() + half[wall] == pytest.approx(0.035, abs=0.026)
    assert len(seen) == 5


def test_some_chairs_face_a_table(rooms: list[Scene]) -> None:
    facing = 0
    for scene in rooms:
        tables = [o for o in scene.objects if o.model.category == "table"]
        for placed in scene.objects:
            if placed.model.category != "chair":
                continue
            front = (placed.rotation @ [0.0, 0.0, -1.0])[:2]
            for table in tables:
                area = occupied(table)
                local = (placed.translation[:2] - area.centre) @ area.axes().T
                axis = int(np.argmax(np.abs(local) - area.half))
                inward = -np.sign(local[axis]) * area.axes()[axis]
                facing += bool(front @ inward > np.cos(0.3) - 1e-9)
    assert facing >= 8


def test_room_numbers(rooms: list[Scene]) -> None:
    counts = [sum(placed.annotated for placed in scene.objects) for scene in rooms]
    assert max(counts) <= 10
    assert np.mean([4 <= count for count in counts]) > 0.9
    classes = {o.model.category for scene in rooms for o in scene.objects if o.annotated}
    assert classes == set(CATEGORIES["rooms"])
    for scene in rooms:
        annotated = [placed.annotated for placed in scene.objects]
        assert annotated == sorted(annotated, reverse=True)
        for placed in scene.objects:
            assert placed.model.catalog_id != "00000000" or not placed.annotated
            share = placed.scale / np.linalg.norm(placed.model.size)
            if placed.annotated:
                assert (share > 0.92 * 0.95).all() and (share < 1.08 * 1.05).all()
            if placed.model.symmetry in ("__SYM_ROTATE_UP_4", "__SYM_ROTATE_UP_INF"):
                assert placed.scale[0] == placed.scale[2]
            assert len(placed.materials) == len(placed.model.part_names)
            assert np.linalg.det(placed.rotation) == pytest.approx(1.0)


def test_tabletop(tabletops: list[Scene]) -> None:
    for index, scene in enumerate(tabletops):
        annotated = [placed for placed in scene.objects if placed.annotated]
        assert (len(annotated) == 0) == (index in (3, 23))
        assert 1 <= len(scene.objects) <= 10
        heights = [bottom(placed) for placed in scene.objects]
        assert np.ptp(heights) < 1e-3
        assert 0.4 < heights[0] < 0.9
        # The table is part of the background, and the objects stand on it.
        assert any(
            abs(float(surface.vertices[:, 2].max()) - heights[0]) < 1e-3
            for surface in scene.surfaces
        )
        for a, b in combinations(scene.objects, 2):
            assert not occupied(a).overlaps(occupied(b))
        for placed in annotated:
            assert placed.model.category in CATEGORIES["tabletop"]
            assert placed.scale[0] == placed.scale[1] == placed.scale[2]


@pytest.mark.parametrize("sample", [sample_room, sample_tabletop])
def test_scenes_are_pure_functions_of_their_seed(sample: object) -> None:
    first, again = sample(3, "val", 5, UNSEEN_VARIANTS), sample(3, "val", 5, UNSEEN_VARIANTS)
    assert first.name == again.name
    assert first.seed == again.seed
    for a, b in zip(first.objects, again.objects, strict=True):
        assert a.model is b.model
        np.testing.assert_array_equal(a.translation, b.translation)
        np.testing.assert_array_equal(a.rotation, b.rotation)
        for material_a, material_b in zip(a.materials, b.materials, strict=True):
            np.testing.assert_array_equal(material_a.color, material_b.color)
    for placed in first.objects:
        assert int(placed.model.model_id[-2:]) in UNSEEN_VARIANTS
    for other in (
        sample(4, "val", 5, (8,)),
        sample(3, "train", 5, (8,)),
        sample(3, "val", 6, (8,)),
    ):
        assert other.objects[0].translation.tolist() != first.objects[0].translation.tolist()


def test_footprints_by_hand() -> None:
    square = Footprint(np.zeros(2), np.ones(2), 0.0)
    diamond = Footprint(np.array([2.3, 0.0]), np.ones(2), np.pi / 4)
    assert square.overlaps(diamond)  # its corner reaches 2.3 - 1.414 < 1
    moved = Footprint(np.array([2.45, 0.0]), np.ones(2), np.pi / 4)
    assert not square.overlaps(moved)
    assert square.overlaps(moved, margin=0.05)
    # Only an axis of the diamond separates these two.
    corner = Footprint(np.array([1.75, 1.75]), np.ones(2), np.pi / 4)
    assert not square.overlaps(corner)
    small = Footprint(np.array([0.2, 0.0]), np.full(2, 0.5), np.pi / 4)
    assert square.contains(small)
    assert not square.contains(small, margin=0.1)
    np.testing.assert_allclose(
        Footprint(np.ones(2), np.array([2.0, 1.0]), np.pi / 2).corners()[2], [0.0, 3.0], atol=1e-12
    )


@pytest.mark.parametrize("direction", [(0.0, 1.0), (1.0, 0.0), (-0.6, -0.8)])
def test_yaw_turns_the_front_along_the_direction(direction: tuple[float, float]) -> None:
    yaw = yaw_facing(np.array(direction))
    # At yaw 0 the front points along world +y.
    front = (-np.sin(yaw), np.cos(yaw))
    np.testing.assert_allclose(front, direction, atol=1e-12)


@pytest.mark.parametrize("category", [*CATEGORIES["rooms"], *CATEGORIES["tabletop"]])
def test_materials(category: str) -> None:
    rng = np.random.default_rng(0)
    for variant in range(4):
        model = build_model(category, variant)
        for material in sample_materials(model, rng):
            assert material.color.shape == (3,)
            assert ((material.color >= 0.0) & (material.color <= 1.0)).all()
            assert material.texture == "none" or material.texture in TEXTURES


@pytest.mark.parametrize("name", TEXTURES)
def test_textures_vary_about_one(name: str) -> None:
    points = np.random.default_rng(0).uniform(-3, 3, (3, 4000)).astype(np.float32)
    factor = TEXTURES[name](*points)
    assert factor.dtype == np.float32
    assert 0.8 < factor.mean() < 1.1
    assert 0.02 < factor.std() < 0.3
    assert factor.min() > 0.3


def test_errors() -> None:
    with pytest.raises(ValueError, match="seed -1 and index 0"):
        sample_room(-1, "train", 0, (0,))
    with pytest.raises(ValueError, match="variants is empty"):
        sample_tabletop(0, "train", 0, ())
