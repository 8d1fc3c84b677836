"""Random oriented boxes and the solids of an independent library that hold the same volume."""

import manifold3d
import roma
import torch

from roca_nocs.geometry.box3d_overlap import OrientedBoxes


def random_boxes(
    count: int, seed: int, spread: float = 0.5, dtype: torch.dtype = torch.float64
) -> OrientedBoxes:
    """Boxes with extents in [0.3, 1.3], about the origin."""
    random = torch.Generator().manual_seed(seed)
    quaternions = torch.randn(count, 4, generator=random, dtype=torch.float64)
    return OrientedBoxes(
        (spread * torch.randn(count, 3, generator=random, dtype=torch.float64)).to(dtype),
        (0.3 + torch.rand(count, 3, generator=random, dtype=torch.float64)).to(dtype),
        roma.unitquat_to_rotmat(roma.quat_normalize(quaternions)).to(dtype),
    )


def moved(boxes: OrientedBoxes, rotation: torch.Tensor, translation: torch.Tensor) -> OrientedBoxes:
    """The boxes after a rigid motion, or each after one of its own (N, 3, 3), (N, 3)."""
    center = (rotation @ boxes.center[..., None]).squeeze(-1) + translation
    return OrientedBoxes(center, boxes.extents, rotation @ boxes.rotation)


def solids(boxes: OrientedBoxes) -> list[manifold3d.Manifold]:
    return [
        manifold3d.Manifold.cube(tuple(extents), True).transform(pose)
        for extents, pose in zip(
            boxes.extents.tolist(),
            torch.cat([boxes.rotation, boxes.center[..., None]], dim=-1).numpy(),
            strict=True,
        )
    ]
