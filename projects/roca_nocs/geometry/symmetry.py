"""Rotational symmetries: of single CAD models about +y, as Scan2CAD annotates them, and of classes
about any axis, as the NOCS losses need them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import roma
import torch
from torch.nn.utils.rnn import pad_sequence

# The position of a tag is its id; the order is the number of rotations that leave the model
# unchanged. A full rotational symmetry is sampled every 10 degrees (Scan2CAD benchmark).
SYMMETRY_TAGS = (
    "__SYM_NONE",
    "__SYM_ROTATE_UP_2",
    "__SYM_ROTATE_UP_4",
    "__SYM_ROTATE_UP_INF",
)
SYMMETRY_ORDERS = (1, 2, 4, 36)


def symmetry_ids(tags: Sequence[str]) -> torch.Tensor:
    """Ids (N,) int64 of N symmetry tags.

    Raises:
        ValueError: an unknown tag.
    """
    unknown = sorted(set(tags) - set(SYMMETRY_TAGS))
    if unknown:
        raise ValueError(f"unknown symmetry tags {unknown}; expected some of {SYMMETRY_TAGS}")
    return torch.tensor([SYMMETRY_TAGS.index(tag) for tag in tags], dtype=torch.int64)


def symmetry_rotations(ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The rotations about +y under which models look the same.

    Args:
        ids: (...) int64, positions in ``SYMMETRY_TAGS``.
        dtype: of the result.

    Returns:
        (..., 36, 3, 3); a group with fewer elements is repeated. Element 0 is the identity.
    """
    return _table().to(ids.device, dtype)[ids]


@cache
def _table() -> torch.Tensor:
    """(4, 36, 3, 3) float64."""
    most = max(SYMMETRY_ORDERS)
    groups = [axis_rotations("y", order) for order in SYMMETRY_ORDERS]
    return torch.stack([group.repeat(most // len(group), 1, 1) for group in groups])


_AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
_FIELDS = {"axis", "order", "samples"}


def axis_rotations(axis: str | Sequence[float], count: int) -> torch.Tensor:
    """Rotations by 2 pi k / count, k = 0..count - 1, about an axis.

    Args:
        axis: ``"x"``, ``"y"``, ``"z"`` or three numbers, of any length but 0.
        count: at least 1.

    Returns:
        (count, 3, 3) float64; the first is the identity.

    Raises:
        ValueError: no such axis, or a count below 1.
    """
    direction = axis_direction(axis)
    if count < 1:
        raise ValueError(f"the number of rotations about an axis is {count}; expected at least 1")
    angles = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    return roma.rotvec_to_rotmat(angles[:, None] * direction)


def axis_direction(axis: str | Sequence[float]) -> torch.Tensor:
    """Unit vector (3,) float64 of an axis, see :func:`axis_rotations`.

    Raises:
        ValueError: no such axis.
    """
    if isinstance(axis, str) and axis not in _AXES:
        raise ValueError(f"axis is {axis!r}; expected one of {list(_AXES)} or three numbers")
    numbers = _AXES[axis] if isinstance(axis, str) else axis
    direction = torch.tensor(list(numbers), dtype=torch.float64)
    if direction.shape != (3,) or not 0 < direction.norm() < math.inf:
        raise ValueError(f"axis is {axis!r}; expected 'x', 'y', 'z' or three numbers, not all 0")
    return direction / direction.norm()


@dataclass(frozen=True)
class RotationalSymmetry:
    """An object looks the same after rotations about one axis through the model's origin.

    Attributes:
        axis: see :func:`axis_rotations`.
        order: n for the rotations 2 pi k / n; infinite for all angles.
    """

    axis: str | tuple[float, ...]
    order: float

    @property
    def continuous(self) -> bool:
        """Whether all angles belong to it."""
        return math.isinf(self.order)

    def rotations(self, samples: int) -> torch.Tensor:
        """(K, 3, 3) float64, the identity first; ``samples`` of them stand for all angles."""
        return axis_rotations(self.axis, samples if self.continuous else int(self.order))


def read_symmetry(name: str, entry: Mapping[str, Any]) -> RotationalSymmetry:
    """The symmetry of a class from an entry of ``symmetries``, see :func:`class_rotations`.

    Raises:
        ValueError: a field is unknown or missing, or a value is wrong; names the class.
    """
    try:
        if "axis" not in entry or "order" not in entry or set(entry) - _FIELDS:
            raise ValueError(f"it has the fields {sorted(entry)}; expected axis, order, [samples]")
        axis, order = entry["axis"], float(entry["order"])
        if not ((math.isinf(order) and order > 0) or order == int(order)):
            raise ValueError(f"order is {entry['order']!r}; expected a whole number or inf")
        symmetry = RotationalSymmetry(axis if isinstance(axis, str) else tuple(axis), order)
        symmetry.rotations(int(entry.get("samples", 1)))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"symmetry of {name!r}: {error}") from error
    return symmetry


def check_symmetries(classes: Sequence[str], symmetries: Mapping[str, Any]) -> None:
    """Check that each entry belongs to a class.

    Raises:
        ValueError: it does not.
    """
    if unknown := sorted(set(symmetries) - set(classes)):
        raise ValueError(
            f"symmetries are given for {unknown}, which are no classes of the dataset; its classes "
            f"are {list(classes)}"
        )


def class_rotations(
    classes: Sequence[str],
    symmetries: Mapping[str, Mapping[str, Any]],
    samples: int = 6,
) -> torch.Tensor:
    """The rotations under which objects of each class look the same.

    Args:
        classes: names of the C classes by id.
        symmetries: name of a class -> ``axis`` (see :func:`axis_rotations`), ``order`` (n for the
            rotations 2 pi k / n, ``inf`` or ``"inf"`` for all angles) and optionally ``samples``;
            classes without entry have no symmetry.
        samples: rotations that stand for all angles, where an entry has none.

    Returns:
        (C, K, 3, 3) float32, K of the class with most; the others are padded with the identity,
        which is also the first element of each.

    Raises:
        ValueError: an unknown class or field, or a wrong value; names the class.
    """
    check_symmetries(classes, symmetries)
    with torch.device("cpu"):  # also where a model is built without memory
        groups = [
            read_symmetry(name, symmetries[name]).rotations(
                int(symmetries[name].get("samples", samples))
            )
            if name in symmetries
            else axis_rotations("y", 1)
            for name in classes
        ]
        identity = torch.eye(3, dtype=torch.float64)
        offsets = pad_sequence([group - identity for group in groups], batch_first=True)
        return (offsets + identity).float()
