"""Alignment accuracy of a whole validation set: all scenes at once against a loop over pairs."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.transform import Rotation
from timing import compare

from roca_nocs.evaluation.alignment import (
    CORRECT,
    DUPLICATE,
    PlacedModels,
    Thresholds,
    limit_counts,
    match_annotations,
    remove_duplicates,
)
from roca_nocs.geometry.symmetry import SYMMETRY_ORDERS

# As many as the validation set of Scan2CAD on ScanNet25k has.
NUM_SCENES, NUM_FRAMES, NUM_ANNOTATIONS, NUM_CLASSES = 312, 5436, 2844, 9
DETECTIONS_PER_FRAME = 3


def scenes(seed: int = 0) -> tuple[PlacedModels, PlacedModels, np.ndarray]:
    """Annotated models, noisy detections of them in many frames, and the scores."""
    rng = np.random.default_rng(seed)
    size = (NUM_ANNOTATIONS, 3)
    annotations = PlacedModels(
        scenes=np.sort(rng.integers(0, NUM_SCENES, NUM_ANNOTATIONS)),
        categories=rng.integers(0, NUM_CLASSES, NUM_ANNOTATIONS),
        translations=rng.uniform((-3, -3, 0), (3, 3, 1), size),
        rotations=Rotation.random(NUM_ANNOTATIONS, rng).as_matrix(),
        scales=rng.uniform(0.5, 2, size),
        symmetries=rng.integers(0, len(SYMMETRY_ORDERS), NUM_ANNOTATIONS),
        cads=rng.integers(0, 1000, NUM_ANNOTATIONS),
    )
    count = NUM_FRAMES * DETECTIONS_PER_FRAME
    seen = annotations[rng.integers(0, NUM_ANNOTATIONS, count)]
    turn = Rotation.from_rotvec(rng.normal(0, 0.2, (count, 3))).as_matrix()
    detections = PlacedModels(
        scenes=seen.scenes,
        categories=seen.categories,
        translations=seen.translations + rng.normal(0, 0.12, (count, 3)),
        rotations=seen.rotations @ turn,
        scales=seen.scales * rng.normal(1, 0.1, (count, 3)),
        symmetries=seen.symmetries,
        cads=seen.cads,
    )
    return annotations, detections, rng.uniform(0.5, 1, count)


def correct_predictions(
    detections: PlacedModels, scores: np.ndarray, annotations: PlacedModels
) -> np.ndarray:
    """The protocol of the package: rows of the detections that count as correct, ascending."""
    rows = np.flatnonzero(remove_duplicates(detections, scores))
    rows = rows[limit_counts(detections[rows], scores[rows], annotations)]
    return rows[match_annotations(detections[rows], scores[rows], annotations) >= 0]


def correct_predictions_by_pairs(
    detections: PlacedModels, scores: np.ndarray, annotations: PlacedModels
) -> np.ndarray:
    """The protocol scene by scene, comparing two objects at a time with quaternions."""
    quaternions = [
        Rotation.from_matrix(models.rotations).as_quat() for models in (detections, annotations)
    ]
    correct = []
    for scene in range(NUM_SCENES):
        rows = np.flatnonzero(detections.scenes == scene)
        rows = rows[np.argsort(-scores[rows])].tolist()
        truth = np.flatnonzero(annotations.scenes == scene).tolist()
        kept: list[int] = []
        for j in rows:
            if not any(
                detections.categories[i] == detections.categories[j]
                and pair_within(
                    (detections, quaternions[0], i),
                    (detections, quaternions[0], j),
                    int(detections.symmetries[i]),
                    DUPLICATE,
                )
                for i in kept
            ):
                kept.append(j)
        left = [int((annotations.categories[truth] == c).sum()) for c in range(NUM_CLASSES)]
        taken: set[int] = set()
        for j in kept:
            category = detections.categories[j]
            left[category] -= 1
            if left[category] < 0:
                continue
            for k in truth:
                if k in taken or annotations.categories[k] != category:
                    continue
                same = detections.symmetries[j] == annotations.symmetries[k]
                if pair_within(
                    (detections, quaternions[0], j),
                    (annotations, quaternions[1], k),
                    int(detections.symmetries[j]) if same else 0,
                    CORRECT,
                ):
                    taken.add(k)
                    correct.append(j)
                    break
    return np.sort(correct)


def pair_within(
    one: tuple[PlacedModels, np.ndarray, int],
    other: tuple[PlacedModels, np.ndarray, int],
    symmetry: int,
    limits: Thresholds,
) -> bool:
    """Whether two poses, given as (models, quaternions xyzw, row), differ by no more."""
    (models, quaternions, i), (others, other_quaternions, j) = one, other
    distance = np.linalg.norm(models.translations[i] - others.translations[j])
    if distance > limits.translation:
        return False
    if abs(np.mean(models.scales[i] / others.scales[j]) - 1) > limits.scale:
        return False
    order = SYMMETRY_ORDERS[symmetry]
    best = 180.0
    for step in range(order):
        half = math.pi * step / order
        turned = multiply(other_quaternions[j], np.array([0, math.sin(half), 0, math.cos(half)]))
        cosine = min(abs(float(np.dot(quaternions[i], turned))), 1.0)
        best = min(best, math.degrees(2 * math.acos(cosine)))
    return best <= limits.rotation


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product of two quaternions xyzw."""
    vector = a[3] * b[:3] + b[3] * a[:3] + np.cross(a[:3], b[:3])
    return np.array([*vector, a[3] * b[3] - np.dot(a[:3], b[:3])])


def main() -> None:
    annotations, detections, scores = scenes()
    arguments = detections, scores, annotations
    expected = correct_predictions_by_pairs(*arguments)
    if not np.array_equal(correct_predictions(*arguments), expected) or not len(expected):
        raise SystemExit("the two formulations of the protocol disagree")
    compare(
        f"alignment protocol, {NUM_FRAMES} frames with {DETECTIONS_PER_FRAME} detections each, "
        f"{NUM_SCENES} scenes, {NUM_ANNOTATIONS} annotated models, vs a loop over pairs",
        lambda: correct_predictions_by_pairs(*arguments),
        lambda: correct_predictions(*arguments),
    )


if __name__ == "__main__":
    main()
