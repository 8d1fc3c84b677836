"""Records with 3D boxes and a projection to inputs of the monocular detector."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, BoxMode, Instances

from roca_nocs.data.images import describe, read_color
from roca_nocs.data.transforms import AffineColorTransform
from roca_nocs.geometry.cuboids import alpha_from_rotation_y
from roca_nocs.geometry.projection import (
    crop_projection,
    flip_centers,
    flip_projection,
    flip_rotation,
    flip_yaw,
    project_points,
    projection_from_intrinsics,
    resize_projection,
)

__all__ = ["Mono3DMapper", "record_projection", "transform_projection"]

logger = logging.getLogger(__name__)

# What a record passes on untouched.
_KEPT = ("file_name", "height", "width", "image_id", "scene_id", "known_classes")
# Nearer centres project to anywhere.
_LEAST_DEPTH = 0.1


class Mono3DMapper:
    """Records of the layouts ``kitti``, ``omni3d`` and ``a2d2`` to model inputs.

    Image, boxes, projection, centres, rotations and angles follow the augmentations together:
    resizing, cropping, padding, changes of colour and, unlike for posed CAD models, mirroring, for
    a mirrored box is a box again.

    The result of a call holds ``image`` (3, H, W) uint8; ``projection`` (3, 4) float32, from the
    camera frame to pixels of ``image``, in training always, at inference if the record has one;
    ``height``, ``width`` (of the record), ``image_id``, ``file_name``, ``scene_id`` and
    ``known_classes`` as far as the record has them; in training also

    * ``instances``, objects with a box that the image shows in part at least: ``gt_boxes``,
      ``gt_classes``, ``gt_centers`` (N, 3) and ``gt_dimensions`` (N, 3) (W, H, L) in metres,
      ``gt_rotations`` (N, 3, 3) object to camera, ``gt_rotation_y`` and ``gt_alpha`` (N,) radians,
      ``gt_center_2d`` (N, 2) pixels and ``gt_depths`` (N,) metres of the projected centre;
      ``gt_has3d`` (N,) bool, false where the values in three dimensions mean nothing because the
      record has none or the centre lies behind the camera;
    * ``ignore_boxes`` (M, 4) float32, regions where nothing is known to be background.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "RGB",
    ) -> None:
        """
        Args:
            is_train: whether annotations are read.
            augmentations: applied in order; see :func:`transform_projection` for the legal ones.
            image_format: ``"RGB"`` or ``"BGR"``.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        logger.info("Mono3DMapper(is_train=%s): %s", is_train, self.augmentations)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record; it is left as it is.

        Raises:
            ValueError: the image cannot be decoded, an annotation lacks a field, or in training
                the camera is unknown; names file and record.
            TypeError: an augmentation that a projection cannot follow.
        """
        image = read_color(record, self.image_format)
        projection = record_projection(record, required=self.is_train)
        scene = T.AugInput(image)
        transforms = self.augmentations(scene)

        result = {key: copy.deepcopy(record[key]) for key in _KEPT if key in record}
        result["image"] = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
        if projection is not None:
            projection = transform_projection(transforms, projection)
            result["projection"] = projection.float()
        if self.is_train:
            size = scene.image.shape[:2]
            try:
                result["instances"] = _instances(record, transforms, projection, size)
            except KeyError as error:
                raise ValueError(f"{describe(record)}: an annotation has no {error}") from error
            except ValueError as error:
                raise ValueError(f"{describe(record)}: {error}") from error
            boxes = _move_boxes(transforms, record.get("ignore_boxes", []), size)
            result["ignore_boxes"] = boxes.tensor[boxes.nonempty()]
        return result


def record_projection(record: dict[str, Any], *, required: bool) -> torch.Tensor | None:
    """The projection of a record, from ``projection`` (3, 4) or else ``intrinsics`` (3, 3).

    Args:
        record: dataset dict.
        required: whether a missing one is an error.

    Returns:
        (3, 4) float64, or None where the record has no camera.

    Raises:
        ValueError: the matrix is missing though required, or no projection; names the file.
    """
    for name, shape in (("projection", (3, 4)), ("intrinsics", (3, 3))):
        if record.get(name) is None:
            continue
        try:
            matrix = torch.as_tensor(np.asarray(record[name], dtype=np.float64))
        except (TypeError, ValueError):
            matrix = torch.empty(0)
        focal = matrix[:2, :2].diagonal() if matrix.dim() == 2 else matrix
        if matrix.shape != shape or not matrix.isfinite().all() or (focal <= 0).any():
            raise ValueError(
                f"{describe(record)}: {name!r} is {' '.join(str(record[name]).split())}; expected "
                f"a {shape[0]}x{shape[1]} matrix in pixels with positive focal lengths"
            )
        return matrix if name == "projection" else projection_from_intrinsics(matrix)
    if not required:
        return None
    raise ValueError(
        f"{describe(record)}: no calibration, neither 'projection' (3x4) nor 'intrinsics' (3x3), "
        "which training needs: add the camera to the dataset or leave the image out"
    )


@singledispatch
def transform_projection(transform: T.Transform, projection: torch.Tensor) -> torch.Tensor:
    """Projection (3, 4) of the transformed image, in detectron2's coordinates of pixels.

    A box and the projection of what it shows move together: a resize by s maps x to s x, a flip
    of an image of width w maps x to w - x.

    Raises:
        TypeError: there is no rule for this kind of transform.
    """
    raise TypeError(
        f"no rule says how a projection follows {type(transform).__name__}; register one with "
        "roca_nocs.data.mono3d_mapper.transform_projection, or leave this augmentation out"
    )


@transform_projection.register(T.NoOpTransform)
@transform_projection.register(T.BlendTransform)
@transform_projection.register(T.ColorTransform)
@transform_projection.register(AffineColorTransform)
def _(transform: T.Transform, projection: torch.Tensor) -> torch.Tensor:
    return projection


@transform_projection.register
def _(transform: T.TransformList, projection: torch.Tensor) -> torch.Tensor:
    for each in transform.transforms:
        projection = transform_projection(each, projection)
    return projection


@transform_projection.register
def _(transform: T.ResizeTransform, projection: torch.Tensor) -> torch.Tensor:
    # Height and width are rounded each: the two factors differ.
    return resize_projection(
        projection, transform.new_w / transform.w, transform.new_h / transform.h
    )


@transform_projection.register
def _(transform: T.CropTransform, projection: torch.Tensor) -> torch.Tensor:
    return crop_projection(projection, transform.x0, transform.y0)


@transform_projection.register
def _(transform: T.PadTransform, projection: torch.Tensor) -> torch.Tensor:
    return crop_projection(projection, -transform.x0, -transform.y0)


@transform_projection.register
def _(transform: T.HFlipTransform, projection: torch.Tensor) -> torch.Tensor:
    return flip_projection(projection, transform.width)


def _single(transform: T.Transform) -> Iterator[T.Transform]:
    """The transforms of nested lists, in order."""
    if isinstance(transform, T.TransformList):
        for each in transform.transforms:
            yield from _single(each)
    else:
        yield transform


def _move_boxes(
    transforms: T.TransformList, boxes: Sequence[Sequence[float]], size: tuple[int, int]
) -> Boxes:
    """Boxes (N, 4), XYXY, in the transformed image of this (height, width)."""
    rows = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    moved = Boxes(transforms.apply_box(rows) if len(rows) else rows)
    moved.clip(size)
    return moved


def _instances(
    record: dict[str, Any],
    transforms: T.TransformList,
    projection: torch.Tensor,
    size: tuple[int, int],
) -> Instances:
    annotations = [each for each in record["annotations"] if not each.get("iscrowd", 0)]
    boxes = [
        BoxMode.convert(each["bbox"], each["bbox_mode"], BoxMode.XYXY_ABS) for each in annotations
    ]
    has3d = torch.tensor([bool(each["has3d"]) for each in annotations], dtype=torch.bool)

    def read(name: str, *shape: int, default: torch.Tensor) -> torch.Tensor:
        """(N, *shape) float64; the default where there is no 3D box."""
        values = [
            torch.as_tensor(np.asarray(each[name], dtype=np.float64)) if known else default
            for each, known in zip(annotations, has3d.tolist(), strict=True)
        ]
        return torch.stack(values).reshape(-1, *shape) if values else default.new_zeros(0, *shape)

    centers = read("center", 3, default=torch.zeros(3, dtype=torch.float64))
    dimensions = read("dimensions", 3, default=torch.ones(3, dtype=torch.float64))
    rotations = read("rotation", 3, 3, default=torch.eye(3, dtype=torch.float64))
    rotation_y = read("rotation_y", default=torch.zeros((), dtype=torch.float64))
    if sum(isinstance(each, T.HFlipTransform) for each in _single(transforms)) % 2:
        centers, rotations = flip_centers(centers), flip_rotation(rotations)
        rotation_y = flip_yaw(rotation_y)
    center_2d, depths = project_points(centers, projection)
    has3d &= (depths > _LEAST_DEPTH) & (dimensions > 0).all(dim=1)
    center_2d = torch.where(has3d[:, None], center_2d, 0.0)
    alpha = alpha_from_rotation_y(rotation_y, centers)

    instances = Instances(size, gt_boxes=_move_boxes(transforms, boxes, size))
    classes = [each["category_id"] for each in annotations]
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    instances.gt_has3d = has3d
    for name, values in (
        ("gt_centers", centers),
        ("gt_dimensions", dimensions),
        ("gt_rotations", rotations),
        ("gt_rotation_y", rotation_y),
        ("gt_alpha", alpha),
        ("gt_center_2d", center_2d),
        ("gt_depths", depths),
    ):
        instances.set(name, values.float())
    return instances[instances.gt_boxes.nonempty()]
