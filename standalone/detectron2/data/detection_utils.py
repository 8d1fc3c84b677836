"""Reading images, transforming annotations, building `Instances`."""

import logging
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image

from ..structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks, polygons_to_bitmask
from ..utils.file_io import PathManager
from . import transforms as T
from .catalog import MetadataCatalog

__all__ = [
    "SizeMismatchError",
    "annotations_to_instances",
    "build_augmentation",
    "build_transform_gen",
    "check_image_size",
    "check_metadata_consistency",
    "convert_PIL_to_numpy",
    "convert_image_to_rgb",
    "filter_empty_instances",
    "gen_crop_transform_with_instance",
    "read_image",
    "transform_instance_annotations",
]

logger = logging.getLogger(__name__)

# ITU-R BT.601 with analogue ranges: Y in [0, 1], U in [-0.436, 0.436], V in [-0.615, 0.615].
_RGB_TO_YUV = np.array(
    [[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]]
)
_YUV_TO_RGB = np.array([[1.0, 0.0, 1.13983], [1.0, -0.39465, -0.58060], [1.0, 2.03211, 0.0]])

_EXIF_ORIENTATION_TAG = 0x0112
# Values 2 to 8 of the tag; 1 is upright.
_UPRIGHT_OPERATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class SizeMismatchError(ValueError):
    """An image file has another size than its record says."""


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """Convert a Pillow image to an array.

    Args:
        image: the image.
        format: a mode of Pillow, "BGR" or "YUV-BT.601"; `None` keeps the mode of the image.

    Returns:
        `(H, W, C)` uint8, also for "L"; "YUV-BT.601" gives float64 with Y in [0, 1].
    """
    if format is not None:
        image = image.convert("RGB" if format in ("BGR", "YUV-BT.601") else format)
    array = np.asarray(image)
    if format == "BGR":
        return array[:, :, ::-1]
    if format == "L":
        return array[:, :, np.newaxis]
    if format == "YUV-BT.601":
        return np.dot(array / 255.0, _RGB_TO_YUV.T)
    return array


def convert_image_to_rgb(image: np.ndarray | torch.Tensor, format: str | None) -> np.ndarray:
    """Convert an image array for display.

    Args:
        image: `(H, W, C)` in `format`.
        format: see `convert_PIL_to_numpy`; `None` means RGB.

    Returns:
        `(H, W, 3)` RGB in [0, 255], uint8 except for "BGR" (type of the input) and
        "YUV-BT.601" (float64).
    """
    if isinstance(image, torch.Tensor):
        image = image.cpu().numpy()
    if format == "BGR":
        return np.ascontiguousarray(image[:, :, ::-1])
    if format == "YUV-BT.601":
        return np.dot(image, _YUV_TO_RGB.T) * 255.0
    image = np.ascontiguousarray(image.astype(np.uint8))
    if format in (None, "RGB"):
        return image
    size = (image.shape[1], image.shape[0])
    return np.asarray(Image.frombytes(format, size, image.tobytes()).convert("RGB"))


def _upright(image: Image.Image, file_name: Any) -> Image.Image:
    """Apply the orientation that the camera stored in the EXIF data."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION_TAG)
    except Exception as error:
        # Pillow's parser fails with many exception types on damaged EXIF data (SyntaxError,
        # struct.error, ...), which says nothing about the pixels.
        logger.warning("Ignoring unreadable EXIF data of %s: %s", file_name, error)
        return image
    operation = _UPRIGHT_OPERATIONS.get(orientation)
    return image if operation is None else image.transpose(operation)


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image file and turn it upright.

    Args:
        file_name: path or any address that `PathManager` opens.
        format: see `convert_PIL_to_numpy`.

    Returns:
        `(H, W, C)`; without `format` the array of the file's own mode, `(H, W)` for grey images.
    """
    with PathManager.open(file_name, "rb") as file:
        return convert_PIL_to_numpy(_upright(Image.open(file), file_name), format)


def check_image_size(dataset_dict: MutableMapping[str, Any], image: np.ndarray) -> None:
    """Compare the image with `width` and `height` of its record; fill in what is missing.

    Raises:
        SizeMismatchError: names the file, the size found and the size expected.
    """
    height, width = image.shape[:2]
    expected = (dataset_dict.setdefault("width", width), dataset_dict.setdefault("height", height))
    if expected != (width, height):
        name = f" for image {dataset_dict['file_name']}" if "file_name" in dataset_dict else ""
        raise SizeMismatchError(
            f"Mismatched image shape{name}, got {(width, height)}, expect {expected}. "
            "Please check the width/height in your annotation."
        )


def transform_instance_annotations(
    annotation: MutableMapping[str, Any],
    transforms: T.Transform | Sequence[T.Transform],
    image_size: Sequence[int],
) -> MutableMapping[str, Any]:
    """Transform the box and the segmentation of one object.

    Args:
        annotation: changed in place; arrays and lists in it are not. The box is clipped to the
            image and becomes float64 XYXY_ABS. Polygons become float64 arrays `(2K,)`, a
            COCO RLE becomes a uint8 bitmap `(H, W)`.
        transforms: what was applied to the image.
        image_size: (height, width) of the transformed image.

    Returns:
        `annotation` itself.

    Raises:
        ValueError: the segmentation is neither a list of polygons nor an RLE.
        NotImplementedError: there are keypoints.
    """
    if "keypoints" in annotation:
        raise NotImplementedError(
            "Keypoints are not supported. Remove 'keypoints' from the annotation before it is "
            "transformed."
        )
    if isinstance(transforms, tuple | list):
        transforms = T.TransformList(transforms)
    height, width = image_size
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    # Float from here on: resizing writes in place and would truncate integer coordinates.
    corners = transforms.apply_box(np.array([box], dtype=np.float64))[0]
    annotation["bbox"] = corners.clip(min=0).clip(max=(width, height, width, height))
    annotation["bbox_mode"] = BoxMode.XYXY_ABS

    if "segmentation" in annotation:
        annotation["segmentation"] = _transform_segmentation(
            annotation["segmentation"], transforms, (height, width)
        )
    return annotation


def _transform_segmentation(
    segmentation: Any, transforms: T.Transform, image_size: tuple[int, int]
) -> list[np.ndarray] | np.ndarray:
    if isinstance(segmentation, list):
        polygons = [np.array(p, dtype=np.float64).reshape(-1, 2) for p in segmentation]
        try:
            polygons = transforms.apply_polygons(polygons)
        except ModuleNotFoundError as error:
            if error.name not in ("shapely", "shapely.geometry"):
                raise
            raise ImportError(
                "fvcore crops polygons with shapely, which is not installed. Run `pip install "
                "shapely`, or store the masks as RLE, or set use_instance_mask=False."
            ) from error
        return [polygon.reshape(-1) for polygon in polygons]
    if isinstance(segmentation, dict):
        mask = transforms.apply_segmentation(mask_util.decode(segmentation))
        assert mask.shape[:2] == image_size, (
            f"The transformed mask has size {mask.shape[:2]}, the image {image_size}."
        )
        return mask
    raise ValueError(
        f"Cannot transform segmentation of type '{type(segmentation)}'! Supported types are: "
        "polygons as list[list[float] or ndarray], COCO-style RLE as a dict."
    )


def annotations_to_instances(
    annos: Sequence[Mapping[str, Any]], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """Collect the (transformed) annotations of one image.

    Args:
        annos: each with `bbox`, `bbox_mode`, `category_id` and, all of them or none,
            `segmentation`.
        image_size: (height, width).
        mask_format: "polygon" or "bitmask".

    Returns:
        `gt_boxes`, `gt_classes` (int64) and, with segmentations, `gt_masks`: `PolygonMasks` or
        `BitMasks`.

    Raises:
        ValueError: only some annotations have a segmentation, or one of them does not fit
            `mask_format`.
    """
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annos]
    instances = Instances(tuple(image_size))
    instances.gt_boxes = Boxes(np.array(boxes, dtype=np.float64).reshape(-1, 4))
    instances.gt_classes = torch.tensor([int(a["category_id"]) for a in annos], dtype=torch.int64)

    without = [i for i, a in enumerate(annos) if "segmentation" not in a]
    if len(without) == len(annos):
        return instances
    if without:
        raise ValueError(
            f"Annotations {without} of {len(annos)} in one image have no 'segmentation' and the "
            "others do. Give all of them one, or remove it from all."
        )
    segmentations = [a["segmentation"] for a in annos]
    if mask_format == "polygon":
        try:
            instances.gt_masks = PolygonMasks(segmentations)
        except ValueError as error:
            raise ValueError(
                "Failed to use mask_format=='polygon' from the given annotations! "
                "Use mask_format='bitmask' for RLE and bitmaps."
            ) from error
    else:
        assert mask_format == "bitmask", (
            f"mask_format must be 'polygon' or 'bitmask', got {mask_format!r}."
        )
        bitmaps = [_segmentation_to_bitmap(s, image_size) for s in segmentations]
        # pycocotools decodes column by column; everything that follows reads rows.
        instances.gt_masks = BitMasks(np.array(bitmaps, dtype=bool, order="C"))
    return instances


def _segmentation_to_bitmap(segmentation: Any, image_size: tuple[int, int]) -> np.ndarray:
    """`(H, W)` bool or uint8."""
    if isinstance(segmentation, list):
        return polygons_to_bitmask(segmentation, *image_size)
    if isinstance(segmentation, dict):
        return mask_util.decode(segmentation)
    if isinstance(segmentation, np.ndarray):
        assert segmentation.ndim == 2, (
            f"Expect segmentation of 2 dimensions, got {segmentation.ndim}."
        )
        return segmentation
    raise ValueError(
        f"Cannot convert segmentation of type '{type(segmentation)}' to BitMasks! Supported types "
        "are: polygons as list[list[float] or ndarray], COCO-style RLE as a dict, or a binary "
        "segmentation mask in a 2D numpy array of shape HxW."
    )


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Instances | tuple[Instances, torch.Tensor]:
    """Drop objects with an empty `gt_boxes` or an empty `gt_masks` (where there are masks).

    Args:
        instances: of one image.
        by_box: require both sides of the box to be longer than `box_threshold` pixels.
        by_mask: require at least one pixel or polygon.
        box_threshold: in pixels.
        return_mask: also return which objects were kept, `(N,)` bool.
    """
    assert by_box or by_mask, "filter_empty_instances needs by_box or by_mask."
    conditions = []
    if by_box:
        conditions.append(instances.gt_boxes.nonempty(threshold=box_threshold))
    if by_mask and instances.has("gt_masks"):
        conditions.append(instances.gt_masks.nonempty())
    if conditions:
        keep = torch.stack(conditions).all(dim=0)
    else:
        keep = torch.ones(len(instances), dtype=torch.bool)
    return (instances[keep], keep) if return_mask else instances[keep]


def gen_crop_transform_with_instance(
    crop_size: Sequence[int], image_size: Sequence[int], instance: Mapping[str, Any]
) -> T.CropTransform:
    """A random crop that contains the centre of an object's box.

    Args:
        crop_size: (height, width) in pixels, no larger than the image.
        image_size: (height, width) in pixels.
        instance: annotation with `bbox` and `bbox_mode`.
    """
    x0, y0, x1, y1 = BoxMode.convert(instance["bbox"], instance["bbox_mode"], BoxMode.XYXY_ABS)
    center = np.array([(y0 + y1) * 0.5, (x0 + x1) * 0.5])
    crop, image = np.array(tuple(crop_size)), np.array(tuple(image_size))
    assert (image >= center).all(), (
        f"The annotation bounding box is outside of the image! Its center (y, x) is "
        f"{center.tolist()}, the image (height, width) {image.tolist()}."
    )
    assert (image >= crop).all(), (
        f"Crop size is larger than image size! {crop.tolist()} > {image.tolist()}"
    )
    smallest = np.maximum(np.floor(center).astype(int) - crop, 0)
    largest = np.minimum(image - crop, np.ceil(center).astype(int))
    # Two scalar draws, as in detectron2: an array draw consumes the generator differently.
    top = np.random.randint(smallest[0], largest[0] + 1)
    left = np.random.randint(smallest[1], largest[1] + 1)
    return T.CropTransform(left, top, int(crop[1]), int(crop[0]))


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> None:
    """Check that data sets which are used together agree on an entry of their metadata.

    Raises:
        AttributeError: a data set has no such entry.
        ValueError: two data sets differ; the message shows both values.
    """
    values = [getattr(MetadataCatalog.get(name), key) for name in dataset_names]
    for name, value in zip(dataset_names, values, strict=True):
        if value != values[0]:
            raise ValueError(
                f"Datasets have different metadata '{key}'! It is {values[0]} for "
                f"'{dataset_names[0]}' and {value} for '{name}'."
            )


def build_augmentation(cfg: Any, is_train: bool) -> list[T.Augmentation]:
    """The resize and, for training, the flip that the `INPUT` section of a yacs config describes.

    Args:
        cfg: see `detectron2.config.get_cfg`.
        is_train: training or inference settings.
    """
    settings = cfg.INPUT
    if not is_train:
        return [T.ResizeShortestEdge(settings.MIN_SIZE_TEST, settings.MAX_SIZE_TEST, "choice")]
    augmentations: list[T.Augmentation] = [
        T.ResizeShortestEdge(
            settings.MIN_SIZE_TRAIN, settings.MAX_SIZE_TRAIN, settings.MIN_SIZE_TRAIN_SAMPLING
        )
    ]
    if settings.RANDOM_FLIP != "none":
        augmentations.append(
            T.RandomFlip(
                horizontal=settings.RANDOM_FLIP == "horizontal",
                vertical=settings.RANDOM_FLIP == "vertical",
            )
        )
    return augmentations


# Name of earlier versions.
build_transform_gen = build_augmentation
