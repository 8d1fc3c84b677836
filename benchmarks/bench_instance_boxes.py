"""Boxes from an instance-id map: the compiled operator against masks and detectron2's BitMasks."""

import torch
from detectron2.structures import BitMasks
from timing import compare

from roca_nocs.layers import instance_boxes


def id_map(height: int, width: int, num_instances: int) -> torch.Tensor:
    """Overlapping rectangles with ids 1..num_instances, (H, W) uint8."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.zeros(height, width, dtype=torch.uint8)
    for instance in range(1, num_instances + 1):
        y, x = (int(torch.randint(0, n, (), generator=generator)) for n in (height, width))
        ids[y : y + height // 3, x : x + width // 3] = instance
    return ids


def main() -> None:
    for height, width, count in ((120, 160, 6), (360, 480, 12)):
        ids = id_map(height, width, count)
        values = torch.arange(1, count + 1, dtype=torch.uint8)

        def by_masks(ids: torch.Tensor = ids, values: torch.Tensor = values) -> object:
            masks = ids == values[:, None, None]
            return BitMasks(masks).get_bounding_boxes(), masks.sum((1, 2))

        compare(
            f"instance_boxes {width}x{height}, {count} instances, vs BitMasks.get_bounding_boxes",
            by_masks,
            lambda ids=ids, count=count: instance_boxes(ids, count),
        )


if __name__ == "__main__":
    main()
