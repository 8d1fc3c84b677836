"""Writes streets in KITTI's layout, and the same annotations as Omni3D files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from ..datasets.box3d_records import heading, wrap_angle
from ..datasets.kitti import CLASSES
from ..datasets.kitti_files import DONT_CARE, KittiLabels, calibration_text, label_text
from .encoding import image_bytes
from .manifest import FileWriter
from .models import CATEGORIES, TRAIN_VARIANTS, UNSEEN_VARIANTS
from .presets import IMAGES_PER_TASK, DatasetArguments
from .render import Renderer
from .street import sample_street, street_camera, street_view
from .types import Frame, PlacedObject, Scene, View
from .visibility import clipped_box

SPLITS = {"train": TRAIN_VARIANTS, "val": UNSEEN_VARIANTS}
FIRST_IMAGE = {"train": 0, "val": 500000}
"""Numbers of images are unique over the splits and independent of their sizes."""

MIN_HEIGHT_SHARE = 0.0625
MIN_VISIBLE_SHARE = 0.0002
"""Objects whose box is lower, or whose visible pixels are fewer, as shares of the image, are
DontCare areas."""

# Object axes (length, height down, width) -> model axes (x right, y up, front -z).
_OBJECT_TO_MODEL = np.array([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
# Corners v0..v7 by the signs along length, height and width, and the edges between them.
CORNER_SIGNS = np.array(
    [
        *((-1, -1, -1), (1, -1, -1), (1, 1, -1), (-1, 1, -1)),
        *((-1, -1, 1), (1, -1, 1), (1, 1, 1), (-1, 1, 1)),
    ]
)
_EDGES = np.array(
    [
        (a, b, b)
        for a, b in product(range(8), repeat=2)
        if a < b and np.abs(CORNER_SIGNS[a] - CORNER_SIGNS[b]).sum() == 2
    ]
)
_STEREO = 0.54  # metres between the cameras of a pair
OMNI3D_CATEGORIES = (*CATEGORIES["street"], "dontcare")
"""Names by category id."""


def image_number(split: str, index: int) -> int:
    """Number of an image in the file names."""
    return FIRST_IMAGE[split] + index


def write_images(
    writer: FileWriter, arguments: DatasetArguments, split: str, index: int, num_images: int
) -> dict[str, Any]:
    """Render one group of images and write their files.

    Args:
        writer: where the files go.
        arguments: of the dataset.
        split: ``"train"`` or ``"val"``.
        index: of the group within its split.
        num_images: number of images of the group.

    Returns:
        ``images``: for each image its record of the Omni3D file, with ``annotations`` without ids.
    """
    images = []
    for number in range(
        index * IMAGES_PER_TASK["street"], index * IMAGES_PER_TASK["street"] + num_images
    ):
        scene = sample_street(arguments.seed, split, number, SPLITS[split])
        view = street_view(scene, arguments.size)
        frame = Renderer(scene).render(view)
        images.append(write_image(writer, image_number(split, number), scene, view, frame))
    return {"images": images}


def write_image(
    writer: FileWriter, number: int, scene: Scene, view: View, frame: Frame
) -> dict[str, Any]:
    """Write the image, its labels and its calibration; returns its record for the Omni3D file."""
    name = f"{number:06d}"
    image = image_bytes(".png", frame.rgb[..., ::-1])
    writer.write(f"training/image_2/{name}.png", image)
    offset = street_camera(scene.seed).offset
    intrinsics = box_intrinsics(view.intrinsics)
    writer.write_text(
        f"training/calib/{name}.txt", calibration_text(calibration(intrinsics, offset))
    )
    objects = [
        _describe(index, placed, intrinsics, view, frame)
        for index, placed in enumerate(scene.objects)
        if frame.visible_pixels[index]
    ]
    writer.write_text(f"training/label_2/{name}.txt", label_text(kitti_labels(objects, offset)))
    height, width = view.size
    return {
        "id": number,
        "dataset_id": 0,
        "width": width,
        "height": height,
        "file_path": f"training/image_2/{name}.png",
        "K": intrinsics.tolist(),
        "src_90_rotate": 0,
        "src_flagged": False,
        "annotations": objects,
    }


def box_intrinsics(intrinsics: np.ndarray) -> np.ndarray:
    """Intrinsics whose pixel i spans [i, i + 1], as boxes have it, of ones with integer centres."""
    shifted = intrinsics.copy()
    shifted[:2, 2] += 0.5
    return shifted


def calibration(intrinsics: np.ndarray, offset: np.ndarray) -> dict[str, np.ndarray]:
    """The matrices of a calibration file.

    Args:
        intrinsics: (3, 3) of all cameras.
        offset: (3,) metres from the rectified reference camera to the camera of the images.
    """
    pair = np.array([_STEREO, 0.0, 0.0])
    offsets = {"P0": np.zeros(3), "P1": -pair, "P2": offset, "P3": offset - pair}
    matrices = {
        name: intrinsics @ np.column_stack([np.eye(3), shift]) for name, shift in offsets.items()
    }
    # The lidar: x ahead, y left, z up, at the place of the reference camera.
    axes = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    matrices["R0_rect"] = np.eye(3)
    matrices["Tr_velo_to_cam"] = np.column_stack([axes, np.zeros(3)])
    matrices["Tr_imu_to_velo"] = np.eye(3, 4)
    return matrices


def _describe(
    index: int, placed: PlacedObject, intrinsics: np.ndarray, view: View, frame: Frame
) -> dict[str, Any]:
    """An annotation of the Omni3D file, without ids."""
    height, width = view.size
    limits = np.array([width, height, width, height])
    drawn = np.clip(frame.amodal_boxes[index].astype(np.float64), 0.0, limits)
    labelled = (
        placed.annotated
        and drawn[3] - drawn[1] > MIN_HEIGHT_SHARE * height
        and frame.visible_pixels[index] >= MIN_VISIBLE_SHARE * height * width
    )
    category = placed.model.category if labelled else "dontcare"
    to_camera = view.world_to_camera[:3, :3] @ placed.rotation
    center = view.world_to_camera[:3, :3] @ placed.translation + view.world_to_camera[:3, 3]
    size = np.ptp(placed.model.vertices.astype(np.float64), axis=0) * placed.scale
    rotation = to_camera @ _OBJECT_TO_MODEL
    corners = center + (0.5 * CORNER_SIGNS * size[[2, 1, 0]]) @ rotation.T
    # Its pixels are already those of boxes, hence the half pixel taken off again.
    whole = clipped_box(corners, _EDGES, intrinsics) - 0.5
    known = {
        "valid3D": bool(labelled),
        "bbox2D_tight": _rounded(drawn, 3),
        "bbox2D_proj": _rounded(whole, 3),
        "bbox2D_trunc": _rounded(np.clip(whole, 0.0, limits), 3),
        "bbox3D_cam": _rounded(corners, 6),
        "center_cam": _rounded(center, 6),
        "dimensions": _rounded(size, 6),
        "R_cam": _rounded(rotation, 9),
        "behind_camera": bool(center[2] <= 0.0),
    }
    return {
        "category_id": OMNI3D_CATEGORIES.index(category),
        "category_name": category,
        "dataset_id": 0,
        **known,
        "visibility": round(float(frame.visibility[index]), 4),
        "truncation": round(float(frame.truncation[index]), 4),
        "segmentation_pts": int(frame.visible_pixels[index]),
        "lidar_pts": -1,
        "depth_error": -1,
    }


def _rounded(values: np.ndarray, decimals: int) -> Any:
    # Adding zero turns -0.0 into 0.0.
    return (np.round(values, decimals) + 0.0).tolist()


def kitti_labels(objects: Sequence[Mapping[str, Any]], offset: np.ndarray) -> KittiLabels:
    """Annotations of an image as lines of a label file.

    Args:
        objects: of the Omni3D file, in the frame of the image's camera.
        offset: (3,) metres, subtracted to get to the reference camera.
    """
    cared = np.array([entry["valid3D"] for entry in objects], dtype=bool)
    count = len(objects)
    centers = _column(objects, "center_cam", 3) - offset
    rotations = _column(objects, "R_cam", 3, 3)
    rotation_y = np.array([heading(rotation) for rotation in rotations])
    alpha = [
        wrap_angle(yaw - np.arctan2(center[0], center[2]))
        for yaw, center in zip(rotation_y, centers, strict=True)
    ]
    bottom = np.full((count, 3), -1000.0)
    bottom[:, 1] += 0.5  # label_text adds half the height, here -1
    return KittiLabels(
        types=tuple(
            CLASSES[entry["category_id"]] if entry["valid3D"] else DONT_CARE for entry in objects
        ),
        truncation=np.where(cared, _column(objects, "truncation"), -1.0),
        occlusion=np.where(cared, [occlusion_level(e["visibility"]) for e in objects], -1),
        alpha=np.where(cared, alpha, -10.0),
        boxes=_column(objects, "bbox2D_tight", 4),
        dimensions=np.where(cared[:, None], _column(objects, "dimensions", 3), -1.0),
        centers=np.where(cared[:, None], centers, bottom),
        rotation_y=np.where(cared, rotation_y, -10.0),
        scores=np.full(count, np.nan),
    )


def _column(objects: Sequence[Mapping[str, Any]], field: str, *shape: int) -> np.ndarray:
    """(N, *shape) float64."""
    return np.array([entry[field] for entry in objects], dtype=np.float64).reshape(-1, *shape)


def occlusion_level(visibility: float) -> int:
    """KITTI's 0 (fully visible) to 2 (largely occluded) and 3 (unknown), of a visible share."""
    return int(np.searchsorted([-0.8, -0.4, -0.15], -visibility, side="right"))


def write_street_annotations(
    writer: FileWriter, contents: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Write what belongs to the whole dataset: lists of the splits and Omni3D files.

    Args:
        writer: where the files go.
        contents: split -> what :func:`write_images` returned for each group.
    """
    categories = [
        {"id": number, "name": name, "supercategory": "street"}
        for number, name in enumerate(OMNI3D_CATEGORIES)
    ]
    listed: list[str] = []
    for split, groups in contents.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image in (image for group in groups for image in group["images"]):
            images.append({key: value for key, value in image.items() if key != "annotations"})
            for entry in image["annotations"]:
                ids = {"id": len(annotations) + 1, "image_id": image["id"]}
                annotations.append({**ids, **entry})
        names = [f"{image['id']:06d}\n" for image in images]
        listed += names
        writer.write_text(f"ImageSets/{split}.txt", "".join(names))
        info = {
            "id": 0,
            "source": "street",
            "name": f"street_{split}",
            "split": split,
            "version": "1",
            "url": "",
        }
        data = {
            "info": info,
            "images": images,
            "categories": categories,
            "annotations": annotations,
        }
        writer.write_json(omni3d_file(split), data)
    writer.write_text("ImageSets/trainval.txt", "".join(listed))


def omni3d_file(split: str) -> str:
    """Path of a split's Omni3D file."""
    return f"Omni3D/street_{split}.json"
