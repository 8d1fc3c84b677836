"""Random boxes as cameras see them, with the special headings among them."""

import math
from typing import NamedTuple

import torch


class Scene(NamedTuple):
    """N boxes in float64: camera frame, a projection each, and the width and height of images."""

    center: torch.Tensor
    dimensions: torch.Tensor
    rotation_y: torch.Tensor
    projection: torch.Tensor
    size: tuple[float, float]


def random_scene(count: int, seed: int) -> Scene:
    """Boxes from 1 to 150 m away; every second heading is a multiple of pi / 12."""
    random = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        values = torch.rand(count, *shape, generator=random, dtype=torch.float64)
        return low + (high - low) * values

    depth = uniform(math.log(1.0), math.log(150.0)).exp()
    lateral = torch.stack([uniform(-0.8, 0.8) * depth, uniform(-0.3, 0.3) * depth], dim=1)
    yaw = uniform(-math.pi, math.pi)
    multiples = torch.randint(-12, 13, (count,), generator=random) * (math.pi / 12)
    yaw = torch.where(torch.arange(count) % 2 == 0, multiples, yaw)
    projection = torch.zeros(count, 3, 4, dtype=torch.float64)
    projection[:, 0, 0], projection[:, 1, 1] = uniform(300, 1500), uniform(300, 1500)
    projection[:, 0, 2], projection[:, 1, 2] = uniform(300, 900), uniform(100, 500)
    projection[:, :2, 3] = uniform(-50, 50, 2)
    projection[:, 2, 2], projection[:, 2, 3] = 1, uniform(-0.01, 0.01)
    return Scene(
        torch.cat([lateral, depth[:, None]], dim=1),
        uniform(math.log(0.1), math.log(15.0), 3).exp(),
        yaw,
        projection,
        (1242.0, 375.0),
    )


def reference_boxes(center_2d: torch.Tensor, seed: int) -> torch.Tensor:
    """2D boxes (N, 4) near projected centres, which may lie outside them."""
    random = torch.Generator().manual_seed(seed)
    shape = len(center_2d), 2
    size = 4 + 300 * torch.rand(shape, generator=random, dtype=torch.float64)
    middle = center_2d + size * torch.randn(shape, generator=random, dtype=torch.float64)
    return torch.cat([middle - size / 2, middle + size / 2], dim=1)
