"""From dataset records to what a model gets: everything follows the augmentations."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances

from roca_nocs.data.images import describe, read_color
from roca_nocs.data.maps import read_map
from roca_nocs.data.transforms import SceneInput, chirality_message
from roca_nocs.geometry.rotation import quaternion_to_matrix
from roca_nocs.geometry.symmetry import symmetry_ids
from roca_nocs.layers import instance_boxes
from roca_nocs.structures import CadReferences

logger = logging.getLogger(__name__)

# Maps that a mapper can be asked for, and those that a mirrored image cannot have.
MAPS = ("depth", "depth_full", "nocs")
CHIRAL_MAPS = ("nocs",)


class CocoMapper(DatasetMapper):
    """detectron2's mapper; an error names the record that caused it."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        try:
            return super().__call__(dataset_dict)
        except (OSError, SyntaxError, ValueError, KeyError, AssertionError) as error:
            # Pillow raises SyntaxError for a damaged PNG.
            raise ValueError(f"{describe(dataset_dict)}: {error}") from error


class SceneMapper:
    """Records with cameras, id maps, depth, NOCS and poses to model inputs.

    Takes records of ``load_scan2cad`` and ``load_nocs``. Instances, their masks and boxes come from
    the transformed id map, so that they agree with the maps to the pixel; an object without a
    visible pixel is left out.

    The result of a call holds ``image`` (3, H, W) uint8 and ``intrinsics`` (3, 3) float32, both
    after the augmentations; ``height``, ``width`` (of the record), ``image_id``, ``file_name``,
    ``scene_id``; in training also

    * ``instances``: ``gt_boxes``, ``gt_classes``, ``gt_masks`` (BitMasks) and, with ``poses``,
      ``gt_rotations`` (N, 3, 3), ``gt_translations`` (N, 3) in metres, ``gt_scales`` (N, 3) in
      metres per model unit, ``gt_symmetries`` (N) int64 (``geometry.symmetry``), ``gt_cads``;
    * ``instance`` (H, W) uint8: 1 + row of ``instances``, 0 elsewhere;
    * the maps asked for: ``depth``, ``depth_full`` (H, W) float32 metres, 0 = none, ``nocs``
      (3, H, W) float32, model coordinates, 0 outside objects.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "RGB",
        maps: Sequence[str] = (),
        poses: bool = False,
    ) -> None:
        """
        Args:
            is_train: whether annotations and maps are read.
            augmentations: applied in order; see ``roca_nocs.data.transforms`` for the legal ones.
            image_format: ``"RGB"`` or ``"BGR"``.
            maps: of ``MAPS``, those to read in training.
            poses: whether records must have poses; they then become fields of ``instances``.

        Raises:
            ValueError: an unknown map, or a flip together with poses or NOCS maps.
        """
        unknown = set(maps) - set(MAPS)
        if unknown:
            raise ValueError(f"unknown maps {sorted(unknown)}; there are {MAPS}")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.maps = tuple(maps)
        self.poses = poses
        self.chiral = poses or any(name in CHIRAL_MAPS for name in maps)
        flip = find_flip(list(augmentations))
        if self.chiral and is_train and flip is not None:
            raise ValueError(chirality_message(flip))
        logger.info("SceneMapper(is_train=%s): %s", is_train, self.augmentations)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record; it is left as it is.

        Raises:
            ValueError: a file cannot be decoded or a field is missing; names file and record.
        """
        image = read_color(record, self.image_format)
        maps = {name: read_map(record, name) for name in self._maps_to_read(record)}
        for name, array in maps.items():
            if array.shape[:2] != image.shape[:2]:
                raise ValueError(
                    f"{describe(record)}: the {name} map is {array.shape[1]}x{array.shape[0]}, "
                    f"the image {image.shape[1]}x{image.shape[0]}"
                )
        scene = SceneInput(image, _intrinsics(record), maps, chiral=self.chiral and self.is_train)
        self.augmentations(scene)

        result = {key: copy.deepcopy(value) for key, value in record.items() if key in _KEPT}
        pixels = np.ascontiguousarray(scene.image.transpose(2, 0, 1))
        result["image"] = torch.from_numpy(pixels)
        result["intrinsics"] = scene.intrinsics.float()
        if self.is_train:
            self._add_targets(result, record, scene)
        for name, array in scene.maps.items():
            if name == "nocs":
                objects = result["instance"].numpy()[..., None] > 0
                array = np.where(objects, array, 0).transpose(2, 0, 1)
            if name != "instance":
                result[name] = torch.from_numpy(np.ascontiguousarray(array))
        return result

    def _maps_to_read(self, record: dict[str, Any]) -> tuple[str, ...]:
        """The id map, which makes the instances, and the maps that become part of the result."""
        return ("instance", *self.maps) if self.is_train else ()

    def _add_targets(
        self, result: dict[str, Any], record: dict[str, Any], scene: SceneInput
    ) -> None:
        annotations = [each for each in record["annotations"] if not each.get("iscrowd", 0)]
        # Values of the id map to 1 + row of the annotation.
        rows = np.zeros(256, dtype=np.uint8)
        for row, annotation in enumerate(annotations):
            rows[annotation["alignment_id"]] = row + 1
        ids = rows[scene.maps["instance"]]
        boxes, areas = instance_boxes(torch.from_numpy(ids), len(annotations))
        kept = areas.nonzero().flatten()
        annotations = [annotations[row] for row in kept.tolist()]

        renumbered = np.zeros(256, dtype=np.uint8)
        renumbered[kept.numpy() + 1] = np.arange(1, len(annotations) + 1)
        instance = torch.from_numpy(renumbered[ids])
        result["instance"] = instance
        numbers = torch.arange(1, len(annotations) + 1, dtype=torch.uint8)

        instances = Instances(tuple(instance.shape))
        instances.gt_boxes = Boxes(boxes[kept])
        classes = [annotation["category_id"] for annotation in annotations]
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        instances.gt_masks = BitMasks(instance == numbers[:, None, None])
        if self.poses:
            _add_poses(instances, annotations, scene.camera_rotation, record)
        result["instances"] = instances


def _intrinsics(record: dict[str, Any]) -> torch.Tensor:
    """(3, 3) float64 of a record, an array or nested lists there."""
    given = record.get("intrinsics")
    try:
        matrix = torch.as_tensor(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError):
        matrix = torch.empty(0)
    if matrix.shape != (3, 3) or not matrix.isfinite().all() or (matrix.diagonal() <= 0).any():
        raise ValueError(
            f"{describe(record)}: 'intrinsics' is {' '.join(str(given).split())}; expected the 3x3 "
            "pinhole matrix of the camera in pixels"
        )
    return matrix


# What a record passes on untouched.
_KEPT = ("file_name", "height", "width", "image_id", "scene_id")


def find_flip(augmentations: Sequence[Any]) -> str | None:
    """Class name of a mirroring augmentation, also inside lists and RandomApply."""
    for augmentation in augmentations:
        if isinstance(augmentation, T.RandomFlip | T.HFlipTransform | T.VFlipTransform):
            return type(augmentation).__name__
        single = [getattr(augmentation, name, None) for name in ("aug", "tfm")]
        inner = [*single, *getattr(augmentation, "augs", ())]
        found = find_flip([each for each in inner if each is not None])
        if found is not None:
            return found
    return None


def _add_poses(
    instances: Instances,
    annotations: Sequence[dict[str, Any]],
    camera_rotation: torch.Tensor,
    record: dict[str, Any],
) -> None:
    """Pose fields in the frame of the transformed camera."""
    try:
        quaternion, translation, scale = (
            torch.tensor([each[key] for each in annotations], dtype=torch.float64).reshape(-1, size)
            for key, size in (("q", 4), ("t", 3), ("s", 3))
        )
        symmetries = symmetry_ids([each["sym"] for each in annotations])
        cads = [(each["model"]["catid_cad"], each["model"]["id_cad"]) for each in annotations]
    except KeyError as error:
        raise ValueError(
            f"{describe(record)}: an annotation has no {error}; this dataset has no poses"
        ) from error
    except ValueError as error:
        raise ValueError(f"{describe(record)}: {error}") from error
    instances.gt_rotations = (camera_rotation @ quaternion_to_matrix(quaternion)).float()
    instances.gt_translations = (translation @ camera_rotation.mT).float()
    instances.gt_scales = scale.float()
    instances.gt_symmetries = symmetries
    instances.gt_cads = CadReferences(cads)
