"""A monocular 3D detector of a few thousand parameters and its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances

from modeling.tiny_roca import WIDTHS, narrow_stages
from roca_nocs.geometry.box3d_codec import BoxPriors, ImageBoxes3D
from roca_nocs.geometry.cuboids import (
    allocentric_rotation,
    alpha_from_rotation_y,
    box_corners,
    rotation_from_yaw,
    rotation_to_6d,
)
from roca_nocs.geometry.projection import clip_boxes, project_box, project_points
from roca_nocs.modeling.meta_arch import Mono3DRCNN

MODEL = Path(__file__).parents[2] / "configs/common/models/mono3d_r18_small.py"
NUM_CLASSES, HEIGHT, WIDTH = 3, 64, 128
DIMENSIONS = torch.tensor([[1.6, 1.5, 3.9], [0.6, 1.75, 0.8], [0.6, 1.7, 1.8]])


def priors(num_clusters: int = 1) -> BoxPriors:
    """Of cars, pedestrians and cyclists."""
    depth = torch.tensor([30.0, 20.0, 25.0])
    clusters = depth[:, None].repeat(1, num_clusters)
    scales = torch.linspace(20, 60, num_clusters).repeat(3, 1)
    return BoxPriors(DIMENSIONS, 0.1 * DIMENSIONS, depth, scales, clusters, 0.3 * clusters)


def narrow_mono3d(model: Any) -> None:
    """Give a model configuration of the street few channels."""
    model.backbone.bottom_up.stem.out_channels = WIDTHS[0]
    model.backbone.bottom_up.stages = L(narrow_stages)()
    model.backbone.out_channels = 16
    model.roi_heads.box_head.fc_dims = [16, 16]
    model.roi_heads.cube_head.fc_dims = [16, 16]


def build_mono3d(
    *,
    seed: int = 0,
    head: dict[str, Any] | None = None,
    loss: dict[str, Any] | None = None,
    proposals: dict[str, Any] | None = None,
    **heads: Any,
) -> Mono3DRCNN:
    """The model of the street with few channels.

    Args:
        seed: of the weights.
        head, loss, proposals, heads: options of ``CubeHead``, ``CubeLoss``, ``PaddedRPN`` and
            ``Mono3DROIHeads``.
    """
    model = LazyConfig.load(str(MODEL)).model
    narrow_mono3d(model)
    model.roi_heads.cube_head.update(head or {})
    model.roi_heads.cube_loss.update(loss or {})
    model.proposal_generator.update(proposals or {})
    model.roi_heads.update(heads)
    torch.manual_seed(seed)
    built = instantiate(model)
    built.roi_heads.priors.set(priors(heads.get("num_depth_clusters", 1)))
    return built


def projection(size: tuple[int, int] = (HEIGHT, WIDTH)) -> torch.Tensor:
    """(3, 4) of a camera like that of KITTI, with a fourth column."""
    height, width = size
    focal = 0.6 * width
    return torch.tensor(
        [[focal, 0, width / 2, 5.0], [0, focal, 0.45 * height, 0.2], [0, 0, 1, 0.003]]
    )


def make_input(
    count: int, *, size: tuple[int, int] = (HEIGHT, WIDTH), seed: int = 0
) -> dict[str, Any]:
    """A training input with ``count`` upright boxes on a road and a random image."""
    random = torch.Generator().manual_seed(seed)
    camera = projection(size)
    classes = torch.randint(NUM_CLASSES, (count,), generator=random)
    depth = 6 + 14 * torch.rand(count, generator=random)
    across = 0.6 * depth * (2 * torch.rand(count, generator=random) - 1)
    dimensions = DIMENSIONS[classes] * (1 + 0.1 * torch.randn(count, 3, generator=random))
    center = torch.stack([across, 1.65 - dimensions[:, 1] / 2, depth], dim=1)
    yaw = 2 * torch.pi * torch.rand(count, generator=random) - torch.pi
    rotation = rotation_from_yaw(yaw)
    boxes = project_box(box_corners(center, dimensions, rotation), camera)
    center_2d, depths = project_points(center, camera)
    instances = Instances(
        size,
        gt_boxes=Boxes(clip_boxes(boxes, (size[1], size[0]))),
        gt_classes=classes,
        gt_centers=center,
        gt_dimensions=dimensions,
        gt_rotations=rotation,
        gt_rotation_y=yaw,
        gt_alpha=alpha_from_rotation_y(yaw, center),
        gt_center_2d=center_2d,
        gt_depths=depths,
        gt_has3d=torch.ones(count, dtype=torch.bool),
    )
    return {
        "image": torch.randint(256, (3, *size), generator=random, dtype=torch.uint8),
        "projection": camera,
        "instances": instances,
        "ignore_boxes": torch.zeros(0, 4),
        "height": size[0],
        "width": size[1],
        "image_id": seed,
        "file_name": f"image{seed}.png",
    }


def perfect_outputs(
    model: Mono3DRCNN, truth: Instances, camera: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What a perfect cube head says of the boxes of the ground truth."""
    heads = model.roi_heads
    numbers = heads.codec().encode(
        ImageBoxes3D(truth.gt_center_2d, truth.gt_depths, truth.gt_dimensions),
        truth.gt_boxes.tensor,
        truth.gt_classes,
        camera[1, 1].expand(len(truth)),
    )
    outputs = {"bbox3d": numbers[:, None].repeat(1, NUM_CLASSES, 1)}
    if heads.cube_head.pose_type == "6d":
        allocentric = allocentric_rotation(truth.gt_rotations, truth.gt_center_2d, camera[:, :3])
        outputs["pose6d"] = rotation_to_6d(allocentric)[:, None].repeat(1, NUM_CLASSES, 1)
        outputs["uncertainty"] = torch.full((len(truth), NUM_CLASSES), 0.5)
    else:
        bins, residual = heads.yaw_bins.encode(truth.gt_alpha)
        logit = torch.nn.functional.one_hot(bins, heads.yaw_bins.num_bins).float()
        outputs["yaw_logit"] = logit[:, None].repeat(1, NUM_CLASSES, 1)
        outputs["yaw_resi"] = residual[:, None, None].repeat(1, NUM_CLASSES, logit.shape[1])
    return outputs
