"""From a record of a data set to the input of a model."""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..config import configurable
from . import detection_utils as utils
from . import transforms as T

__all__ = ["DatasetMapper"]

logger = logging.getLogger(__name__)


class DatasetMapper:
    """Reads the image, augments it, and turns the annotations into `Instances`.

    Annotation keys other than box, class and segmentation are dropped: replace the mapper, or
    override `_transform_annotations`, where they are needed.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        recompute_boxes: bool = False,
    ) -> None:
        """
        Args:
            is_train: produce `instances`; otherwise the annotations are left out.
            augmentations: applied in order.
            image_format: format of the image tensor, see `detection_utils.read_image`.
            use_instance_mask: produce `gt_masks`.
            use_keypoint: must be `False`; keypoints are not supported.
            instance_mask_format: "polygon" or "bitmask".
            recompute_boxes: take the boxes from the transformed masks. A box that is cropped
                instead may be larger than what is left of the object.
        """
        if use_keypoint:
            raise NotImplementedError("Keypoints are not supported: set use_keypoint=False.")
        assert use_instance_mask or not recompute_boxes, "recompute_boxes requires instance masks"
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes
        mode = "training" if is_train else "inference"
        logger.info("[DatasetMapper] Augmentations used in %s: %s", mode, self.augmentations)

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """Arguments of the constructor from a yacs config."""
        augmentations = utils.build_augmentation(cfg, is_train)
        crop = is_train and cfg.INPUT.CROP.ENABLED
        if crop:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "use_keypoint": cfg.MODEL.KEYPOINT_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "recompute_boxes": crop and cfg.MODEL.MASK_ON,
        }

    def _transform_annotations(
        self,
        dataset_dict: dict[str, Any],
        transforms: T.TransformList,
        image_shape: tuple[int, int],
    ) -> None:
        """Replace `annotations` of the record by `instances`, without crowds and empty objects."""
        unused = ("keypoints",) if self.use_instance_mask else ("keypoints", "segmentation")
        annotations = []
        for annotation in dataset_dict.pop("annotations"):
            if annotation.get("iscrowd", 0) != 0:
                continue
            for key in unused:
                annotation.pop(key, None)
            annotations.append(
                utils.transform_instance_annotations(annotation, transforms, image_shape)
            )
        instances = utils.annotations_to_instances(
            annotations, image_shape, mask_format=self.instance_mask_format
        )
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = utils.filter_empty_instances(instances)

    def __call__(self, dataset_dict: Mapping[str, Any]) -> dict[str, Any]:
        """
        Args:
            dataset_dict: a record with `file_name`; not changed.

        Returns:
            The record with `image`, `(C, H, W)` (uint8 for uint8 formats), `width` and `height`
            of the original image, `sem_seg` `(H, W)` int64 if it had a `sem_seg_file_name`, and,
            for training, `instances` in place of `annotations`.
        """
        record = copy.deepcopy(dataset_dict)
        image = utils.read_image(record["file_name"], format=self.image_format)
        utils.check_image_size(record, image)
        sem_seg = None
        if "sem_seg_file_name" in record:
            sem_seg = utils.read_image(record.pop("sem_seg_file_name"), "L").squeeze(2)

        inputs = T.AugInput(image, sem_seg=sem_seg)
        transforms = self.augmentations(inputs)
        image_shape = inputs.image.shape[:2]
        # Tensors reach the main process through shared memory, arrays by pickling.
        record["image"] = torch.from_numpy(np.array(inputs.image.transpose(2, 0, 1), order="C"))
        if inputs.sem_seg is not None:
            record["sem_seg"] = torch.from_numpy(inputs.sem_seg.astype(np.int64))

        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, image_shape)
        return record
