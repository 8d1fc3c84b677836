"""Alignment accuracy of placed CAD models: the protocol of Scan2CAD and Vid2CAD.

The detections of all frames of a scene are moved to the frame of the scan, duplicates are removed,
and what remains is matched with the annotated models. Works on arrays of all scenes at once.

Sources: Avetisyan et al., Scan2CAD, section 7; Maninis et al., Vid2CAD, section 4; Gümeli et al.,
ROCA, section 4, whose thresholds and order of steps these are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch

from roca_nocs.geometry.pose import (
    compose_pose,
    decompose_pose,
    rotation_error_degrees,
    scale_error,
    scale_error_per_axis,
    translation_error,
)

from .matching import (
    greedy_matching,
    greedy_selection,
    pairs_between,
    pairs_within,
    rank_in_group,
)

MIN_SCORE = 0.5
"""Detections count above this score."""

ScaleError = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SCALE_ERRORS: Mapping[str, ScaleError] = {
    "mean_ratio": scale_error,
    "per_axis": scale_error_per_axis,
}
"""``mean_ratio`` |mean(s / s_gt) - 1| of ROCA and Vid2CAD, in which errors of the axes can cancel,
and ``per_axis`` mean |s / s_gt - 1| of SPARC, in which they cannot."""


@dataclass(frozen=True)
class Thresholds:
    """Largest allowed differences of two poses, all inclusive.

    Attributes:
        translation: metres.
        rotation: degrees, up to the symmetry.
        scale: share.
    """

    translation: float
    rotation: float
    scale: float


DUPLICATE = Thresholds(translation=0.4, rotation=60.0, scale=0.6)
CORRECT = Thresholds(translation=0.2, rotation=20.0, scale=0.2)


@dataclass(frozen=True)
class PlacedModels:
    """N CAD models in the frames of their scenes.

    Attributes:
        scenes: (N,) int64.
        categories: (N,) int64 class.
        translations: (N, 3) float64 metres, position of the model origin.
        rotations: (N, 3, 3) float64, model to scene.
        scales: (N, 3) float64, metres per model unit.
        symmetries: (N,) int64, 0..3 as in ``geometry.symmetry``.
        cads: (N,) int64 identity of the CAD model, in one numbering for all.
    """

    scenes: np.ndarray
    categories: np.ndarray
    translations: np.ndarray
    rotations: np.ndarray
    scales: np.ndarray
    symmetries: np.ndarray
    cads: np.ndarray

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: np.ndarray | slice) -> PlacedModels:
        """The models of an index array, a mask or a slice."""
        return PlacedModels(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def to_scene(
    frame_to_scene: np.ndarray, translations: np.ndarray, rotations: np.ndarray, scales: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Move poses from camera frames to the frames of the scenes.

    Args:
        frame_to_scene: (N, 4, 4) rigid.
        translations: (N, 3).
        rotations: (N, 3, 3).
        scales: (N, 3).

    Returns:
        Translations (N, 3), rotations (N, 3, 3) and scales (N, 3) in the scene, float64.
    """
    tensors = [torch.as_tensor(a, dtype=torch.float64) for a in (translations, rotations, scales)]
    poses = torch.as_tensor(frame_to_scene, dtype=torch.float64) @ compose_pose(*tensors)
    translation, rotation, scale = decompose_pose(poses)
    return translation.numpy(), rotation.numpy(), scale.numpy()


def protocol_order(predictions: PlacedModels, scores: np.ndarray) -> np.ndarray:
    """(N,) int64: predictions by scene, class and falling score.

    Equal scores are ordered by the CAD model and the pose, so that the order in which predictions
    are given has no influence.
    """
    pose = np.concatenate(
        [
            predictions.scales,
            predictions.rotations.reshape(-1, 9),
            predictions.translations,
        ],
        axis=1,
    )
    return np.lexsort(
        (*pose.T, predictions.cads, -scores, predictions.categories, predictions.scenes)
    )


def remove_duplicates(predictions: PlacedModels, scores: np.ndarray) -> np.ndarray:
    """Of detections of the same object, keep the one with the highest score.

    In the order of scores, each detection that is still there removes those of its scene and class
    that are within `DUPLICATE` of it, up to the symmetry of its own CAD model. The scale error is
    ``mean_ratio``, whichever of the two is used for matching.

    Args:
        predictions: N detections.
        scores: (N,).

    Returns:
        (N,) bool: what remains.
    """
    order = protocol_order(predictions, scores)
    models = predictions[order]
    first, second = pairs_within(_groups(models))
    near = within(models[first], models[second], models.symmetries[first], DUPLICATE)
    kept = np.zeros(len(models), dtype=bool)
    kept[order] = greedy_selection(first[near], second[near], len(models))
    return kept


def limit_counts(
    predictions: PlacedModels, scores: np.ndarray, annotations: PlacedModels
) -> np.ndarray:
    """Keep as many detections of a class as the annotation of the scene has, those best scored.

    Args:
        predictions: N detections.
        scores: (N,).
        annotations: of the scenes.

    Returns:
        (N,) bool: what remains.
    """
    order = protocol_order(predictions, scores)
    groups = _groups(predictions[order])
    annotated = np.sort(_groups(annotations))
    counts = np.searchsorted(annotated, groups, "right") - np.searchsorted(annotated, groups)
    kept = np.zeros(len(predictions), dtype=bool)
    kept[order] = rank_in_group(groups) < counts
    return kept


def match_annotations(
    predictions: PlacedModels,
    scores: np.ndarray,
    annotations: PlacedModels,
    *,
    scale_variant: str = "mean_ratio",
    exact_cad: bool = False,
) -> np.ndarray:
    """In the order of scores, each detection takes the first free annotation within `CORRECT`.

    The symmetry counts only where the two CAD models have the same one.

    Args:
        predictions: N detections.
        scores: (N,).
        annotations: M annotated models; "first" is in the order of their rows.
        scale_variant: of `SCALE_ERRORS`.
        exact_cad: whether the CAD models have to be the same.

    Returns:
        (N,) int64: row of the annotation, -1 = none.
    """
    order = protocol_order(predictions, scores)
    models = predictions[order]
    groups = _groups(models)
    first, second = pairs_between(groups, _groups(annotations))
    if exact_cad:
        same = models.cads[first] == annotations.cads[second]
        first, second = first[same], second[same]
    symmetries = np.where(
        models.symmetries[first] == annotations.symmetries[second], models.symmetries[first], 0
    )
    correct = within(models[first], annotations[second], symmetries, CORRECT, scale_variant)
    matched = np.full(len(models), -1, dtype=np.int64)
    matched[order] = greedy_matching(first[correct], second[correct], rank_in_group(groups))
    return matched


def within(
    models: PlacedModels,
    others: PlacedModels,
    symmetries: np.ndarray,
    limits: Thresholds,
    scale_variant: str = "mean_ratio",
) -> np.ndarray:
    """Whether the poses of P pairs of models differ by no more than `limits`: (P,) bool."""
    passed = np.zeros(len(models), dtype=bool)
    rows = np.arange(len(models))
    translation, scale, rotation = (
        [torch.from_numpy(getattr(each, name)) for each in (models, others)]
        for name in ("translations", "scales", "rotations")
    )
    rows = rows[translation_error(*translation).numpy() <= limits.translation]
    errors = SCALE_ERRORS[scale_variant](*(each[rows] for each in scale))
    rows = rows[errors.numpy() <= limits.scale]
    # In parts: the symmetries multiply the memory.
    for part in np.split(rows, range(_PAIRS_AT_ONCE, len(rows), _PAIRS_AT_ONCE)):
        angles = rotation_error_degrees(
            *(each[part] for each in rotation), torch.from_numpy(symmetries[part])
        )
        passed[part] = angles.numpy() <= limits.rotation
    return passed


_PAIRS_AT_ONCE = 1 << 14


def _groups(models: PlacedModels) -> np.ndarray:
    """(N,) int64 number of scene and class."""
    return models.scenes * _MAX_CLASSES + models.categories


_MAX_CLASSES = 1 << 16


@dataclass(frozen=True)
class AlignmentAccuracy:
    """Accuracies in percent with one decimal, as published; NaN where there is no annotation.

    Attributes:
        classes: (C,).
        category: mean of the (rounded) classes.
        benchmark: mean of the (rounded) benchmark classes.
        instance: share of all annotated models.
        instance_benchmark: share of those of the benchmark classes.
        correct: (C,) int64 number of correct predictions.
        annotated: (C,) int64 number of annotated models.
    """

    classes: np.ndarray
    category: float
    benchmark: float
    instance: float
    instance_benchmark: float
    correct: np.ndarray
    annotated: np.ndarray


def accuracy(
    matched: np.ndarray, annotations: PlacedModels, benchmark: np.ndarray
) -> AlignmentAccuracy:
    """Averages over classes and over annotated models.

    Args:
        matched: what `match_annotations` returned.
        annotations: of all scenes, also of those without predictions.
        benchmark: (C,) bool, the classes of the benchmark.
    """
    num_classes = len(benchmark)
    annotated = np.bincount(annotations.categories, minlength=num_classes)
    found = annotations.categories[matched[matched >= 0]]
    correct = np.bincount(found, minlength=num_classes)
    counted = annotated > 0
    classes = np.full(num_classes, np.nan)
    classes[counted] = np.round(100 * correct[counted] / annotated[counted], 1)
    averages = []
    for chosen in (counted, counted & benchmark):
        averages.append(_rounded(classes[chosen].sum(), chosen.sum()))
        averages.append(_rounded(100 * correct[chosen].sum(), annotated[chosen].sum()))
    category, instance, benchmark_mean, instance_benchmark = averages
    return AlignmentAccuracy(
        classes, category, benchmark_mean, instance, instance_benchmark, correct, annotated
    )


def _rounded(total: float, count: int) -> float:
    return float(np.round(total / count, 1)) if count else float("nan")


def evaluate_alignment(
    predictions: PlacedModels,
    scores: np.ndarray,
    annotations: PlacedModels,
    benchmark: np.ndarray,
) -> dict[tuple[str, bool], AlignmentAccuracy]:
    """The whole protocol, with both scale errors, without and with the exact CAD model.

    Args:
        predictions: N detections that have a pose and a CAD model, in the frames of the scenes.
        scores: (N,); those not above `MIN_SCORE` are left out.
        annotations: all annotated models of all scenes.
        benchmark: (C,) bool, the classes of the benchmark.

    Returns:
        Accuracy by (name of the scale error, whether the CAD model has to be exact).
    """
    kept = scores > MIN_SCORE
    predictions, scores = predictions[kept], scores[kept]
    kept = remove_duplicates(predictions, scores)
    predictions, scores = predictions[kept], scores[kept]
    kept = limit_counts(predictions, scores, annotations)
    predictions, scores = predictions[kept], scores[kept]
    results = {}
    for name in SCALE_ERRORS:
        for exact in (False, True):
            matched = match_annotations(
                predictions, scores, annotations, scale_variant=name, exact_cad=exact
            )
            results[name, exact] = accuracy(matched, annotations, benchmark)
    return results
