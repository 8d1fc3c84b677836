"""The CAD models among which retrieval chooses."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from roca_nocs.geometry.symmetry import SYMMETRY_TAGS


@dataclass(frozen=True, eq=False)
class CadDatabase:
    """M CAD models with what retrieval needs to know of them.

    Attributes:
        keys: M different (ShapeNet synset, model id).
        category_ids: (M,) int64, contiguous class indices.
        symmetries: (M,) int64 in 0..3, ids of ``geometry.symmetry``.
        voxels: (M, S, S, S) bool occupancy, axes (z, y, x) of the model frame; or None.
        points: (M, P, 3) float32 on the surfaces, model frame; or None.
        scenes: by scene name the rows (K,) int64 of its candidates, the models annotated in that
            scene (Scan2CAD protocol). May be empty: then only retrieval without scenes works.

    Raises:
        ValueError: a size, type or value does not fit.
    """

    keys: tuple[tuple[str, str], ...]
    category_ids: torch.Tensor
    symmetries: torch.Tensor
    voxels: torch.Tensor | None = None
    points: torch.Tensor | None = None
    scenes: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.keys)
        if len(set(self.keys)) != count:
            repeated = sorted({key for key in self.keys if self.keys.count(key) > 1})
            raise ValueError(f"CAD models occur twice in the data base: {repeated[:5]}")
        for name in ("category_ids", "symmetries"):
            _check(name, getattr(self, name), (count,), torch.int64)
        if count and int(self.category_ids.min()) < 0:
            raise ValueError(f"category_ids must be >= 0, got {int(self.category_ids.min())}")
        unknown = set(self.symmetries.tolist()) - set(range(len(SYMMETRY_TAGS)))
        if unknown:
            raise ValueError(
                f"symmetries must be in 0..{len(SYMMETRY_TAGS) - 1}, got {sorted(unknown)}"
            )
        if self.voxels is not None:
            size = self.voxels.shape[-1] if self.voxels.dim() else 0
            _check("voxels", self.voxels, (count, size, size, size), torch.bool)
        if self.points is not None:
            num_points = self.points.shape[1] if self.points.dim() > 1 else 0
            _check("points", self.points, (count, num_points, 3), torch.float32)
        for scene, rows in self.scenes.items():
            _check(f"scenes[{scene!r}]", rows, (rows.numel(),), torch.int64)
            if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < count:
                raise ValueError(
                    f"scenes[{scene!r}] names rows {int(rows.min())}..{int(rows.max())} of a data "
                    f"base with {count} models"
                )

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.category_ids.device

    def to(self, device: torch.device | str) -> CadDatabase:
        """The same with all tensors on a device; scene rows stay where they are."""
        moved = copy.copy(self)  # valid already: no need to look at the values again
        for name in ("category_ids", "symmetries", "voxels", "points"):
            tensor = getattr(self, name)
            object.__setattr__(moved, name, None if tensor is None else tensor.to(device))
        return moved


def _check(name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != dtype:
        raise ValueError(
            f"{name} must be {dtype} of shape {shape}, got {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}"
        )
