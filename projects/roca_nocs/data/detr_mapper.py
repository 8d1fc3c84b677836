"""The dataset mapper of DETR-like detectors: resized, or cropped and resized."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import transforms as T

from roca_nocs.data.mappers import CocoMapper

Augmentations = Sequence[T.Augmentation | T.Transform]


class DetrDatasetMapper(CocoMapper):
    """Records to model inputs with one of two lists of augmentations, each half of the time.

    Boxes are clipped to the image; crowds and boxes that became empty are left out, so that an
    image may have no instances. All draws come from numpy's global generator, first that of the
    list, then those of its augmentations.
    """

    def __init__(
        self,
        augmentation: Augmentations,
        augmentation_with_crop: Augmentations | None,
        is_train: bool = True,
        mask_on: bool = False,
        img_format: str = "RGB",
        mask_format: str = "polygon",
    ) -> None:
        """
        Args:
            augmentation: applied in order.
            augmentation_with_crop: applied instead in half of the calls; None for never.
            is_train: whether there are ``instances`` in the result.
            mask_on: ``gt_masks`` besides boxes and classes.
            img_format: ``"RGB"`` or ``"BGR"``.
            mask_format: ``"polygon"`` or ``"bitmask"``, of ``gt_masks``.
        """
        if augmentation_with_crop is not None:
            augmentation = [_OneOfTwo(augmentation, augmentation_with_crop)]
        super().__init__(
            is_train,
            augmentations=list(augmentation),
            image_format=img_format,
            use_instance_mask=mask_on,
            instance_mask_format=mask_format,
        )


class _OneOfTwo(T.Augmentation):
    """One of two lists of augmentations, with equal probability."""

    def __init__(self, plain: Augmentations, other: Augmentations) -> None:
        super().__init__()
        self.augs = [T.AugmentationList(list(each)) for each in (plain, other)]

    def __call__(self, aug_input: T.AugInput) -> T.Transform:
        plain, other = self.augs
        return (plain if self._rand_range() > 0.5 else other)(aug_input)

    def __repr__(self) -> str:
        return f"OneOfTwo({self.augs[0]}, {self.augs[1]})"
