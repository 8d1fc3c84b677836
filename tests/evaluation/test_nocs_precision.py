"""AP of poses against a loop over single pairs, and its behaviour at the edges."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from roca_nocs.evaluation.nocs_metrics import (
    HALF_TURN,
    NO_SYMMETRY,
    ROUND,
    PosedObjects,
    SymmetryRule,
    box_overlaps,
    coordinate_distances,
    pose_errors,
)
from roca_nocs.evaluation.nocs_precision import (
    CENTIMETRES,
    DEGREES,
    average_precision,
    class_mean,
    pose_precision,
    take,
)
from roca_nocs.geometry.box3d import IOU_MODES
from roca_nocs.geometry.symmetry import axis_direction

NAMES = ("bottle", "camera", "mug")
RULE = SymmetryRule.of_classes(NAMES)


def random_objects(count: int, num_images: int, rng: np.random.Generator) -> PosedObjects:
    return PosedObjects(
        images=rng.integers(num_images, size=count),
        categories=rng.integers(len(NAMES), size=count),
        scores=rng.permutation(count) / max(count, 1),
        rotations=Rotation.random(count, random_state=rng).as_matrix().reshape(-1, 3, 3),
        translations=rng.normal([0.1, 0.2, 1.5], 0.03, size=(count, 3)),
        sizes=rng.uniform(0.1, 0.4, size=(count, 3)),
        posed=np.ones(count, bool),
        handle_visible=rng.random(count) < 0.5,
    )


def moved(objects: PosedObjects, degrees: float, metres: float, seed: int = 0) -> PosedObjects:
    """The same objects with the pose changed by so much about a random axis."""
    rng = np.random.default_rng(seed)
    axes, offsets = (rng.normal(size=(len(objects), 3)) for _ in range(2))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    offsets *= metres / np.linalg.norm(offsets, axis=1, keepdims=True)
    turn = Rotation.from_rotvec(np.radians(degrees) * axes).as_matrix()
    return replace(
        objects,
        rotations=turn @ objects.rotations,
        translations=objects.translations + offsets,
    )


def looped(
    pred: PosedObjects, gt: PosedObjects, mode: str, iou: float, angle: float, distance: float
) -> tuple[list[float], list[float], list[float]]:
    """IoU AP, published pose AP and pose AP of all, per class; one pair at a time."""
    hits: dict[str, list[list[tuple[float, bool]]]] = {
        name: [[] for _ in NAMES] for name in ("iou", "matched", "all")
    }
    counts = {name: [0] * len(NAMES) for name in hits}

    def one(objects: PosedObjects, row: int) -> PosedObjects:
        return take(objects, np.array([row]))

    def greedy(rows: list[int], columns: list[int], score: dict, good: object) -> dict[int, int]:
        partner: dict[int, int] = {}
        for i in sorted(rows, key=lambda i: -pred.scores[i]):
            for j in sorted(columns, key=lambda j: score[i, j]):
                if j not in partner.values() and good(i, j):
                    partner[i] = j
                    break
        return partner

    for image in range(int(max(pred.images.max(), gt.images.max())) + 1):
        for category in range(len(NAMES)):
            rows, columns = (
                np.flatnonzero((o.images == image) & (o.categories == category)).tolist()
                for o in (pred, gt)
            )
            overlap, angles, distances, cost = {}, {}, {}, {}
            for i in rows:
                for j in columns:
                    other = one(gt, j)
                    kinds = RULE.of_objects(other.categories, other.handle_visible)
                    overlap[i, j] = -box_overlaps(one(pred, i), other, kinds, mode).item()
                    errors = pose_errors(one(pred, i), other, kinds)
                    angles[i, j], distances[i, j] = (each.item() for each in errors)
                    cost[i, j] = angles[i, j] + distances[i, j]

            def near(i: int, j: int, angles=angles, distances=distances) -> bool:
                return angles[i, j] <= angle and distances[i, j] <= distance

            by_iou = greedy(rows, columns, overlap, lambda i, j, o=overlap: -o[i, j] > iou)
            kept = greedy(rows, columns, overlap, lambda i, j, o=overlap: -o[i, j] > 0.1)
            by_pose = greedy(list(kept), list(kept.values()), cost, near)
            everything = greedy(rows, columns, cost, near)
            for name, used, found, total in (
                ("iou", rows, by_iou, len(columns)),
                ("matched", list(kept), by_pose, len(kept)),
                ("all", rows, everything, len(columns)),
            ):
                hits[name][category] += [(pred.scores[i], i in found) for i in used]
                counts[name][category] += total
    return tuple(
        [_loop_ap(hits[name][c], counts[name][c], (gt.categories == c).any()) for c in range(3)]
        for name in hits
    )


def _loop_ap(hits: list[tuple[float, bool]], count: int, annotated: bool) -> float:
    if not annotated:
        return math.nan
    if not count:
        return 0.0
    ordered = [hit for _, hit in sorted(hits, reverse=True)]
    precision = [sum(ordered[: k + 1]) / (k + 1) for k in range(len(ordered))]
    return sum(max(precision[k:]) for k, hit in enumerate(ordered) if hit) / count


@settings(max_examples=8)
@given(st.integers(0, 2**31), st.sampled_from(IOU_MODES), st.sampled_from([0.05, 0.25, 0.5]))
def test_agrees_with_a_loop_over_pairs(seed: int, mode: str, iou: float) -> None:
    rng = np.random.default_rng(seed)
    gt = random_objects(int(rng.integers(1, 9)), 3, rng)
    copies = moved(take(gt, rng.integers(len(gt), size=len(gt) + 2)), 4, 0.01, seed)
    others = random_objects(4, 3, rng)
    pred = PosedObjects(
        **{
            name: np.concatenate([getattr(copies, name), getattr(others, name)])
            for name in PosedObjects.__dataclass_fields__
        }
    )
    pred = replace(pred, scores=rng.permutation(len(pred)) / len(pred))
    angle, distance = 60.0, 3.0
    found = pose_precision(
        pred,
        gt,
        RULE,
        modes=[mode],
        iou_thresholds=[iou],
        degrees=[angle],
        centimetres=[distance],
    )
    expected = looped(pred, gt, mode, iou, angle, distance)
    for values, wanted in zip(
        (found.iou[mode][:, 0], found.matched[mode][:, 0, 0], found.detection[:, 0, 0]),
        expected,
        strict=True,
    ):
        np.testing.assert_allclose(values, wanted, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_perfect_predictions_have_exactly_one(seed: int) -> None:
    gt = random_objects(40, 7, np.random.default_rng(seed))
    # As a model gives them: single precision.
    pred = replace(
        gt,
        **{
            name: getattr(gt, name).astype(np.float32).astype(np.float64)
            for name in ("rotations", "translations", "sizes")
        },
    )
    precision = pose_precision(pred, gt, RULE, modes=IOU_MODES)
    for values in (*precision.iou.values(), *precision.matched.values(), precision.detection):
        assert (values == 1).all()
        assert (class_mean(values) == 1).all()


def test_equal_rotations_have_no_error() -> None:
    """The published arc cosine is NaN for many of them."""
    objects = random_objects(500, 1, np.random.default_rng(0))
    for kind in (NO_SYMMETRY, HALF_TURN, ROUND):
        degrees, centimetres = pose_errors(objects, objects, np.full(500, kind))
        assert (degrees < 1e-5).all() and (centimetres == 0).all()


def test_symmetries() -> None:
    objects = random_objects(5, 1, np.random.default_rng(1))

    def turned(degrees: float) -> PosedObjects:
        turn = Rotation.from_rotvec([0, degrees, 0], degrees=True).as_matrix()
        return replace(objects, rotations=objects.rotations @ turn)

    expected = {
        (NO_SYMMETRY, 70): 70,
        (NO_SYMMETRY, 180): 180,
        (HALF_TURN, 70): 70,
        (HALF_TURN, 180): 0,
        (HALF_TURN, 170): 10,
        (ROUND, 70): 0,
    }
    for (kind, degrees), error in expected.items():
        found, _ = pose_errors(turned(degrees), objects, np.full(5, kind))
        np.testing.assert_allclose(found, error, atol=1e-5)
    # 90 degrees are five of the twenty steps.
    for mode in IOU_MODES:
        overlaps = box_overlaps(turned(90), objects, np.full(5, ROUND), mode)
        np.testing.assert_allclose(overlaps, 1, atol=1e-9)
        assert (box_overlaps(turned(90), objects, np.zeros(5), mode) < 0.99).all()


SYMMETRIES = {
    "bottle": {"axis": "y", "order": "inf"},
    "phone": {"axis": "y", "order": 2},
    "nut": {"axis": "z", "order": 6},
    "tray": {"axis": "y", "order": 4},
    "wheel": {"axis": "x", "order": "inf"},
    "stick": {"axis": (1.0, 0.0, 1.0), "order": "inf"},
    "laptop": {"axis": "y", "order": 1},
}


def test_rule_of_the_metadata() -> None:
    """The published rule where it says the same, any axis and order otherwise."""
    names = ["bottle", "bowl", "camera", "can", "laptop", "mug"]
    published = {each: SYMMETRIES["bottle"] for each in ("bottle", "bowl", "can")}
    rule, by_name = SymmetryRule.of_symmetries(names, published), SymmetryRule.of_classes(names)
    assert rule.kinds.tolist() == by_name.kinds.tolist()
    assert rule.has_handle.tolist() == by_name.has_handle.tolist()
    assert rule.symmetries == by_name.symmetries
    rule = SymmetryRule.of_symmetries([*SYMMETRIES, "mug"], SYMMETRIES)
    assert rule.kinds.tolist() == [ROUND, HALF_TURN, 3, 4, 5, 6, NO_SYMMETRY, NO_SYMMETRY]
    with pytest.raises(ValueError, match=r"\['nut'\], which are no classes"):
        SymmetryRule.of_symmetries(["phone"], {"nut": SYMMETRIES["nut"]})
    with pytest.raises(ValueError, match=r"symmetry of 'nut': order is 1\.5"):
        SymmetryRule.of_symmetries(["nut"], {"nut": {"axis": "z", "order": 1.5}})


@pytest.mark.parametrize("name", ["nut", "tray", "wheel", "stick"])
def test_symmetries_of_any_axis_and_order(name: str) -> None:
    rule = SymmetryRule.of_symmetries(["laptop", name], {name: SYMMETRIES[name]})
    objects = random_objects(5, 1, np.random.default_rng(6))
    (symmetry,) = rule.symmetries[3:]
    kinds = np.full(5, rule.kinds[1])
    axis = axis_direction(symmetry.axis).numpy()

    def turned(degrees: float, about: np.ndarray = axis) -> PosedObjects:
        turn = Rotation.from_rotvec(degrees * about, degrees=True).as_matrix()
        return replace(objects, rotations=objects.rotations @ turn)

    step = 360 / (20 if symmetry.continuous else symmetry.order)
    for steps in (1, 2):
        degrees, _ = pose_errors(turned(steps * step), objects, kinds, rule.symmetries)
        np.testing.assert_allclose(degrees, 0, atol=1e-5)
        for mode in ("aabb", "obb"):
            overlaps = box_overlaps(turned(steps * step), objects, kinds, mode, rule.symmetries)
            np.testing.assert_allclose(overlaps, 1, atol=1e-9)
    # Between two rotations of the group, and across the axis.
    degrees, _ = pose_errors(turned(step + 7), objects, kinds, rule.symmetries)
    np.testing.assert_allclose(degrees, 0 if symmetry.continuous else 7, atol=1e-5)
    across = np.cross(axis, [0.3, 0.5, 0.8])
    degrees, _ = pose_errors(
        turned(20, across / np.linalg.norm(across)), objects, kinds, rule.symmetries
    )
    np.testing.assert_allclose(degrees, 20, atol=1e-5)
    # Without symmetry it is another pose.
    plain, _ = pose_errors(turned(step), objects, np.zeros(5, np.int64), rule.symmetries)
    np.testing.assert_allclose(plain, step, atol=1e-5)

    maps = torch.rand(5, 3, 4, 4, dtype=torch.float64)
    turn = symmetry.rotations(20)[1]
    moved_maps = torch.einsum("ij,njhw->nihw", turn, maps - 0.5) + 0.5
    common = torch.ones(5, 4, 4, dtype=torch.bool)
    found = coordinate_distances(moved_maps, maps, common, torch.from_numpy(kinds), rule.symmetries)
    assert (found < 1e-9).all()

    # All of it enters the average precision.
    objects = replace(objects, categories=np.ones(5, np.int64), handle_visible=np.ones(5, bool))
    precision = pose_precision(turned(step), objects, rule, modes=["obb"])
    assert (precision.iou["obb"][1] == 1).all() and (precision.detection[1] == 1).all()


def test_hidden_handles() -> None:
    rule = SymmetryRule.of_classes(["mug", "bottle", "phone", "laptop", "cup"], handle_class="cup")
    categories = np.array([0, 0, 1, 2, 3, 4, 4])
    visible = np.array([True, False, True, True, False, True, False])
    kinds = rule.of_objects(categories, visible)
    expected = [NO_SYMMETRY, NO_SYMMETRY, ROUND, HALF_TURN, NO_SYMMETRY, NO_SYMMETRY, ROUND]
    assert kinds.tolist() == expected


def test_what_is_missing() -> None:
    rng = np.random.default_rng(3)
    gt = random_objects(6, 2, rng)
    gt = replace(gt, categories=np.array([0, 0, 0, 1, 1, 1]))
    nothing = take(gt, np.zeros(0, np.int64))
    for pred in (nothing, replace(gt, posed=np.zeros(6, bool))):
        precision = pose_precision(pred, gt, RULE, modes=IOU_MODES)
        for values in (*precision.iou.values(), *precision.matched.values(), precision.detection):
            np.testing.assert_array_equal(values[:2], 0)
            assert np.isnan(values[2]).all()
            np.testing.assert_array_equal(class_mean(values), 0)
    precision = pose_precision(gt, nothing, RULE, modes=["nocs"])
    assert np.isnan(class_mean(precision.detection)).all()
    # Half of the objects missed: the published protocol does not notice, the other one does.
    precision = pose_precision(take(gt, np.array([0, 3])), gt, RULE, modes=["aabb"])
    np.testing.assert_array_equal(precision.matched["aabb"][:2], 1)
    np.testing.assert_allclose(precision.detection[:2], 1 / 3, atol=1e-6)


def test_thresholds() -> None:
    gt = random_objects(30, 30, np.random.default_rng(4))
    gt = replace(gt, categories=np.ones(30, np.int64))
    precision = pose_precision(moved(gt, 7.0, 0.04), gt, RULE, modes=["obb"])
    expected = [[angle >= 7 and distance >= 4 for distance in CENTIMETRES] for angle in DEGREES]
    np.testing.assert_array_equal(precision.detection[1], expected)


def test_undefined_overlaps_match_nothing() -> None:
    """Cubes on the diagonal of the camera frame: the published overlap is 0 / 0."""
    gt = random_objects(1, 1, np.random.default_rng(5))
    gt = replace(
        gt,
        categories=np.ones(1, np.int64),
        rotations=np.eye(3)[None],
        translations=np.full((1, 3), 1.0),
        sizes=np.ones((1, 3)),
    )
    assert np.isnan(box_overlaps(gt, gt, np.zeros(1), "nocs")).all()
    precision = pose_precision(gt, gt, RULE, modes=["nocs", "aabb"])
    assert (precision.iou["nocs"][1] == 0).all() and (precision.matched["nocs"][1] == 0).all()
    assert (precision.iou["aabb"][1] == 1).all() and (precision.detection[1] == 1).all()


def test_average_precision_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    hits = np.array([[True, False, True, False], [False] * 4, [True] * 4])
    found = average_precision(hits, scores, 4)
    np.testing.assert_allclose(found, [0.25 + 0.25 * 2 / 3, 0, 1], atol=1e-7)
    assert np.isnan(average_precision(hits, scores, 0)).all()
    assert average_precision(np.zeros((2, 0), bool), np.zeros(0), 3).tolist() == [0, 0]


def test_coordinate_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 3, 6, 5, generator=generator, dtype=torch.float64)
    common = torch.ones(3, 6, 5, dtype=torch.bool)
    half_turn = 1 - maps
    half_turn[:, 1] = maps[:, 1]
    kinds = torch.tensor([NO_SYMMETRY, HALF_TURN, ROUND])
    found = coordinate_distances(half_turn, maps, common, kinds)
    assert found[0] > 0.1 and found[1] < 1e-9 and found[2] < 1e-9
    shifted = coordinate_distances(maps + 0.1, maps, common, torch.zeros(3, dtype=torch.int64))
    assert torch.allclose(shifted, torch.full((3,), 0.1 * math.sqrt(3), dtype=torch.float64))
    common[1] = False
    assert coordinate_distances(maps, maps, common, kinds).isnan().tolist() == [False, True, False]
    assert len(coordinate_distances(maps[:0], maps[:0], common[:0], kinds[:0])) == 0
