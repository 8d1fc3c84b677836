"""Reader of the NOCS folders: CAMERA, REAL, and the embedded tabletops.

Layout below one root::

    {camera,real}/<split>/<folder>/<frame>_{color,mask,coord,depth}.png, <frame>_meta.txt
    {camera,real}/<split>/<folder>/<frame>_label.pkl                  (optional)
    camera_full_depths/<split>/<folder>/<frame>_composed.png          (optional)
    obj_models/<split>/<synset>/<model>/bbox.txt                      (CAMERA)
    obj_models/real_<split>/<name>.txt                                (REAL)
    obj_models/mug_meta.pkl                                           (where mugs are re-centred)
    gts/{val,real_test}/results_{val,real_test}_<folder>_<frame>.pkl  (optional)
    annotations/nocs_{camera,real}_<split>.json                       (made on first use)

The masks of all images have to be read once to know boxes and objects; the result is kept as a
COCO-style file, which also serves as ``json_file`` of detectron2's ``COCOEvaluator``.

Frames: model (y up, unit diagonal, centred), camera (x right, y down, z forward, metres). A model
point p lies at ``R(q) @ (s * p) + t``; the map holds p + 0.5.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from scipy.spatial.transform import Rotation

from ..categories import NOCS_SYNSETS
from ..coco_json import CocoFile, DatasetError, check_files, get_numbers, parse_coco, read_json
from ..published_cameras import nocs_intrinsics
from .nocs_frames import BadSample, NocsFrame, find_frames
from .nocs_models import MUG_META, ModelTable, read_mug_meta
from .nocs_objects import frame_annotations

logger = logging.getLogger(__name__)

CLASSES = tuple(NOCS_SYNSETS)
"""Class id 0 of the files is the background or a distractor; ``CLASSES[i]`` has the id i + 1."""

SYMMETRIC_CLASSES = ("bottle", "bowl", "can")
SYMMETRIES = {name: {"axis": "y", "order": "inf"} for name in SYMMETRIC_CLASSES}
"""As ``roca_nocs.geometry.symmetry.class_rotations`` takes them."""

HANDLE_CLASS = "mug"
"""Symmetric only where its handle is hidden."""

_PROGRESS_SECONDS = 30
_NAMED = 3


def load_nocs_camera(root: str | os.PathLike[str], split: str) -> list[dict[str, Any]]:
    """Records of CAMERA's images; ``split`` is ``"train"`` or ``"val"``. See :func:`load_nocs`."""
    return load_nocs(root, "camera", split)


def load_nocs_real(root: str | os.PathLike[str], split: str) -> list[dict[str, Any]]:
    """Records of REAL's images; ``split`` is ``"train"`` or ``"test"``. See :func:`load_nocs`."""
    return load_nocs(root, "real", split)


def load_nocs(
    root: str | os.PathLike[str],
    dataset: str,
    split: str,
    *,
    labelled_only: bool = False,
    mug_recenter: bool = False,
    coord_z_mirrored: bool = True,
) -> list[dict[str, Any]]:
    """Read one split of a NOCS dataset into detectron2 records.

    Args:
        root: folder that holds ``camera``, ``real``, ``obj_models`` and so on.
        dataset: ``"camera"`` or ``"real"``.
        split: name of the folder below it.
        labelled_only: keep the objects of ``_label.pkl`` files only, and the images with any.
        mug_recenter: put the origin of mugs on the axis of their body, as most methods since 2020
            do: poses, extents and, through ``recentring`` (``shift`` (3,), ``scale``), the maps
            that ``read_map`` returns. The official protocol does not.
        coord_z_mirrored: whether the maps hold 1 - z, as those of the official data; maps that
            users render may hold z.

    Images that lack a file or have one that cannot be used are left out, counted and named in the
    log.

    Returns:
        One dictionary per image: ``layout`` ("nocs"), ``file_name``, ``height``, ``width``,
        ``image_id``, ``scene_id`` (the folder), ``intrinsics`` ((3, 3) float64, pixels),
        ``instance_file_name``, ``nocs_file_name``, ``depth_file_name``,
        (``depth_full_file_name``: objects composed with the background), ``coord_z_mirrored``,
        ``annotations``:
        ``bbox`` (XYWH_ABS), ``bbox_mode``, ``category_id`` (0-5), ``iscrowd``, ``segmentation``,
        ``alignment_id`` (the object's value in the mask), ``model`` ({``catid_cad``,
        ``id_cad``}), ``extents`` (of the model with unit diagonal), ``sym``, ``annotation_id``,
        and, where poses are known, ``q`` (w, x, y, z), ``t`` (metres), ``s`` (the diagonal in
        metres, three times), ``handle_visible``, ``labelled`` (in a label file).

    Raises:
        DatasetError: names the file, the record and the field.
    """
    root = Path(root)
    base = root / dataset / split
    if not base.is_dir():
        raise DatasetError(f"{root}: there is no folder {dataset}/{split}.")
    frames, incomplete = find_frames(root, dataset, split)
    if incomplete:
        logger.warning(
            "%s: left out %d images that lack one of their files, first: %s.",
            base,
            len(incomplete),
            incomplete[0],
        )
    if not frames:
        raise DatasetError(f"{base} holds no complete image.")
    coco = _read_or_build_index(root, dataset, split, frames)
    has_full_depth = (root / f"{dataset}_full_depths" / split).is_dir()
    if not coco.images:
        raise DatasetError(f"{base} holds no image that can be used.")
    records = [_record(image, coco, root, dataset, has_full_depth) for image in coco.images]
    for record in records:
        record["coord_z_mirrored"] = coord_z_mirrored
    if labelled_only:
        records = _labelled(records, base)
    if mug_recenter:
        _recentre_mugs(records, root)
    if has_full_depth:
        paths = (record["depth_full_file_name"] for record in records)
        check_files(paths, "composed depth", str(root))
    counts = Counter(CLASSES[a["category_id"]] for r in records for a in r["annotations"])
    logger.info("%s: %d images, objects: %s.", base, len(records), dict(sorted(counts.items())))
    return records


def nocs_index_file(root: str | os.PathLike[str], dataset: str, split: str) -> Path:
    """The COCO-style file that keeps what the masks of a split hold."""
    return Path(root) / "annotations" / f"nocs_{dataset}_{split}.json"


def build_nocs_index(frames: Sequence[NocsFrame]) -> dict[str, Any]:
    """Read masks, object lists and poses of all images into a COCO-style dictionary.

    ``left_out`` holds the stems of the images that cannot be used, with the reasons, if there are
    any.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    models = ModelTable()
    problems: list[str] = []
    left_out: dict[str, str] = {}
    reported = time.monotonic()
    for frame in frames:
        try:
            content = frame_annotations(frame, models, len(CLASSES))
        except BadSample as error:
            left_out[frame.stem] = str(error)
            continue
        if content["pose_problem"] is not None:
            problems.append(content["pose_problem"])
        image_id = len(images) + 1
        images.append(
            {
                "id": image_id,
                "file_name": f"{frame.stem}_color.png",
                "height": content["height"],
                "width": content["width"],
                "scene_id": frame.folder,
            }
        )
        for annotation in content["annotations"]:
            # Ids count from 1: COCO's evaluation takes a match with annotation 0 for no match.
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
        if time.monotonic() - reported > _PROGRESS_SECONDS:
            reported = time.monotonic()
            logger.info("Read the masks of %d of %d images.", len(images), len(frames))
    if problems:
        logger.warning(
            "The published poses of %d of %d images are not used, first: %s.",
            len(problems),
            len(frames),
            problems[0],
        )
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    return {
        "info": {"description": "Objects of NOCS images, read from their masks"},
        "categories": categories,
        "images": images,
        "annotations": annotations,
        **({"left_out": left_out} if left_out else {}),
    }


def _read_or_build_index(
    root: Path, dataset: str, split: str, frames: Sequence[NocsFrame]
) -> CocoFile:
    """The index; made again where it does not list exactly the frames found on disk."""
    path = nocs_index_file(root, dataset, split)
    stems = [frame.stem for frame in frames]
    if path.is_file():
        data = read_json(path)
        coco = parse_coco(data, path)
        left_out = data.get("left_out", {})
        listed = [image["file_name"].removesuffix("_color.png") for image in coco.images]
        if listed == [stem for stem in stems if stem not in left_out] and {*left_out} <= {*stems}:
            _log_left_out(left_out, len(stems), path)
            return coco
        logger.warning("%s does not list the images on disk; it is made again.", path)
    data = build_nocs_index(frames)
    _log_left_out(data.get("left_out", {}), len(stems), path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
        temporary.write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        logger.warning("Cannot keep %s (%s): it is made again by every run.", path, error)
    return parse_coco(data, path)


def _log_left_out(left_out: Mapping[str, str], count: int, index: Path) -> None:
    if left_out:
        logger.warning(
            "Left out %d of %d images that cannot be used, first: %s. Once they are repaired, "
            "delete %s.",
            len(left_out),
            count,
            " ".join([*left_out.values()][:_NAMED]),
            index,
        )


def _record(
    image: Mapping[str, Any], coco: CocoFile, root: Path, dataset: str, has_full_depth: bool
) -> dict[str, Any]:
    color = os.path.join(root, *image["file_name"].split("/"))
    stem = color.removesuffix("color.png")
    record = {
        "layout": "nocs",
        "file_name": color,
        "height": image["height"],
        "width": image["width"],
        "image_id": image["id"],
        "scene_id": image["scene_id"],
        "intrinsics": nocs_intrinsics((image["height"], image["width"]), dataset),
        "instance_file_name": f"{stem}mask.png",
        "nocs_file_name": f"{stem}coord.png",
        "depth_file_name": f"{stem}depth.png",
        "annotations": [
            _annotation(annotation, f"{coco.path}: annotation {annotation['id']}")
            for annotation in coco.annotations.get(image["id"], ())
        ],
    }
    if has_full_depth:
        _, *parts = image["file_name"].removesuffix("color.png").split("/")
        record["depth_full_file_name"] = os.path.join(
            root, f"{dataset}_full_depths", *parts[:-1], f"{parts[-1]}composed.png"
        )
    return record


def _annotation(annotation: Mapping[str, Any], where: str) -> dict[str, Any]:
    name = CLASSES[annotation["category_id"] - 1]
    handle_hidden = name == HANDLE_CLASS and not annotation.get("handle_visible", True)
    round_object = name in SYMMETRIC_CLASSES or handle_hidden
    kept = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": annotation["category_id"] - 1,
        "iscrowd": annotation["iscrowd"],
        "segmentation": annotation["segmentation"],
        "annotation_id": annotation["id"],
        "alignment_id": annotation["alignment_id"],
        "model": annotation["model"],
        "extents": get_numbers(annotation, "extents", (3,), where),
        "sym": "__SYM_ROTATE_UP_INF" if round_object else "__SYM_NONE",
    }
    if "q" in annotation:
        for field, length in (("q", 4), ("t", 3), ("s", 3)):
            kept[field] = get_numbers(annotation, field, (length,), where)
        kept["handle_visible"] = annotation["handle_visible"]
        kept["labelled"] = annotation.get("labelled", False)
    return kept


def _labelled(records: Sequence[dict[str, Any]], base: Path) -> list[dict[str, Any]]:
    """The images with objects of label files, and these objects."""
    kept = []
    for record in records:
        annotations = [each for each in record["annotations"] if each.get("labelled")]
        if annotations:
            kept.append({**record, "annotations": annotations})
    if not kept:
        raise DatasetError(
            f"{base} has no objects with label files. Write them with: python "
            "datasets/prepare_nocs.py; where they exist, delete the index in annotations/."
        )
    return kept


def _recentre_mugs(records: Sequence[dict[str, Any]], root: Path) -> None:
    table = read_mug_meta(root)
    for annotation in (each for record in records for each in record["annotations"]):
        if CLASSES[annotation["category_id"]] != HANDLE_CLASS:
            continue
        model_id = annotation["model"]["id_cad"]
        if model_id not in table:
            raise DatasetError(f"{root / MUG_META} does not list the mug {model_id}.")
        recentring = table[model_id]
        annotation["recentring"] = {
            "shift": recentring.shift.tolist(),
            "scale": recentring.scale,
        }
        annotation["extents"] = recentring.extents(np.array(annotation["extents"])).tolist()
        if "q" in annotation:
            w, x, y, z = annotation["q"]
            translation, scale = recentring.pose(
                Rotation.from_quat([x, y, z, w]).as_matrix(),
                np.array(annotation["t"]),
                annotation["s"][0],
            )
            annotation["t"], annotation["s"] = translation.tolist(), [scale] * 3
