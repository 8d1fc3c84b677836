"""Procedural textures: brightness factors as functions of a position in metres."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_TABLE = np.random.default_rng(31415).random(4096, dtype=np.float32)


def _noise(*cells: np.ndarray) -> np.ndarray:
    """A fixed random number in [0, 1) for each lattice cell."""
    mixed = np.zeros(cells[0].shape, dtype=np.int32)
    for cell, factor in zip(cells, (73856093, 19349663, 83492791), strict=False):
        mixed ^= cell.astype(np.int32) * np.int32(factor)
    return _TABLE[(mixed ^ (mixed >> 13)) & 4095]


def _wood(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    lines = (y + z) * np.float32(75.0) + np.float32(1.6) * np.sin(x * np.float32(2.3) + z)
    lines += np.float32(0.5) * np.sin(x * np.float32(9.0) + y * np.float32(31.0))
    return np.float32(1.0) + np.float32(0.08) * np.sin(lines)


def _stripes(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    odd = np.floor((x + y) * np.float32(9.0)).astype(np.int32) & 1
    return np.float32(0.92) + np.float32(0.14) * odd.astype(np.float32)


def _speckle(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    cells = [np.floor(axis * np.float32(45.0)) for axis in (x, y, z)]
    return np.float32(0.9) + np.float32(0.2) * _noise(*cells)


def _carpet(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    fine = _noise(np.floor(x * np.float32(60.0)), np.floor(y * np.float32(60.0)))
    coarse = _noise(np.floor(x * np.float32(9.0)), np.floor(y * np.float32(9.0)))
    return np.float32(0.9) + np.float32(0.12) * fine + np.float32(0.08) * coarse


def _planks(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    across = y * np.float32(7.0)
    row = np.floor(across)
    along = x * np.float32(0.9) + row * np.float32(0.37)
    factor = np.float32(0.9) + np.float32(0.15) * _noise(np.floor(along), row)
    factor += np.float32(0.05) * np.sin(x * np.float32(9.0) + across * np.float32(14.0))
    gap = (across - row < 0.05) | (along - np.floor(along) < 0.008)
    return np.where(gap, factor * np.float32(0.75), factor)


def _tiles(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    column, row = x * np.float32(2.6), y * np.float32(2.6)
    cells = np.floor(column), np.floor(row)
    factor = np.float32(0.95) + np.float32(0.08) * _noise(*cells)
    joint = (column - cells[0] < 0.035) | (row - cells[1] < 0.035)
    return np.where(joint, np.float32(0.82), factor)


def _asphalt(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    fine = _noise(np.floor(x * np.float32(9.0)), np.floor(y * np.float32(9.0)))
    coarse = _noise(np.floor(x * np.float32(0.7)), np.floor(y * np.float32(0.3)))
    return np.float32(0.92) + np.float32(0.06) * fine + np.float32(0.1) * coarse


def _facade(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    along, up = (x + y) * np.float32(0.4), z * np.float32(0.33)
    column, storey = np.floor(along), np.floor(up)
    glass = (np.abs(along - column - 0.5) < 0.26) & (np.abs(up - storey - 0.55) < 0.27)
    pane = np.float32(0.35) + np.float32(0.35) * _noise(column, storey)
    return np.where(glass, pane, np.float32(1.0))


TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "wood": _wood,
    "stripes": _stripes,
    "speckle": _speckle,
    "carpet": _carpet,
    "planks": _planks,
    "tiles": _tiles,
    "asphalt": _asphalt,
    "facade": _facade,
}
"""Factor around 1 for float32 coordinates (N,) each. The floor textures ignore z. Plain materials
carry the name ``"none"``, which has no function."""
