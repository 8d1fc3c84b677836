"""Decoding of the dense maps that a record names, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from roca_nocs.data.datasets.habitat import decode_habitat_coordinates
from roca_nocs.data.datasets.nocs_frames import decode_coordinates, decode_depth, decode_instances
from roca_nocs.data.images import describe, read_png

NOCS_UNITS = 10000.0


def read_map(record: Mapping[str, Any], name: str) -> np.ndarray:
    """A map of a record at the size of its image.

    Args:
        record: of ``load_scan2cad``, ``load_nocs`` or ``load_habitat``.
        name: ``"instance"`` (H, W) uint8, ``"depth"`` or ``"depth_full"`` (H, W) float32 metres,
            ``"nocs"`` (H, W, 3) float32 in [-0.5, 0.5].

    Raises:
        ValueError: the record has no such map, or its file is missing or damaged.
    """
    file_name = record.get(f"{name}_file_name")
    if file_name is None:
        raise ValueError(f"{describe(record)}: the dataset has no {name} maps")
    decode = _DECODERS[record["layout"]][name]
    if name == "nocs" and not record.get("coord_z_mirrored", True):
        decode = partial(decode, z_mirrored=False)
    try:
        array = decode(read_png(file_name))
    except ValueError as error:
        raise ValueError(f"{describe(record)}: {error}") from error
    return _recentred(array, record) if name == "nocs" else array


def _recentred(nocs: np.ndarray, record: Mapping[str, Any]) -> np.ndarray:
    """The map (H, W, 3) with the coordinates that re-centred models of the record have."""
    moved = [each for each in record.get("annotations", ()) if "recentring" in each]
    if moved:
        instance = read_map(record, "instance")
        for annotation in moved:
            mask = instance == annotation["alignment_id"]
            recentring = annotation["recentring"]
            shift = np.array(recentring["shift"], np.float32)
            nocs[mask] = np.float32(recentring["scale"]) * (nocs[mask] + shift)
    return nocs


def _plain(array: np.ndarray) -> np.ndarray:
    if array.ndim != 2 or array.dtype != np.uint8:
        raise ValueError(f"an id map has one channel of 8 bits, got {_kind(array)}")
    return array


def _millimetres(array: np.ndarray) -> np.ndarray:
    if array.ndim != 2 or array.dtype != np.uint16:
        raise ValueError(f"a depth map has one channel of 16 bits, got {_kind(array)}")
    return array.astype(np.float32) / 1000


def _shifted_nocs(array: np.ndarray) -> np.ndarray:
    """uint16 round(10000 (x + 1)), x in the first channel; the raw value 0 means none."""
    if array.ndim != 3 or array.dtype != np.uint16:
        raise ValueError(f"a NOCS map has three channels of 16 bits, got {_kind(array)}")
    return np.where(array > 0, array.astype(np.float32) / NOCS_UNITS - 1, np.float32(0))


def _nocs_cube(array: np.ndarray, z_mirrored: bool = True) -> np.ndarray:
    return decode_coordinates(array, z_mirrored) - np.float32(0.5)


def _kind(array: np.ndarray) -> str:
    channels = 1 if array.ndim == 2 else array.shape[2]
    return f"{channels} x {8 * array.dtype.itemsize} bits"


_DECODERS: dict[str, dict[str, Callable[..., np.ndarray]]] = {
    "scan2cad": {
        "instance": _plain,
        "depth": _millimetres,
        "depth_full": _millimetres,
        "nocs": _shifted_nocs,
    },
    "nocs": {
        "instance": decode_instances,
        "depth": lambda array: decode_depth(array).astype(np.float32) / 1000,
        "depth_full": lambda array: decode_depth(array).astype(np.float32) / 1000,
        "nocs": _nocs_cube,
    },
    "habitat": {
        "instance": _plain,
        "depth": _millimetres,
        "nocs": lambda array: decode_habitat_coordinates(array) - np.float32(0.5),
    },
}
