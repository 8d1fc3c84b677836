"""Writes tabletops in the NOCS layout: CAMERA and REAL folders, models, ground-truth poses."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ..cad_catalog import surface_points
from ..datasets.nocs import CLASSES, HANDLE_CLASS, build_nocs_index, nocs_index_file
from ..datasets.nocs_frames import BACKGROUND, MAX_INSTANCES, NocsFrame, find_frames
from ..datasets.nocs_models import HANDLE_SHARE, MUG_META, mug_meta_bytes, recentring_of
from .cameras import sample_views
from .encoding import image_bytes, millimetres, obj_bytes
from .manifest import FileWriter
from .models import TRAIN_VARIANTS, UNSEEN_VARIANTS
from .presets import FRAMES_PER_FOLDER, DatasetArguments
from .render import Renderer
from .tabletop import sample_tabletop
from .types import CadModel, Frame, PlacedObject, Scene, View

SPLITS = {
    "camera/train": TRAIN_VARIANTS,
    "camera/val": UNSEEN_VARIANTS,
    "real/train": TRAIN_VARIANTS,
    "real/test": UNSEEN_VARIANTS,
}
GTS_SUBSETS = {"camera/val": "val", "real/test": "real_test"}


def folder_of(split: str, index: int) -> str:
    """Folder of a split's group of frames, e.g. ``00003`` or ``scene_4``."""
    return f"{index:05d}" if split.startswith("camera") else f"scene_{index + 1}"


def write_folder(
    writer: FileWriter, arguments: DatasetArguments, split: str, index: int, num_frames: int
) -> dict[str, Any]:
    """Render one folder of up to ten frames and write its files.

    Each CAMERA frame shows a tabletop of its own, the frames of a REAL folder show the same one.

    Args:
        writer: where the files go.
        arguments: of the dataset.
        split: e.g. ``"camera/train"``.
        index: of the folder within its split.
        num_frames: number of images.

    Returns:
        For REAL, ``mugs``: name of the model file -> id of the CAD model.
    """
    dataset, subset = split.split("/")
    folder = folder_of(split, index)
    if dataset == "camera":
        first = index * FRAMES_PER_FOLDER
        scenes = [(number, 1) for number in range(first, first + num_frames)]
    else:
        scenes = [(index, num_frames)]
    number = 0
    for scene_index, num_views in scenes:
        scene = sample_tabletop(arguments.seed, split, scene_index, SPLITS[split])
        renderer = Renderer(scene)
        for view in sample_views(scene, num_views, arguments.size, "tabletop", dataset):
            place = NocsFrame(writer.root, dataset, subset, folder, f"{number:04d}")
            frame = renderer.render(view)
            write_frame(writer, place, scene, view, frame, two_bytes=index % 2 == 1)
            number += 1
    if dataset == "camera":
        return {}
    return {"mugs": _write_real_models(writer, scene, subset, folder)}


def write_frame(
    writer: FileWriter, place: NocsFrame, scene: Scene, view: View, frame: Frame, two_bytes: bool
) -> None:
    """Write the files of one image.

    Args:
        writer: where the files go.
        place: names of the files.
        scene: what was drawn.
        view: from where.
        frame: the result.
        two_bytes: store depth as 8-bit colours (256 G + R) instead of 16 bits.
    """
    objects = scene.objects
    if len(objects) > MAX_INSTANCES:
        raise ValueError(f"{scene.name} has {len(objects)} objects; a mask holds {MAX_INSTANCES}.")
    drawn = frame.instance > 0
    if drawn.all():
        raise ValueError(f"{place.stem}: no background pixel, which the mask format demands.")
    stem = place.stem

    color = frame.rgb[..., ::-1]
    writer.write(f"{stem}_color.png", image_bytes(".png", color))
    mask = np.zeros((*drawn.shape, 3), dtype=np.uint8)
    mask[..., 2] = frame.instance  # red
    mask[~drawn] = BACKGROUND
    writer.write(f"{stem}_mask.png", image_bytes(".png", mask))
    writer.write(f"{stem}_coord.png", image_bytes(".png", encode_coordinates(frame.nocs, drawn)))
    writer.write_text(f"{stem}_meta.txt", _meta_text(objects, place))

    depth = millimetres(frame.depth)
    if place.dataset == "camera":
        # CAMERA's own depth knows the pasted objects only; the composed one is a separate tree.
        name = f"camera_full_depths/{stem.removeprefix('camera/')}_composed.png"
        writer.write(name, image_bytes(".png", encode_depth(depth, two_bytes)))
        depth = np.where(drawn, depth, 0).astype(np.uint16)
    writer.write(f"{stem}_depth.png", image_bytes(".png", encode_depth(depth, two_bytes)))
    _write_poses(writer, place, objects, view, frame)


def encode_coordinates(nocs: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """A NOCS map as 8-bit colours in OpenCV's order (blue first).

    Red, green, blue hold x, y and the mirrored z; white where nothing is drawn.

    Args:
        nocs: (H, W, 3) in [-0.5, 0.5].
        drawn: (H, W) bool.
    """
    colors = nocs + 0.5
    colors[..., 2] = 1 - colors[..., 2]
    colors = np.round(np.clip(colors, 0, 1) * 255).astype(np.uint8)
    colors[~drawn] = 255
    return colors[..., ::-1]


def encode_depth(depth: np.ndarray, two_bytes: bool) -> np.ndarray:
    """Depth in one of the two published encodings, colours in OpenCV's order.

    Args:
        depth: (H, W) uint16 millimetres.
        two_bytes: (H, W, 3) uint8 with the high byte in green and the low byte in red; otherwise
            the 16 bits as they are.
    """
    if not two_bytes:
        return depth
    colors = np.zeros((*depth.shape, 3), dtype=np.uint8)
    colors[..., 1] = depth >> 8
    colors[..., 2] = depth & 255
    return colors


def class_id(placed: PlacedObject) -> int:
    """1 to 6, and 0 for a distractor."""
    return CLASSES.index(placed.model.category) + 1 if placed.annotated else 0


def _meta_text(objects: Sequence[PlacedObject], place: NocsFrame) -> str:
    lines = []
    for number, placed in enumerate(objects, start=1):
        if place.dataset == "camera":
            model = f"{placed.model.catalog_id} {placed.model.model_id}"
        else:
            model = real_model_name(placed, place.folder, number)
        lines.append(f"{number} {class_id(placed)} {model}\n")
    return "".join(lines)


def real_model_name(placed: PlacedObject, folder: str, number: int) -> str:
    """REAL's models are single objects of known size, so each one in a scene has its own name."""
    return f"{placed.model.model_id}_{folder}_{number}"


def _write_poses(
    writer: FileWriter,
    place: NocsFrame,
    objects: Sequence[PlacedObject],
    view: View,
    frame: Frame,
) -> None:
    """``_pose.npz`` for every image, the published pickle for validation and test."""
    kept = [i for i, placed in enumerate(objects) if placed.annotated and frame.visible_pixels[i]]
    poses = np.zeros((len(kept), 4, 4))
    scales = np.zeros(len(kept))
    visible = np.ones(len(kept), dtype=np.int64)
    for row, index in enumerate(kept):
        placed = objects[index]
        scales[row] = uniform_scale(placed)
        poses[row] = view.world_to_camera @ _object_to_world(placed)
        if placed.model.category == HANDLE_CLASS:
            visible[row] = handle_visible(placed.model, frame.nocs[frame.instance == index + 1])
    buffer = io.BytesIO()
    np.savez(
        buffer,
        instance_ids=np.array(kept, dtype=np.int64) + 1,
        rotations=poses[:, :3, :3],
        translations=poses[:, :3, 3],
        scales=scales,
        handle_visibility=visible,
    )
    writer.write(f"{place.stem}_pose.npz", buffer.getvalue())
    if f"{place.dataset}/{place.split}" in GTS_SUBSETS:
        transforms = poses.copy()
        transforms[:, :3, :3] *= scales[:, None, None]
        content = {
            "gt_RTs": transforms,
            "image_path": place.stem,
            "handle_visibility": visible,
        }
        name = place.gts_file.relative_to(place.root).as_posix()
        writer.write(name, pickle.dumps(content, protocol=4))


def uniform_scale(placed: PlacedObject) -> float:
    """The one scale of an object, metres per model unit.

    Raises:
        ValueError: the scales along the axes differ, which a NOCS pose cannot express.
    """
    scale = float(placed.scale[0])
    if not np.allclose(placed.scale, scale, rtol=1e-6):
        raise ValueError(f"{placed.model.model_id}: the scale {placed.scale} is not uniform.")
    return scale


def _object_to_world(placed: PlacedObject) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = placed.rotation
    matrix[:3, 3] = placed.translation
    return matrix


def handle_visible(model: CadModel, points: np.ndarray) -> bool:
    """Whether enough of a mug's visible surface belongs to its handle.

    Args:
        model: a model with a part named ``"handle"``.
        points: (K, 3) visible surface points, model frame.
    """
    handle = model.face_parts == model.part_names.index("handle")
    trees = [
        cKDTree(surface_points(model.vertices, model.faces[part], seed=0, count=4096))
        for part in (handle, ~handle)
    ]
    to_handle, to_body = (tree.query(points)[0] for tree in trees)
    return bool(len(points) and (to_handle < to_body).mean() >= HANDLE_SHARE)


def write_camera_model(writer: FileWriter, model: CadModel, train: bool) -> None:
    """Write a model and its extents as CAMERA has them."""
    # The published meshes need z negated to agree with the maps.
    mirrored = model.vertices * np.array([1, 1, -1], dtype=np.float32)
    folder = f"obj_models/{'train' if train else 'val'}/{model.catalog_id}/{model.model_id}"
    writer.write(f"{folder}/model.obj", obj_bytes(mirrored, model.faces[:, ::-1]))
    rows = mirrored.max(axis=0), mirrored.min(axis=0)
    text = "".join(" ".join(f"{value:.8f}" for value in row) + "\n" for row in rows)
    writer.write_text(f"{folder}/bbox.txt", text)


def _write_real_models(
    writer: FileWriter, scene: Scene, subset: str, folder: str
) -> dict[str, str]:
    """Write the annotated objects of a scene as REAL has its models: unit mesh, metric extents."""
    mugs = {}
    for number, placed in enumerate(scene.objects, start=1):
        if not placed.annotated:
            continue
        model = placed.model
        name = real_model_name(placed, folder, number)
        stem = f"obj_models/real_{subset}/{name}"
        writer.write(f"{stem}.obj", obj_bytes(model.vertices, model.faces))
        extents = np.ptp(model.vertices, axis=0) * uniform_scale(placed)
        writer.write_text(f"{stem}.txt", " ".join(f"{value:.8f}" for value in extents) + "\n")
        if model.category == HANDLE_CLASS:
            mugs[name] = model.model_id
    return mugs


def write_tabletop_annotations(
    writer: FileWriter, mugs: Sequence[CadModel], folders: Sequence[dict[str, Any]]
) -> None:
    """Write what belongs to the whole dataset: the mugs' re-centring and the indices.

    Args:
        writer: where the files go.
        mugs: the CAD models of mugs.
        folders: what :func:`write_folder` returned.
    """
    recentrings = {mug.model_id: recentring_of(mug.vertices, mug.model_id) for mug in mugs}
    for folder in folders:
        for name, model_id in folder.get("mugs", {}).items():
            recentrings[name] = recentrings[model_id]
    writer.write(MUG_META, mug_meta_bytes(recentrings))
    for split in SPLITS:
        dataset, subset = split.split("/")
        if (writer.root / dataset / subset).is_dir():
            frames, _ = find_frames(writer.root, dataset, subset)
            index = nocs_index_file(writer.root, dataset, subset)
            writer.write_json(index.relative_to(writer.root).as_posix(), build_nocs_index(frames))
