"""Comparison of detections with the annotations of the images and scenes they come from."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.utils.file_io import PathManager

from roca_nocs.data.datasets.scan2cad import BENCHMARK_CLASSES, read_matrix
from roca_nocs.data.images import describe
from roca_nocs.geometry.pose import (
    rotation_error_degrees,
    scale_error_per_axis,
    translation_error,
)
from roca_nocs.geometry.rotation import matrix_to_quaternion, quaternion_to_matrix
from roca_nocs.geometry.symmetry import symmetry_ids

from .alignment import (
    MIN_SCORE,
    AlignmentAccuracy,
    PlacedModels,
    evaluate_alignment,
    to_scene,
)
from .collected import Detections, annotated_boxes, annotated_objects
from .frame_metrics import FrameObjects, match_frames
from .scene_models import CadTable, SceneModels

TASKS = {
    ("mean_ratio", False): "alignment",
    ("per_axis", False): "alignment_per_axis",
    ("mean_ratio", True): "alignment_retrieval",
    ("per_axis", True): "alignment_retrieval_per_axis",
}
"""Name of a task by its scale error and whether the CAD model has to be exact."""
VISIBLE_TASK = "alignment_visible"
CSV_COLUMNS = (
    *("id_scan", "objectCategory", "alignedModelId", "tx", "ty", "tz", "qw", "qx", "qy", "qz"),
    *("sx", "sy", "sz", "object_score"),
)


class AlignmentTruth:
    """Annotations of I images and of the scenes they show."""

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        scene_models: SceneModels,
        cads: CadTable,
        classes: Sequence[str],
    ) -> None:
        """
        Args:
            records: of the images, in the order of their numbers in ``Detections.images``.
            scene_models: of all scenes of the dataset.
            cads: table of CAD models.
            classes: names.

        Raises:
            ValueError: the scene of an image has no entry among the annotated scenes.
            DatasetError: the pose of a camera cannot be read.
        """
        for record in records:
            if record["scene_id"] not in scene_models.scenes:
                raise ValueError(
                    f"{describe(record)}: the annotated scenes do not include "
                    f"{record['scene_id']!r}"
                )
        self.scene_models = scene_models
        self.cads = cads
        self.classes = list(classes)
        self.image_scenes = np.array([scene_models.scenes[r["scene_id"]] for r in records])
        self.intrinsics = np.stack([record["intrinsics"] for record in records])
        self._camera_to_scene = np.stack([read_matrix(r["pose_file_name"]) for r in records])
        self._benchmark = np.array([name in BENCHMARK_CLASSES for name in classes])

        boxes = annotated_boxes(records)
        self._objects = FrameObjects(
            boxes["images"], boxes["categories"], boxes["boxes"], boxes["scores"]
        )
        annotations = [annotation for _, annotation in annotated_objects(records)]
        translation, quaternion, self._scales = (
            torch.tensor([each[name] for each in annotations], dtype=torch.float64).reshape(-1, n)
            for name, n in (("t", 3), ("q", 4), ("s", 3))
        )
        self._translations, self._rotations = translation, quaternion_to_matrix(quaternion)
        self._symmetries = symmetry_ids([each["sym"] for each in annotations])
        models = [each["model"] for each in annotations]
        rows = [cads.rows.get((m["catid_cad"], m["id_cad"]), -1) for m in models]
        self._cads = np.array(rows, np.int64)

    def place(self, detections: Detections) -> tuple[PlacedModels, np.ndarray]:
        """The detections with a valid alignment in the frames of their scenes, and their scores."""
        kept = detections.has_alignment
        images, cads = detections.images[kept], detections.cads[kept]
        translations, rotations, scales = to_scene(
            self._camera_to_scene[images],
            detections.translations[kept],
            detections.rotations[kept],
            detections.scales[kept],
        )
        models = PlacedModels(
            scenes=self.image_scenes[images],
            categories=detections.categories[kept],
            translations=translations,
            rotations=rotations,
            scales=scales,
            symmetries=np.where(cads >= 0, self.cads.symmetries[cads], 0),
            cads=cads,
        )
        return models, detections.scores[kept]

    def metrics(self, detections: Detections) -> dict[str, dict[str, float]]:
        """The tasks that `AlignmentEvaluator` documents."""
        models, scores = self.place(detections)
        annotations, visible = self.scene_models.models, self.scene_models.visible
        results = evaluate_alignment(models, scores, annotations, self._benchmark)
        metrics = {name: self._named(results[variant]) for variant, name in TASKS.items()}
        seen = evaluate_alignment(models, scores, annotations[visible], self._benchmark)
        metrics[VISIBLE_TASK] = self._named(seen["mean_ratio", False])
        metrics["detections"] = self._detection_metrics(detections)
        return metrics

    def _named(self, accuracy: AlignmentAccuracy) -> dict[str, float]:
        return {
            "instance": accuracy.instance,
            "class": accuracy.category,
            "instance_benchmark": accuracy.instance_benchmark,
            "class_benchmark": accuracy.benchmark,
            **{
                f"AC-{name}": value
                for name, value in zip(self.classes, accuracy.classes.tolist(), strict=True)
            },
        }

    def _detection_metrics(self, detections: Detections) -> dict[str, float]:
        """Retrieval and pose of the detections that are matched by class and box."""
        matched = match_frames(detections.frame_objects(), self._objects)
        rows = np.flatnonzero((matched >= 0) & (detections.scores > MIN_SCORE))
        targets = matched[rows]
        angles = rotation_error_degrees(
            torch.from_numpy(detections.rotations[rows]),
            self._rotations[targets],
            self._symmetries[targets],
        )
        distances = translation_error(
            torch.from_numpy(detections.translations[rows]), self._translations[targets]
        )
        scales = scale_error_per_axis(
            torch.from_numpy(detections.scales[rows]), self._scales[targets]
        )
        cads = detections.cads[rows]
        exact = torch.from_numpy((cads >= 0) & (cads == self._cads[targets])).double()
        # The mean of an empty tensor is NaN: not defined.
        return {
            "retrieval_accuracy": 100 * float(exact.mean()),
            "rotation_error": float(angles.mean()),
            "translation_error": 100 * float(distances.mean()),
            "scale_error": 100 * float(scales.mean()),
            "matched": len(rows),
        }

    def write_csv(self, detections: Detections, folder: str) -> None:
        """Write what the protocol starts from, one file per scene, as published.

        ``objectCategory`` is the synset as a whole number, poses are in the frame of the scene.
        """
        models, scores = self.place(detections)
        chosen = scores > MIN_SCORE
        models, scores = models[chosen], scores[chosen]
        quaternions = matrix_to_quaternion(torch.from_numpy(models.rotations)).numpy()
        numbers = np.concatenate(
            [models.translations, quaternions, models.scales, scores[:, None]], axis=1
        ).tolist()
        keys = list(self.cads.rows)
        PathManager.mkdirs(folder)
        for scene, number in self.scene_models.scenes.items():
            with PathManager.open(os.path.join(folder, f"{scene}.csv"), "w") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(CSV_COLUMNS)
                for row in np.flatnonzero((models.scenes == number) & (models.cads >= 0)):
                    synset, model_id = keys[models.cads[row]]
                    writer.writerow([scene, int(synset), model_id, *numbers[row]])
