"""Writes rooms in ROCA's layout: images, renderings, COCO-style annotations, CAD database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from scipy.spatial.transform import Rotation

from ..cad_catalog import CadCatalog, CadEntry, occupied_voxels, surface_points
from ..datasets.scan2cad import CLASSES
from .cameras import sample_views
from .encoding import glb_bytes, image_bytes, millimetres, obj_bytes
from .manifest import FileWriter
from .models import TRAIN_VARIANTS, UNSEEN_VARIANTS
from .presets import DatasetArguments
from .render import Renderer
from .rooms import sample_room
from .types import CadModel, Frame, PlacedObject, Scene, View

SPLITS = {"train": TRAIN_VARIANTS, "val": UNSEEN_VARIANTS, "val_seen": TRAIN_VARIANTS}
CATALOG_SPLITS = {"train": TRAIN_VARIANTS, "val": UNSEEN_VARIANTS}

MIN_VISIBLE_SHARE = 0.0025
"""Objects that cover less of the image than this are drawn but not annotated."""

JPEG_QUALITY = 90
FRAME_STEP = 100


def scene_name(split: str, index: int) -> str:
    """ScanNet-like name: unique over the splits and independent of their sizes."""
    return f"scene{len(SPLITS) * index + list(SPLITS).index(split):04d}_00"


def write_room(
    writer: FileWriter, arguments: DatasetArguments, split: str, index: int, num_views: int
) -> dict[str, Any]:
    """Render one room and write its files.

    Args:
        writer: where the files go.
        arguments: of the dataset.
        split: ``"train"``, ``"val"`` or ``"val_seen"``.
        index: of the room within its split.
        num_views: number of images.

    Returns:
        ``scene_id``, ``images`` (records of the annotation file without ids, each with its
        ``annotations``) and ``models`` (the room's objects in the world frame).
    """
    scene = sample_room(arguments.seed, split, index, SPLITS[split])
    views = sample_views(scene, num_views, arguments.size, "rooms")
    renderer = Renderer(scene)
    name = scene_name(split, index)
    images = [
        write_view(writer, name, number * FRAME_STEP, scene, view, renderer.render(view))
        for number, view in enumerate(views)
    ]
    intrinsics = np.eye(4)
    intrinsics[:3, :3] = views[0].intrinsics
    folder = f"Images/tasks/scannet_frames_25k/{name}"
    writer.write_text(f"{folder}/intrinsics_color.txt", matrix_text(intrinsics))
    models = [
        {
            "idx": alignment_id,
            **pose_fields(placed, np.eye(4)),
            "to_scene": np.eye(4).tolist(),
            "category_id": CLASSES.index(placed.model.category),
            "sym": placed.model.symmetry,
            "catid_cad": placed.model.catalog_id,
            "id_cad": placed.model.model_id,
        }
        for alignment_id, _, placed in annotated_objects(scene)
    ]
    return {"scene_id": name, "images": images, "models": models}


def annotated_objects(scene: Scene) -> list[tuple[int, int, PlacedObject]]:
    """(alignment id from 1, index into ``scene.objects``, object) of each annotated object."""
    indices = [index for index, placed in enumerate(scene.objects) if placed.annotated]
    if len(indices) > 255:
        raise ValueError(
            f"{scene.name} has {len(indices)} annotated objects; instance images hold 255."
        )
    return [(number, i, scene.objects[i]) for number, i in enumerate(indices, start=1)]


def write_view(
    writer: FileWriter, name: str, frame_number: int, scene: Scene, view: View, frame: Frame
) -> dict[str, Any]:
    """Write the files of one view; returns its record for the annotation file."""
    objects = annotated_objects(scene)
    alignment_ids = np.zeros(256, dtype=np.uint8)
    for alignment_id, index, _ in objects:
        alignment_ids[index + 1] = alignment_id
    instances = alignment_ids[frame.instance]

    stem = f"{frame_number:06d}"
    image_folder = f"tasks/scannet_frames_25k/{name}"
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    color = image_bytes(".jpg", frame.rgb[..., ::-1], quality)
    writer.write(f"Images/{image_folder}/color/{stem}.jpg", color)
    camera_to_world = matrix_text(np.linalg.inv(view.world_to_camera))
    writer.write_text(f"Images/{image_folder}/pose/{stem}.txt", camera_to_world)
    foreground = instances > 0
    maps = {
        "instance": instances,
        "depth": millimetres(np.where(foreground, frame.depth, 0)),
        "depth_full": millimetres(frame.depth),
        # Stored with x as the first channel, as OpenCV writes it.
        "noc": np.round((np.where(foreground[..., None], frame.nocs, 0) + 1) * 10000),
    }
    for kind, values in maps.items():
        dtype = np.uint8 if kind == "instance" else np.uint16
        writer.write(
            f"Rendering/{name}/{kind}/{stem}.png", image_bytes(".png", values.astype(dtype))
        )

    height, width = view.size
    annotations = [
        _annotation(name, view, frame, instances, alignment_id, index, placed)
        for alignment_id, index, placed in objects
        if frame.visible_pixels[index] >= max(1, MIN_VISIBLE_SHARE * height * width)
    ]
    return {
        "height": height,
        "width": width,
        "scene_id": name,
        "file_name": f"{image_folder}/color/{stem}.jpg",
        "duplicate": False,
        "annotations": annotations,
    }


def _annotation(
    name: str,
    view: View,
    frame: Frame,
    instances: np.ndarray,
    alignment_id: int,
    index: int,
    placed: PlacedObject,
) -> dict[str, Any]:
    mask = mask_util.encode(np.asfortranarray(instances == alignment_id, dtype=np.uint8))
    model = placed.model
    return {
        "bbox": mask_util.toBbox(mask).tolist(),
        "area": int(mask_util.area(mask)),
        "segmentation": {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")},
        "iscrowd": 0,
        "category_id": CLASSES.index(model.category),
        "scene_id": name,
        "is_cad": True,
        "intrinsics": np.round(view.intrinsics, 6).tolist(),
        "duplicate": False,
        "alignment_id": alignment_id,
        **pose_fields(placed, view.world_to_camera),
        "sym": model.symmetry,
        "model": {
            "scene_id": name,
            "catid_cad": model.catalog_id,
            "id_cad": model.model_id,
            "idx": alignment_id,
        },
        "visibility": round(float(frame.visibility[index]), 4),
        "truncation": round(float(frame.truncation[index]), 4),
    }


def pose_fields(placed: PlacedObject, world_to_frame: np.ndarray) -> dict[str, list[float]]:
    """``q`` (w, x, y, z with w >= 0), ``t`` and ``s`` of an object in another frame.

    Args:
        placed: the object, placed in the world.
        world_to_frame: (4, 4) rigid transform.
    """
    rotation = Rotation.from_matrix(world_to_frame[:3, :3] @ placed.rotation)
    translation = world_to_frame[:3, :3] @ placed.translation + world_to_frame[:3, 3]
    x, y, z, w = rotation.as_quat(canonical=True)
    return {
        "q": np.round([w, x, y, z], 9).tolist(),
        "t": np.round(translation, 9).tolist(),
        "s": np.round(placed.scale, 9).tolist(),
    }


def matrix_text(matrix: np.ndarray) -> str:
    """A matrix as lines of numbers, as ScanNet has them."""
    return "".join(" ".join(f"{value:.9f}" for value in row) + "\n" for row in matrix)


def write_room_annotations(
    writer: FileWriter, rooms: Mapping[str, Sequence[dict[str, Any]]]
) -> None:
    """Write the JSON files of all splits.

    Args:
        writer: where the files go.
        rooms: split -> what :func:`write_room` returned for its rooms, in order.
    """
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    for split, scenes in rooms.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image in (image for scene in scenes for image in scene["images"]):
            # Ids count from 1: COCO's evaluation takes a match with annotation 0 for no match.
            image_id = len(images) + 1
            images.append({"id": image_id, **_without(image, "annotations")})
            for annotation in image["annotations"]:
                number = len(annotations) + 1
                annotations.append({"id": number, "image_id": image_id, **annotation})
        data = {
            "info": {"description": f"Embedded rooms, {split}"},
            "categories": categories,
            "images": images,
            "annotations": annotations,
        }
        writer.write_json(f"Dataset/scan2cad_instances_{split}.json", data)
        if split != "train":
            scene_models = {scene["scene_id"]: scene["models"] for scene in scenes}
            writer.write_json(f"Dataset/scan2cad_{split}_scenes.json", scene_models)
    writer.write_json("Dataset/scan2cad_alignment_classes.json", list(CLASSES))


def _without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


def write_room_model(writer: FileWriter, model: CadModel) -> None:
    """Write a model: OBJ and GLB as in ShapeNetCore v2, and a catalogue of this model alone."""
    folder = f"CADs/{model.catalog_id}/{model.model_id}"
    writer.write(f"{folder}/models/model_normalized.obj", obj_bytes(model.vertices, model.faces))
    writer.write(f"{folder}/models/model_normalized.glb", glb_bytes(model))
    category_id = CLASSES.index(model.category)
    entry = CadEntry(
        catalog_id=model.catalog_id,
        model_id=model.model_id,
        category_id=category_id,
        symmetry=model.symmetry,
        vertices=model.vertices,
        faces=model.faces,
        points=surface_points(model.vertices, model.faces, seed=category_id),
        voxels=occupied_voxels(model.vertices, model.faces),
    )
    _write_catalog(writer, f"{folder}/catalog", [entry])


def write_room_catalogs(writer: FileWriter, models: Mapping[str, Sequence[CadModel]]) -> None:
    """Join the catalogues of single models to the CAD database of each split.

    Args:
        writer: where the files go; the models have been written there.
        models: split -> its models.
    """
    for split, chosen in models.items():
        stems = [writer.root / "CADs" / m.catalog_id / m.model_id / "catalog" for m in chosen]
        entries = [entry for stem in stems for entry in CadCatalog.load(stem).entries]
        _write_catalog(writer, f"Dataset/scan2cad_{split}_cads", entries)


def _write_catalog(writer: FileWriter, stem: str, entries: Sequence[CadEntry]) -> None:
    for suffix, content in CadCatalog(entries).to_bytes().items():
        writer.write(f"{stem}{suffix}", content)
