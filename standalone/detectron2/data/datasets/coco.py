"""COCO's instances format: reading, writing and registering."""

import datetime
import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from iopath.common.file_io import file_lock

from ...structures import BoxMode, PolygonMasks
from ...utils.file_io import PathManager
from ..catalog import DatasetCatalog, MetadataCatalog

__all__ = [
    "convert_to_coco_dict",
    "convert_to_coco_json",
    "load_coco_json",
    "register_coco_instances",
]

logger = logging.getLogger(__name__)

_ANNOTATION_KEYS = ("iscrowd", "bbox", "category_id")


def load_coco_json(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Read a COCO instances file; images are not opened.

    Args:
        json_file: path or address of the file.
        image_root: folder that the file names are relative to.
        dataset_name: with a name, category ids become 0..K-1 in the order of the ids of the
            file, and `thing_classes` and `thing_dataset_id_to_contiguous_id` are put into the
            metadata of that name. Without, the ids stay as they are.
        extra_annotation_keys: further keys of annotations to keep, unchanged.

    Returns:
        A record an image, in order of image id: `file_name`, `height`, `width`, `image_id` and
        `annotations`. An annotation has `iscrowd`, `bbox`, `bbox_mode` (XYWH_ABS),
        `category_id`, `segmentation` (polygons or compressed RLE), `keypoints` and the extra
        keys, as far as the file has them. Polygons of fewer than three points are left out,
        and so is an annotation that had only such polygons; both are counted in the log.

    Raises:
        AssertionError: annotation ids appear twice (except in COCO 2014's minival files, which
            are known for it), or an annotation has `ignore` set.
        ValueError: an empty box, an image id that appears twice, or no categories for a name.
        KeyError: a category id that the file does not define.
    """
    with PathManager.open(os.fspath(json_file), "r") as file:
        content = json.load(file)
    images = {image["id"]: image for image in content["images"]}
    if len(images) < len(content["images"]):
        raise ValueError(f"Image ids in '{json_file}' are not unique!")
    annotations = _annotations_by_image(content.get("annotations", ()), images, json_file)
    id_map = None
    if dataset_name is not None:
        id_map = _set_category_metadata(content.get("categories", ()), dataset_name, json_file)

    keys = (*_ANNOTATION_KEYS, *(extra_annotation_keys or ()))
    records, dropped = [], {"polygons": 0, "annotations": 0}
    for image_id in sorted(images):
        image = images[image_id]
        objects = [
            _read_annotation(annotation, keys, id_map, dropped)
            for annotation in annotations[image_id]
        ]
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image_id,
                "annotations": [obj for obj in objects if obj is not None],
            }
        )
    logger.info("Loaded %d images in COCO format from %s", len(records), json_file)
    if dropped["polygons"]:
        logger.warning(
            "Filtered out %d polygons with fewer than three points or an odd number of "
            "coordinates, and %d instances without any valid polygon, of %s.",
            dropped["polygons"],
            dropped["annotations"],
            json_file,
        )
    return records


def _annotations_by_image(
    annotations: Sequence[Mapping[str, Any]], images: Mapping[Any, Any], json_file: Any
) -> Mapping[Any, list[Mapping[str, Any]]]:
    by_image = defaultdict(list)
    ids = set()
    matching = 0
    for annotation in annotations:
        if annotation["image_id"] in images:
            by_image[annotation["image_id"]].append(annotation)
            ids.add(annotation["id"])
            matching += 1
    if matching < len(annotations):
        logger.warning(
            "%s contains %d annotations, but only %d of them match to images in the file.",
            json_file,
            len(annotations),
            matching,
        )
    assert len(ids) == matching or "minival" in str(json_file), (
        f"Annotation ids in '{json_file}' are not unique!"
    )
    return by_image


def _set_category_metadata(
    categories: Sequence[Mapping[str, Any]], dataset_name: str, json_file: Any
) -> dict[int, int]:
    """Put the classes into the metadata; returns dataset id -> contiguous id."""
    if not categories:
        raise ValueError(
            f"'{json_file}' defines no categories, which '{dataset_name}' needs for its classes."
        )
    categories = sorted(categories, key=lambda category: category["id"])
    ids = [category["id"] for category in categories]
    if ids != list(range(1, len(ids) + 1)) and "coco" not in dataset_name:
        logger.warning(
            "Category ids of %s are not 1 to %d. They are mapped to 0 to %d in the order of ids.",
            json_file,
            len(ids),
            len(ids) - 1,
        )
    metadata = MetadataCatalog.get(dataset_name)
    metadata.thing_classes = [category["name"] for category in categories]
    metadata.thing_dataset_id_to_contiguous_id = {id_: i for i, id_ in enumerate(ids)}
    return metadata.thing_dataset_id_to_contiguous_id


def _read_annotation(
    annotation: Mapping[str, Any],
    keys: Sequence[str],
    id_map: Mapping[int, int] | None,
    dropped: dict[str, int],
) -> dict[str, Any] | None:
    """The annotation in detectron2's format; `None` (and counted) if it lost all polygons."""
    where = f"annotation {annotation['id']} of image {annotation['image_id']}"
    assert annotation.get("ignore", 0) == 0, (
        f'"ignore" in COCO json file is not supported ({where}).'
    )
    obj = {key: annotation[key] for key in keys if key in annotation}
    if "bbox" in obj and len(obj["bbox"]) == 0:
        raise ValueError(f"{where} contains empty 'bbox' value! This is not valid COCO format.")
    obj["bbox_mode"] = BoxMode.XYWH_ABS

    if annotation.get("segmentation"):
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, dict):
            if isinstance(segmentation["counts"], list):
                segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
        else:
            valid = [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0]
            dropped["polygons"] += len(segmentation) - len(valid)
            if not valid:
                dropped["annotations"] += 1
                return None
            segmentation = valid
        obj["segmentation"] = segmentation
    if annotation.get("keypoints"):
        # COCO's keypoints are pixel indices, everything else here is continuous coordinates.
        obj["keypoints"] = _shift_keypoints(annotation["keypoints"], 0.5)
    if id_map is not None:
        if obj["category_id"] not in id_map:
            raise KeyError(
                f"Encountered category_id={obj['category_id']} in {where}, but this id does not "
                "exist in 'categories' of the json file."
            )
        obj["category_id"] = id_map[obj["category_id"]]
    return obj


def _shift_keypoints(keypoints: Sequence[float], offset: float) -> list[float]:
    """Move x and y of the (x, y, visibility) triples."""
    return [v if i % 3 == 2 else v + offset for i, v in enumerate(keypoints)]


def convert_to_coco_dict(dataset_name: str) -> dict[str, Any]:
    """A registered data set as the content of a COCO instances file.

    Args:
        dataset_name: registered, with `thing_classes` in its metadata. Contiguous class ids are
            mapped back to those of the file it came from, if it came from one.

    Returns:
        `info`, `images`, `categories`, `licenses` and, unless there are none at all,
        `annotations`; everything can be written as json. The records are not changed.

    Raises:
        ValueError: a box that is not four or five numbers.
        TypeError: a segmentation that is neither polygons nor RLE.
    """
    metadata = MetadataCatalog.get(dataset_name)
    to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    class_ids = range(len(metadata.thing_classes))
    dataset_ids = {i: i for i in class_ids}
    if to_contiguous is not None:
        dataset_ids = {contiguous: id_ for id_, contiguous in to_contiguous.items()}

    images, annotations = [], []
    for index, record in enumerate(DatasetCatalog.get(dataset_name)):
        image_id = record.get("image_id", index)
        images.append(
            {
                "id": image_id,
                "width": int(record["width"]),
                "height": int(record["height"]),
                "file_name": str(record["file_name"]),
            }
        )
        for annotation in record.get("annotations", ()):
            entry = _to_coco_annotation(annotation, dataset_ids)
            # pycocotools takes id 0 for "not matched".
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **entry})
    logger.info(
        "Converted %s: %d images, %d annotations", dataset_name, len(images), len(annotations)
    )
    coco = {
        "info": {
            "date_created": str(datetime.datetime.now()),
            "description": f"Converted from the registered dataset '{dataset_name}'.",
        },
        "images": images,
        "categories": [
            {"id": dataset_ids[i], "name": metadata.thing_classes[i]} for i in class_ids
        ],
        "licenses": None,
    }
    # Evaluators take a file without this key for a test set without ground truth.
    return {**coco, "annotations": annotations} if annotations else coco


def _to_coco_annotation(
    annotation: Mapping[str, Any], dataset_ids: Mapping[int, int]
) -> dict[str, Any]:
    box = annotation["bbox"]
    if isinstance(box, np.ndarray):
        box = box.tolist() if box.ndim == 1 else None
    if box is None or len(box) not in (4, 5):
        raise ValueError(f"bbox has to be 4 or 5 numbers. Got {annotation['bbox']!r}.")
    coco_mode = BoxMode.XYWH_ABS if len(box) == 4 else BoxMode.XYWHA_ABS
    box = [float(v) for v in BoxMode.convert(list(box), annotation["bbox_mode"], coco_mode)]
    entry = {
        "bbox": [round(v, 3) for v in box],
        "area": box[2] * box[3],
        "iscrowd": int(annotation.get("iscrowd", 0)),
        "category_id": int(dataset_ids[annotation["category_id"]]),
    }
    if "keypoints" in annotation:
        keypoints = _shift_keypoints(annotation["keypoints"], -0.5)
        visible = sum(v > 0 for v in keypoints[2::3])
        entry["keypoints"] = keypoints
        entry["num_keypoints"] = annotation.get("num_keypoints", visible)
    if "segmentation" in annotation:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            entry["area"] = float(PolygonMasks([segmentation]).area()[0])
            segmentation = [np.asarray(p, dtype=np.float64).tolist() for p in segmentation]
        elif isinstance(segmentation, dict):
            entry["area"] = float(mask_util.area(segmentation))
            counts = segmentation["counts"]
            if isinstance(counts, bytes):
                segmentation = {**segmentation, "counts": counts.decode("ascii")}
        else:
            raise TypeError(f"Unknown segmentation type {type(segmentation)}!")
        entry["segmentation"] = segmentation
    return entry


def convert_to_coco_json(
    dataset_name: str, output_file: str | os.PathLike, allow_cached: bool = True
) -> None:
    """Write a registered data set as a COCO instances file.

    Args:
        dataset_name: see `convert_to_coco_dict`.
        output_file: path of the file; processes that write the same one wait for each other.
        allow_cached: keep an existing file, whatever is in it (a warning is logged).
    """
    output_file = os.fspath(output_file)
    PathManager.mkdirs(os.path.dirname(output_file) or ".")
    with file_lock(output_file):
        if allow_cached and PathManager.exists(output_file):
            logger.warning(
                "Using previously cached COCO format annotations at '%s'. You need to clear the "
                "cache file if your dataset has been modified.",
                output_file,
            )
            return
        coco = convert_to_coco_dict(dataset_name)
        # Moved into place when it is complete: a reader without the lock never sees half a file.
        temporary = f"{output_file}.tmp"
        with PathManager.open(temporary, "w") as file:
            json.dump(coco, file)
        shutil.move(temporary, output_file)


def register_coco_instances(
    name: str,
    metadata: Mapping[str, Any],
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
) -> None:
    """Register a data set whose annotations are a COCO instances file.

    A name that is registered already keeps its loading function (a warning is logged); the
    metadata is added in any case.

    Args:
        name: name for `DatasetCatalog` and `MetadataCatalog`.
        metadata: further entries of the metadata.
        json_file: COCO instances file; read when the data set is loaded, not now.
        image_root: folder to which the file names in `json_file` are relative.
    """
    assert isinstance(name, str), f"name must be a str, got {name!r}"
    for path in (json_file, image_root):
        assert isinstance(path, str | os.PathLike), f"Expected a path for '{name}', got {path!r}"
    if name in DatasetCatalog:
        logger.warning(
            "Dataset '%s' is already registered and keeps its loading function; '%s' goes into "
            "its metadata only.",
            name,
            json_file,
        )
    else:
        DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata
    )
