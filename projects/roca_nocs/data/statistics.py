"""Counts over the records of a dataset: objects, classes, sizes, occlusion, truncation, depth.

Objects are the annotations that are no crowds, as training sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from scipy.spatial.transform import Rotation

from roca_nocs.data.cad_meshes import Mesh
from roca_nocs.data.images import describe
from roca_nocs.data.maps import read_map
from roca_nocs.data.synthetic.render import render_silhouettes
from roca_nocs.data.synthetic.visibility import clipped_box, truncation

Record = Mapping[str, Any]

DEPTH_BIN = 0.05
"""Width of the bins of depth, metres."""


@dataclass(frozen=True, eq=False)
class DatasetStatistics:
    """What was counted over R images with N objects of K classes.

    Attributes:
        classes: K names.
        objects_per_image: (R,) int64.
        instances_per_class: (K,) int64.
        box_shares: (N,) float64, area of the box over the area of the image.
        visibility: (M,) float64, visible pixels over pixels of the object drawn alone, of the
            objects of which it is known.
        truncation: (M,) float64, share of the unclipped box of the object outside the image.
        depth_counts: (B,) int64, pixels with a measured depth in bins of ``DEPTH_BIN`` from 0;
            empty where the dataset has no depth maps.
        depth_limits: smallest and largest measured depth, metres; zeros where there is none.
    """

    classes: tuple[str, ...]
    objects_per_image: np.ndarray
    instances_per_class: np.ndarray
    box_shares: np.ndarray
    visibility: np.ndarray
    truncation: np.ndarray
    depth_counts: np.ndarray
    depth_limits: tuple[float, float]


def collect_statistics(
    records: Sequence[Record],
    classes: Sequence[str],
    mesh: Callable[[str, str], Mesh] | None = None,
) -> DatasetStatistics:
    """Count over the records of a dataset.

    Visibility and truncation are taken from the annotations that have fields of these names, else
    computed from posed CAD models (see :func:`occlusion_from_models`), else left out. Depth is that
    of ``depth_full`` where the records have it, else of ``depth``.

    Args:
        records: detectron2 records.
        classes: names by ``category_id``.
        mesh: from (catalogue id, model id) to the mesh, see ``roca_nocs.data.cad_meshes``.

    Raises:
        ValueError: a file cannot be read or a category id is out of range; names the record.
    """
    occlusion = [np.empty((0, 2)), *(_occlusion(record, mesh) for record in records)]
    visible, outside = np.concatenate(occlusion).T
    counts, limits = depth_histogram(_depth_maps(records))
    return DatasetStatistics(
        classes=tuple(classes),
        objects_per_image=objects_per_image(records),
        instances_per_class=instances_per_class(records, len(classes)),
        box_shares=box_shares(records),
        visibility=visible,
        truncation=outside,
        depth_counts=counts,
        depth_limits=limits,
    )


def objects(record: Record) -> list[dict[str, Any]]:
    """The annotations of a record that are no crowds."""
    return [each for each in record["annotations"] if not each.get("iscrowd", 0)]


def objects_per_image(records: Sequence[Record]) -> np.ndarray:
    """(R,) int64."""
    return np.array([len(objects(record)) for record in records], dtype=np.int64)


def instances_per_class(records: Sequence[Record], num_classes: int) -> np.ndarray:
    """(K,) int64.

    Raises:
        ValueError: a category id is not one of 0 to K - 1.
    """
    counts = np.zeros(num_classes, dtype=np.int64)
    for record in records:
        for annotation in objects(record):
            category = annotation["category_id"]
            if not 0 <= category < num_classes:
                raise ValueError(
                    f"{describe(record)}: category_id is {category}; the dataset has the "
                    f"{num_classes} classes 0 to {num_classes - 1}"
                )
            counts[category] += 1
    return counts


def box_shares(records: Sequence[Record]) -> np.ndarray:
    """(N,) float64, area of each box over the area of its image."""
    shares = []
    for record in records:
        pixels = record["height"] * record["width"]
        for annotation in objects(record):
            box = list(map(float, annotation["bbox"]))
            _, _, width, height = BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYWH_ABS)
            shares.append(width * height / pixels)
    return np.array(shares, dtype=np.float64)


def bin_shares(values: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Share of the values in each bin [a, b), the last one [a, b].

    Args:
        values: (N,), none outside the edges.
        edges: B + 1 numbers in ascending order.

    Returns:
        (B,) float64 that sum to 1; zeros where there are no values.

    Raises:
        ValueError: a value lies outside the edges.
    """
    counts, _ = np.histogram(values, edges)
    if counts.sum() != len(values):
        raise ValueError(
            f"values from {values.min():.4g} to {values.max():.4g} do not all lie within the edges "
            f"{edges[0]:.4g} to {edges[-1]:.4g}"
        )
    return counts / max(len(values), 1)


def depth_histogram(maps: Iterable[np.ndarray]) -> tuple[np.ndarray, tuple[float, float]]:
    """Pixels by depth.

    Args:
        maps: (H, W) metres each, 0 = no measurement.

    Returns:
        (B,) int64 counts in bins of ``DEPTH_BIN`` from 0, and the smallest and largest depth.
    """
    counts = np.zeros(0, dtype=np.int64)
    nearest, farthest = np.inf, 0.0
    for depth in maps:
        measured = depth[depth > 0]
        if len(measured) == 0:
            continue
        nearest, farthest = min(nearest, measured.min()), max(farthest, measured.max())
        found = np.bincount((measured / DEPTH_BIN).astype(np.int64), minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    return counts, (float(nearest) if len(counts) else 0.0, float(farthest))


def depth_quantile(counts: np.ndarray, share: float) -> float:
    """Depth, in metres, below which a share of the pixels lies; linear within a bin.

    Args:
        counts: (B,) of :func:`depth_histogram`, not empty.
        share: 0 to 1.
    """
    total = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    return float(np.interp(share, total, DEPTH_BIN * np.arange(len(total))))


def occlusion_from_models(
    record: Record, mesh: Callable[[str, str], Mesh]
) -> tuple[np.ndarray, np.ndarray]:
    """Visibility and truncation of posed CAD models, as the generator defines them.

    Args:
        record: with ``intrinsics``, an id map and, for every object, ``alignment_id``, ``model``,
            ``q``, ``t`` and ``s``.
        mesh: from (catalogue id, model id) to the mesh.

    Returns:
        For N objects (N,) float64 each: pixels of the object in the id map over pixels of its model
        drawn alone (at most 1; 0 where the model misses the image), and the share of the model's
        unclipped box outside the image.
    """
    size = record["height"], record["width"]
    pixels = np.bincount(read_map(record, "instance").ravel(), minlength=256)
    found = objects(record)
    meshes = [mesh(each["model"]["catid_cad"], each["model"]["id_cad"]) for each in found]
    poses = [object_to_camera(each) for each in found]
    alone = render_silhouettes(meshes, poses, record["intrinsics"], size).sum(axis=(1, 2))
    visible = pixels[[each["alignment_id"] for each in found]] if found else np.zeros(0)
    outside = []
    for (vertices, faces), pose in zip(meshes, poses, strict=True):
        points = vertices @ pose[:3, :3].T + pose[:3, 3]
        outside.append(truncation(clipped_box(points, faces, record["intrinsics"]), size))
    # A model of real data need not cover the object it was aligned to.
    return np.minimum(visible / np.maximum(alone, 1), 1.0) * (alone > 0), np.array(outside)


def object_to_camera(annotation: Mapping[str, Any]) -> np.ndarray:
    """(4, 4) float64 of an annotation: model to camera, ``s`` (metres per model unit) included."""
    w, x, y, z = annotation["q"]
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix() * np.asarray(annotation["s"])
    matrix[:3, 3] = annotation["t"]
    return matrix


def _occlusion(record: Record, mesh: Callable[[str, str], Mesh] | None) -> np.ndarray:
    """(M, 2) visibility and truncation of the objects of which both are known."""
    found = objects(record)
    if all("visibility" in each and "truncation" in each for each in found):
        pairs = [(each["visibility"], each["truncation"]) for each in found]
        return np.array(pairs, dtype=np.float64).reshape(-1, 2)
    if mesh is not None and all("q" in each and "model" in each for each in found):
        return np.column_stack(occlusion_from_models(record, mesh))
    return np.empty((0, 2))


def _depth_maps(records: Sequence[Record]) -> Iterator[np.ndarray]:
    for name in ("depth_full", "depth"):
        if all(f"{name}_file_name" in record for record in records):
            yield from (read_map(record, name) for record in records)
            return
