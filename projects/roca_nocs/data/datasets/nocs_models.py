"""What the NOCS folders tell about CAD models: extents, and the re-centring of mugs.

Shape Prior Deformation (Tian et al., ECCV 2020) and most methods after it move the origin of a mug
from the centre of its box to the axis of its body: p' = scale (p + shift). Figures with and without
it are not comparable.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..categories import NOCS_SYNSETS
from ..coco_json import DatasetError
from ..restricted_pickle import load_restricted_pickle
from .nocs_frames import MetaLine, NocsFrame

MUG_META = "obj_models/mug_meta.pkl"

HANDLE_SHARE = 0.01
"""A handle counts as visible from this share of the mug's pixels on."""

# Mugs whose body the box along z does not show; the shifts are published.
_PUBLISHED_SHIFTS = {
    "3a7439cfaa9af51faf1af397e14a566d": (0.115, 0.0, 0.0),
    "5b0c679eb8a2156c4314179664d18101": (0.083, 0.0, -0.044),
    "649a51c711dc7f3b32e150233fdd42e9": (0.0, 0.0, -0.017),
    "bf2b5e941b43d030138af902bc222a59": (0.0534, 0.0, 0.0),
    "ca198dc3f7dc0cacec6338171298c66b": (0.120, 0.0, 0.0),
    "f42a9784d165ad2f5e723252788c3d6e": (0.117, 0.0, -0.026),
}


@dataclass(frozen=True)
class Recentring:
    """p' = scale (p + shift) for model points p with unit diagonal.

    Attributes:
        shift: (3,) float64.
        scale: makes the diagonal of the box that is symmetric about the new origin 1.
    """

    shift: np.ndarray
    scale: float

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the model, in the new frame and of the same type."""
        return (self.scale * (points + self.shift)).astype(points.dtype)

    def extents(self, extents: np.ndarray) -> np.ndarray:
        """Extents (3,) of a box about the old origin, then about the new one."""
        return self.scale * (extents + 2 * np.abs(self.shift))

    def pose(
        self, rotation: np.ndarray, translation: np.ndarray, scale: float
    ) -> tuple[np.ndarray, float]:
        """Translation (3,) and scale of the re-centred model under the same pose."""
        return translation - scale * rotation @ self.shift, scale / self.scale

    def original_pose(
        self, rotation: np.ndarray, translation: np.ndarray, scale: float
    ) -> tuple[np.ndarray, float]:
        """The inverse of :meth:`pose`."""
        original = scale * self.scale
        return translation + original * rotation @ self.shift, original


def recentring_of(vertices: np.ndarray, model_id: str) -> Recentring:
    """The re-centring of a mug.

    Args:
        vertices: (V, 3), the handle towards +x, up to a scale.
        model_id: six mugs have published shifts, the others are centred by their width along z.
    """
    unit = vertices.astype(np.float64) / np.linalg.norm(np.ptp(vertices, axis=0))
    shift = np.zeros(3)
    if model_id in _PUBLISHED_SHIFTS:
        shift[:] = _PUBLISHED_SHIFTS[model_id]
    else:
        shift[0] = -np.ptp(unit[:, 2]) / 2 - unit[:, 0].min()
    return Recentring(shift, float(1 / np.linalg.norm(2 * np.abs(unit + shift).max(axis=0))))


def read_mug_meta(root: Path) -> dict[str, Recentring]:
    """Read ``obj_models/mug_meta.pkl``: model id -> re-centring.

    Raises:
        DatasetError: the file is missing or holds something else.
    """
    path = root / MUG_META
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist. Make it with: python datasets/prepare_nocs.py --root {root}"
        )
    content = load_restricted_pickle(path)
    try:
        table = {
            str(model_id): Recentring(np.asarray(shift, np.float64).reshape(3), float(scale))
            for model_id, (shift, scale) in content.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: expected model -> [shift (3,), scale] ({error}).") from error
    if bad := [name for name, each in table.items() if not each.scale > 0]:
        raise DatasetError(f"{path}: the scale of {bad[0]} is not positive.")
    return table


def write_mug_meta(root: Path, find_vertices: Callable[[str, str, str], np.ndarray]) -> int:
    """Write ``obj_models/mug_meta.pkl`` for all mugs; REAL's are known by their names.

    Args:
        root: folder of the dataset.
        find_vertices: vertices (V, 3) of a model by split, synset (empty in REAL) and model id.

    Returns:
        Number of mugs.
    """
    models = root / "obj_models"
    synset = NOCS_SYNSETS["mug"]
    mugs = [(path.parents[1].name, synset, path.name) for path in models.glob(f"[!r]*/{synset}/*")]
    for path in models.glob("real_*/*mug*.obj"):
        mugs.append((path.parent.name.removeprefix("real_"), "", path.stem))
    table = {mug[-1]: recentring_of(find_vertices(*mug), mug[-1]) for mug in sorted(mugs)}
    (root / MUG_META).write_bytes(mug_meta_bytes(table))
    return len(table)


def mug_meta_bytes(recentrings: Mapping[str, Recentring]) -> bytes:
    """The content of ``mug_meta.pkl``: model id -> [shift, scale]."""
    content = {name: [each.shift, each.scale] for name, each in recentrings.items()}
    return pickle.dumps(content, protocol=4)


@dataclass
class ModelTable:
    """Extents of the models with unit diagonal and re-centrings of the mugs, read once each."""

    extents: dict[Path, list[float]] = field(default_factory=dict)
    recentrings: dict[Path, Mapping[str, Recentring]] = field(default_factory=dict)

    def extents_of(self, frame: NocsFrame, line: MetaLine) -> list[float]:
        """Extents (3,) of the model that a line names.

        Raises:
            DatasetError: its file is missing or does not hold the expected numbers.
        """
        models = frame.root / "obj_models"
        if line.catalog_id:
            path = models / frame.split / line.catalog_id / line.model_id / "bbox.txt"
        else:
            path = _real_model_file(models, frame.split, line.model_id)
        if path not in self.extents:
            self.extents[path] = _read_extents(path)
        return self.extents[path]

    def recentring_of(self, root: Path, model_id: str) -> Recentring:
        """The re-centring of a mug.

        Raises:
            DatasetError: ``mug_meta.pkl`` is missing or does not list the model.
        """
        if root not in self.recentrings:
            self.recentrings[root] = read_mug_meta(root)
        if model_id not in self.recentrings[root]:
            raise DatasetError(f"{root / MUG_META} does not list the mug {model_id}.")
        return self.recentrings[root][model_id]


def real_model_size(models: Path, split: str, model_id: str) -> np.ndarray:
    """Extents (3,) of a model of REAL in metres, float64; those of CAMERA have no metric size.

    Args:
        models: the folder ``obj_models``.
        split: of the dataset.
        model_id: as in the object lists.

    Raises:
        DatasetError: its file is missing or does not hold the expected numbers.
    """
    return _read_sides(_real_model_file(models, split, model_id))


def _real_model_file(models: Path, split: str, model_id: str) -> Path:
    if model_id.endswith(".npz"):  # of the former validation images
        return models / "real_val" / model_id
    return models / f"real_{split}" / f"{model_id}.txt"


def _read_extents(path: Path) -> list[float]:
    """Extents (3,) of the model with unit diagonal, which ``bbox.txt`` holds already."""
    sides = _read_sides(path)
    return (sides if path.name == "bbox.txt" else sides / np.linalg.norm(sides)).tolist()


def _read_sides(path: Path) -> np.ndarray:
    """(3,) from the largest and smallest coordinates (``bbox.txt``), or as they are."""
    shape = (2, 3) if path.name == "bbox.txt" else (1, 3)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                numbers = np.array(arrays["scale"], dtype=np.float64)
        else:
            numbers = np.array(path.read_text(encoding="utf-8").split(), dtype=np.float64)
        numbers = numbers.reshape(shape)
    except (OSError, ValueError, KeyError) as error:
        count = 3 * shape[0]
        raise DatasetError(f"{path}: expected {count} numbers ({error}).") from error
    sides = numbers[0] - numbers[1] if len(numbers) == 2 else numbers[0]
    if not (np.isfinite(sides).all() and (sides > 0).all()):
        raise DatasetError(f"{path}: the extents {sides} are not all positive.")
    return sides
