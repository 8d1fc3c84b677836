"""The parametric CAD models: frame, normalisation, structure, symmetry."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from roca_nocs.data.synthetic.models import (
    CATEGORIES,
    FLOOR_DISTRACTORS,
    TABLE_DISTRACTORS,
    TRAIN_VARIANTS,
    UNSEEN_VARIANTS,
    build_model,
)
from roca_nocs.data.synthetic.models.builder import ModelBuilder
from roca_nocs.data.synthetic.primitives import box, cylinder
from roca_nocs.data.synthetic.symmetry import (
    SYMMETRY_2,
    SYMMETRY_4,
    SYMMETRY_INFINITE,
    SYMMETRY_NONE,
    distance_to_surface,
)
from roca_nocs.data.synthetic.types import CadModel

CLASSES = CATEGORIES["rooms"] + CATEGORIES["tabletop"]
DISTRACTORS = sorted({*FLOOR_DISTRACTORS, *TABLE_DISTRACTORS})
VARIANTS = TRAIN_VARIANTS + UNSEEN_VARIANTS


def part_centre(model: CadModel, *names: str) -> np.ndarray:
    """Mean vertex of the faces of some parts."""
    parts = [model.part_names.index(name) for name in names]
    faces = model.faces[np.isin(model.face_parts, parts)]
    return model.vertices[faces].reshape(-1, 3).mean(axis=0)


def surface_samples(model: CadModel, count: int) -> np.ndarray:
    """(count, 3) points spread evenly over the area."""
    rng = np.random.default_rng(0)
    corners = model.vertices[model.faces].astype(np.float64)
    edges = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    face = rng.choice(len(area), size=count, p=area / area.sum())
    share = np.sort(rng.uniform(size=(count, 2)), axis=1)
    weights = np.column_stack([share[:, 0], share[:, 1] - share[:, 0], 1 - share[:, 1]])
    return np.einsum("ni,nij->nj", weights, corners[face])


def test_classes() -> None:
    assert CATEGORIES["rooms"] == tuple(sorted(CATEGORIES["rooms"]))
    assert len(CATEGORIES["rooms"]) == 9
    assert CATEGORIES["tabletop"] == ("bottle", "bowl", "camera", "can", "laptop", "mug")
    assert VARIANTS == tuple(range(12))


@pytest.mark.parametrize("category", [*CLASSES, *DISTRACTORS])
def test_models_are_normalised_and_consistent(category: str) -> None:
    for variant in VARIANTS:
        model = build_model(category, variant)
        low, high = model.vertices.min(axis=0), model.vertices.max(axis=0)
        np.testing.assert_allclose(low, -high, atol=1e-6)
        assert np.linalg.norm(high - low) == pytest.approx(1.0, abs=1e-6)
        np.testing.assert_allclose(high - low, model.size / np.linalg.norm(model.size), atol=1e-6)
        assert model.vertices.dtype == np.float32
        assert model.faces.dtype == np.int32
        assert 0 <= model.faces.min() and model.faces.max() < len(model.vertices)
        assert model.face_parts.shape == (len(model.faces),)
        assert set(model.face_parts) == set(range(len(model.part_names)))
        assert 20 <= len(model.faces) <= 2000
        assert model.model_id == f"{category}_v{variant:02d}"
        assert (model.catalog_id == "00000000") == (category in DISTRACTORS)


@pytest.mark.parametrize("category", CLASSES)
def test_variants_differ_in_shape(category: str) -> None:
    """Also after normalisation, no training model fits onto another one."""
    models = [build_model(category, variant) for variant in TRAIN_VARIANTS]
    clouds = [surface_samples(model, 150) for model in models]
    for a, b in combinations(TRAIN_VARIANTS, 2):
        a_to_b = distance_to_surface(clouds[a], models[b].vertices, models[b].faces)
        b_to_a = distance_to_surface(clouds[b], models[a].vertices, models[a].faces)
        assert max(a_to_b.mean(), b_to_a.mean()) > 0.002, (a, b)
        assert max(a_to_b.max(), b_to_a.max()) > 0.01, (a, b)
    if category in CATEGORIES["rooms"]:  # turned vessels differ in their profiles alone
        assert len({(model.part_names, len(model.faces)) for model in models}) >= 4


def test_model_is_a_pure_function() -> None:
    first = build_model("sofa", 3)
    build_model.cache_clear()
    second = build_model("sofa", 3)
    assert first is not second
    np.testing.assert_array_equal(first.vertices, second.vertices)
    with pytest.raises(ValueError, match="read-only"):
        second.vertices[0] = 0.0


@pytest.mark.parametrize("variant", VARIANTS)
def test_fronts_look_along_minus_z(variant: int) -> None:
    assert part_centre(build_model("chair", variant), "back")[2] > 0.1
    assert part_centre(build_model("sofa", variant), "back_cushion")[2] > 0.05
    display = build_model("display", variant)
    assert part_centre(display, "screen")[2] < part_centre(display, "case")[2]
    bed = build_model("bed", variant)
    assert part_centre(bed, "pillow")[2] > 0.2
    camera = build_model("camera", variant)
    assert part_centre(camera, "lens")[2] < part_centre(camera, "body")[2] - 0.05
    laptop = build_model("laptop", variant)
    assert part_centre(laptop, "screen")[2] > part_centre(laptop, "base")[2] + 0.1
    assert part_centre(laptop, "pad")[2] < part_centre(laptop, "keys")[2]
    assert part_centre(build_model("mug", variant), "handle")[0] > 0.2
    cabinet = build_model("cabinet", variant)
    assert part_centre(cabinet, "door")[2] < part_centre(cabinet, "body")[2] - 0.1


def test_sizes_are_those_of_real_things() -> None:
    ranges = {  # metres: lowest and highest width, height, depth
        "bathtub": ((1.4, 1.8), (0.45, 0.9), (0.65, 1.0)),
        "bed": ((0.9, 1.95), (0.4, 1.15), (1.9, 2.3)),
        "bin": ((0.2, 0.5), (0.28, 0.8), (0.2, 0.6)),
        "chair": ((0.4, 0.7), (0.75, 1.1), (0.4, 0.75)),
        "display": ((0.45, 1.2), (0.3, 1.0), (0.15, 0.35)),
        "table": ((0.7, 1.8), (0.45, 0.8), (0.5, 1.25)),
        "bottle": ((0.03, 0.2), (0.15, 0.3), (0.03, 0.2)),
        "mug": ((0.07, 0.2), (0.05, 0.12), (0.06, 0.14)),
    }
    for category, bounds in ranges.items():
        for variant in VARIANTS:
            size = build_model(category, variant).size
            for value, (low, high) in zip(size, bounds, strict=True):
                assert low - 1e-6 <= value <= high + 1e-6, (category, variant, size)


@pytest.mark.parametrize("category", CLASSES)
def test_symmetry_tags_are_true(category: str) -> None:
    """Rotate evenly spread surface points and measure, instead of the vertices that set the tag."""
    angles = {SYMMETRY_NONE: [], SYMMETRY_2: [180], SYMMETRY_4: [90, 180, 270]}
    angles[SYMMETRY_INFINITE] = [13, 60, 90, 180, 200, 301]
    for variant in VARIANTS:
        model = build_model(category, variant)
        points = surface_samples(model, 150)
        residuals = {}
        for degrees in {90, 180, *angles[model.symmetry]}:
            radians = np.deg2rad(degrees)
            x = np.cos(radians) * points[:, 0] + np.sin(radians) * points[:, 2]
            z = np.cos(radians) * points[:, 2] - np.sin(radians) * points[:, 0]
            turned = np.stack([x, points[:, 1], z], axis=-1)
            residuals[degrees] = distance_to_surface(turned, model.vertices, model.faces).max()
        for degrees in angles[model.symmetry]:
            assert residuals[degrees] < 0.013, (variant, degrees)
        if model.symmetry == SYMMETRY_2:
            assert residuals[90] > 0.01, variant


def test_classes_have_their_symmetries() -> None:
    tags = {c: {build_model(c, v).symmetry for v in VARIANTS} for c in CLASSES}
    assert tags["table"] == {SYMMETRY_NONE, SYMMETRY_2, SYMMETRY_4, SYMMETRY_INFINITE}
    for category in ("bottle", "bowl", "can"):
        assert tags[category] == {SYMMETRY_INFINITE}
    for category in ("bed", "bookcase", "cabinet", "camera", "chair", "display", "laptop"):
        assert tags[category] == {SYMMETRY_NONE}
    assert tags["mug"] == tags["sofa"] == {SYMMETRY_NONE}
    assert SYMMETRY_INFINITE in tags["bin"]


@pytest.mark.parametrize(
    ("half", "extra", "tag"),
    [
        ((0.5, 0.3), None, SYMMETRY_2),
        ((0.4, 0.4), None, SYMMETRY_4),
        ((0.4, 0.4), (0.3, 0.4), SYMMETRY_NONE),
    ],
)
def test_symmetry_of_boxes(
    half: tuple[float, float], extra: tuple[float, float] | None, tag: str
) -> None:
    builder = ModelBuilder()
    builder.add("body", box((-half[0], 0, -half[1]), (half[0], 0.4, half[1])))
    if extra is not None:
        builder.add("body", box((extra[0], 0.4, -0.05), (extra[1], 0.5, 0.05)))
    assert builder.finish("carton", 0).symmetry == tag


def test_symmetry_of_a_polygon_depends_on_its_corners() -> None:
    for segments, tag in ((8, SYMMETRY_4), (6, SYMMETRY_2), (5, SYMMETRY_NONE)):
        builder = ModelBuilder()
        builder.add("body", cylinder(0.5, 0.0, 0.3, segments=segments))
        assert builder.finish("can", 0).symmetry == tag, segments
    builder = ModelBuilder()
    builder.add("body", cylinder(0.5, 0.0, 0.3, segments=28))
    assert builder.finish("can", 0).symmetry == SYMMETRY_INFINITE


def test_distance_to_surface_by_hand() -> None:
    triangle = np.array([[0.0, 0, 0], [2, 0, 0], [0, 2, 0]])
    points = np.array([[0.5, 0.5, 3.0], [-1, 0.5, 0], [3, 0, 0], [2, 2, 0], [-3, -4, 0]])
    expected = [3.0, 1.0, 1.0, np.sqrt(2.0), 5.0]
    distance = distance_to_surface(points, triangle, np.array([[0, 1, 2]]))
    np.testing.assert_allclose(distance, expected, atol=1e-12)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"unknown category 'tree'; known: .*bathtub"):
        build_model("tree", 0)
    with pytest.raises(ValueError, match="variant of chair is 12; expected 0 to 11"):
        build_model("chair", 12)
