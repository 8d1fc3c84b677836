"""Records to inputs of the NOCS model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances, polygons_to_bitmask

from roca_nocs.data.images import describe, read_color
from roca_nocs.data.mappers import SceneMapper, find_flip
from roca_nocs.data.transforms import SceneInput, chirality_message


class NocsMapper(SceneMapper):
    """:class:`SceneMapper` with object coordinates, also for records that have none.

    In training the result holds ``nocs`` where the record names such a map, and with ``depth``
    also ``depth``. Records of COCO's format, which have no camera, give image and instances. At
    inference it holds the image and, with ``depth`` and where the record has it, ``depth``.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "RGB",
        depth: bool = False,
    ) -> None:
        """
        Args:
            is_train, augmentations, image_format: see :class:`SceneMapper`.
            depth: read depth maps: for poses at inference, for depth-aware critics in training.

        Raises:
            ValueError: a flip; a mirrored object has other coordinates.
        """
        maps = ("nocs", *(["depth"] if depth else []))
        super().__init__(
            is_train, augmentations=augmentations, image_format=image_format, maps=maps
        )
        if (flip := find_flip(list(augmentations))) is not None:
            raise ValueError(chirality_message(flip))

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record; see :class:`SceneMapper`."""
        if "intrinsics" in record:
            return super().__call__(record)
        return self._map_without_camera(record)

    def _maps_to_read(self, record: dict[str, Any]) -> tuple[str, ...]:
        names = self.maps if self.is_train else [name for name in self.maps if name == "depth"]
        known = [name for name in names if record.get(f"{name}_file_name") is not None]
        return ("instance", *known) if self.is_train else tuple(known)

    def _map_without_camera(self, record: dict[str, Any]) -> dict[str, Any]:
        image = read_color(record, self.image_format)
        scene = SceneInput(image, _nominal_intrinsics(image), {}, chiral=True)
        transforms = self.augmentations(scene)
        names = ("file_name", "height", "width", "image_id")
        result = {name: record[name] for name in names if name in record}
        pixels = np.ascontiguousarray(scene.image.transpose(2, 0, 1))
        result["image"] = torch.from_numpy(pixels)
        if self.is_train:
            try:
                result["instances"] = _instances(record, transforms)
            except (KeyError, ValueError) as error:
                raise ValueError(f"{describe(record)}: {error}") from error
        return result


def _nominal_intrinsics(image: np.ndarray) -> torch.Tensor:
    """(3, 3) float64 of an unknown camera: augmentations turn about the centre of the image."""
    height, width = image.shape[:2]
    focal = float(max(height, width))
    return torch.tensor(
        [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], dtype=torch.float64
    )


def _instances(record: dict[str, Any], transforms: T.TransformList) -> Instances:
    """Classes, masks and their boxes of COCO annotations that are left in the image."""
    size = record["height"], record["width"]
    annotations = [each for each in record["annotations"] if not each.get("iscrowd", 0)]
    # As bitmaps, since polygons can be cropped with a further library only.
    masks = [
        transforms.apply_segmentation(_bitmap(each["segmentation"], size)) for each in annotations
    ]
    size = transforms.apply_segmentation(np.zeros(size, np.uint8)).shape
    bitmaps = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size))
    instances = Instances(size)
    instances.gt_masks = BitMasks(bitmaps)
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    classes = [each["category_id"] for each in annotations]
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return instances[instances.gt_masks.nonempty()]


def _bitmap(segmentation: list[Any] | dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 of polygons or a run-length code."""
    if isinstance(segmentation, dict):
        return mask_util.decode(segmentation)
    return polygons_to_bitmask([np.array(each) for each in segmentation], *size).astype(np.uint8)
