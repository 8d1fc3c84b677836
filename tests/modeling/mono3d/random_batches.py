"""Random padded batches of ground truth, proposals and head outputs."""

import math

import torch

from roca_nocs.geometry.box3d_codec import Box3DCodec, uninformed_priors
from roca_nocs.geometry.cuboids import rotation_from_yaw
from roca_nocs.modeling.mono3d.padding import pad_proposals

CLASSES, BINS = 3, 12
SIZE = 120.0
CODEC = Box3DCodec(uninformed_priors(CLASSES))


def random_boxes2d(count: int, random: torch.Generator) -> torch.Tensor:
    corner = 80 * torch.rand(count, 2, generator=random)
    return torch.cat([corner, corner + 10 + 40 * torch.rand(count, 2, generator=random)], dim=1)


def random_ground_truth(count: int, random: torch.Generator) -> dict[str, torch.Tensor]:
    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(count, *shape, generator=random)

    alpha = 2 * math.pi * uniform(1) - math.pi
    return {
        "bbox2d": random_boxes2d(count, random),
        "bbox3d": torch.cat([SIZE * uniform(2), 2 + 40 * uniform(1), 0.5 + 4 * uniform(3)], dim=1),
        "rotation": rotation_from_yaw(alpha.squeeze(1)),
        "rotation_y": alpha,
        "alpha": alpha,
        "category": torch.randint(CLASSES, (count, 1), generator=random),
        "has3d": uniform(1) < 0.8,
    }


def random_images(counts: list[int], seed: int) -> list[dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(seed)
    return [random_ground_truth(count, random) for count in counts]


def random_proposals(
    images: list[dict[str, torch.Tensor]], counts: list[int], size: int, seed: int
) -> dict[str, torch.Tensor]:
    """Padded proposals, half of them next to ground truth."""
    random = torch.Generator().manual_seed(seed)
    boxes = []
    for image, count in zip(images, counts, strict=True):
        own = random_boxes2d(count, random)
        known = image["bbox2d"]
        if len(known):
            near = known[torch.arange(count) % len(known)]
            near = near + 2 * torch.rand(count, 4, generator=random) - 1
            own = torch.where((torch.arange(count) % 2 == 0)[:, None], near, own)
        boxes.append(own)
    logits = [torch.randn(count, generator=random) for count in counts]
    return pad_proposals(boxes, logits, size)


def spoiled(values: torch.Tensor, valid: torch.Tensor, garbage: float) -> torch.Tensor:
    """A copy with other contents in the padded rows."""
    padded = ~valid.reshape(*valid.shape[:2], *[1] * (values.dim() - 2))
    if values.dtype == torch.bool:
        return torch.where(padded, True, values)
    if not values.is_floating_point():
        return torch.where(padded, 1, values)
    return torch.where(padded, garbage, values)
