"""Exact overlap of oriented boxes against Boolean operations on solids (manifold3d).

The solids are built once beforehand, which favours the baseline: our function starts from centres,
extents and rotations in every run.
"""

import manifold3d
import roma
import torch
from timing import compare

from roca_nocs.geometry.box3d_overlap import OrientedBoxes, elementwise_overlap, pairwise_overlap


def random_boxes(count: int, spread: float) -> OrientedBoxes:
    return OrientedBoxes(
        spread * torch.randn(count, 3, dtype=torch.float64),
        0.3 + torch.rand(count, 3, dtype=torch.float64),
        roma.random_rotmat(count, dtype=torch.float64),
    )


def solids(boxes: OrientedBoxes) -> list[manifold3d.Manifold]:
    poses = torch.cat([boxes.rotation, boxes.center[..., None]], dim=-1).numpy()
    result = [
        manifold3d.Manifold.cube(extents, True).transform(pose)
        for extents, pose in zip(boxes.extents.tolist(), poses, strict=True)
    ]
    for solid in result:
        solid.volume()  # Transforms are applied at the first use.
    return result


def main() -> None:
    torch.manual_seed(0)
    count = 2000
    boxes, others = random_boxes(count, 0.3), random_boxes(count, 0.3)
    pairs = list(zip(solids(boxes), solids(others), strict=True))
    compare(
        f"exact IoU of {count} pairs of oriented boxes, float64, vs manifold3d",
        lambda: [(a ^ b).volume() for a, b in pairs],
        lambda: elementwise_overlap(boxes, others),
    )
    count = 200
    boxes, others = random_boxes(count, 3), random_boxes(count, 3)
    first, second = solids(boxes), solids(others)
    compare(
        f"exact IoU of {count} x {count} scattered boxes, float64, vs manifold3d",
        lambda: [(a ^ b).volume() for a in first for b in second],
        lambda: pairwise_overlap(boxes, others),
    )


if __name__ == "__main__":
    main()
