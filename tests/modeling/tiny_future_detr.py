"""A FutureDETR of a few thousand parameters and clips of moving rectangles."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import ResNet

from modeling.tiny_roca import WIDTHS, narrow_stages
from roca_nocs.geometry.bev import BevGrid
from roca_nocs.modeling.backbone.raster_resnet import RasterStem
from roca_nocs.modeling.criteria import ClipCriterion, MixedMatcher
from roca_nocs.modeling.future.rigid_rollout import RigidRollout
from roca_nocs.modeling.future.rollout import FutureRollout
from roca_nocs.modeling.meta_arch import FutureDETR
from roca_nocs.modeling.tracking.memory_fusion import MemoryFusion
from roca_nocs.modeling.tracking.propagation import TrackPropagation
from roca_nocs.modeling.tracking.query_interaction import QueryInteraction
from roca_nocs.modeling.transformer.future_detector import FutureDetector

CHANNELS, CLASSES, LEVELS, SIZE = 32, 2, 4, (24, 40)
SMALL = {"embed_dim": CHANNELS, "num_heads": 4}


def build_detector(*, in_channels: int = 3, **options: Any) -> FutureDetector:
    """With a stem that keeps the resolution."""
    backbone = ResNet(
        RasterStem(in_channels, WIDTHS[0], "BN", 1),
        narrow_stages(),
        out_features=["res2", "res3", "res4", "res5"],
    )
    sizes = {
        "num_classes": CLASSES,
        "num_queries": 6,
        "hidden_dim": CHANNELS,
        "nheads": 4,
        "enc_layers": 1,
        "dec_layers": 2,
        "dim_feedforward": 32,
        "dropout": 0.0,
        "num_feature_levels": LEVELS,
        "enc_n_points": 2,
        "dec_n_points": 2,
        "gn_groups": "auto",
        "num_semantic_classes": 2,
    }
    return FutureDetector(backbone=backbone, **(sizes | options))


def build_rollout(**options: Any) -> FutureRollout:
    sizes = {"feedforward_dim": 32, "num_feature_levels": LEVELS, "num_points": 2, "num_layers": 1}
    return FutureRollout(**(SMALL | sizes | {"max_steps": 2} | options))


def build_future_detr(
    *,
    seed: int = 0,
    detector: dict[str, Any] | None = None,
    rollout: dict[str, Any] | RigidRollout | None = None,
    criterion: dict[str, Any] | None = None,
    propagation: dict[str, Any] | None = None,
    **options: Any,
) -> FutureDETR:
    """The model, with boxes and attention that are no longer those of the initialisation."""
    torch.manual_seed(seed)
    memory, stack = (options.get("temporal_fusion") == name for name in ("memory", "stack"))
    model = FutureDETR(
        detector=build_detector(**(detector or {})),
        criterion=ClipCriterion(matcher=MixedMatcher(), **(criterion or {})),
        propagation=None
        if stack
        else TrackPropagation(
            QueryInteraction(feedforward_dim=32, **SMALL),
            **({"drop": 0.0, "fp_ratio": 0.0} | (propagation or {})),
        ),
        rollout=rollout if isinstance(rollout, RigidRollout) else build_rollout(**(rollout or {})),
        fusion=MemoryFusion(num_feature_levels=LEVELS, num_points=2, **SMALL) if memory else None,
        pixel_mean=(0.0,),
        pixel_std=(1.0,),
        **({"num_future": 2} | options),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def make_clip(
    agents: list[tuple[int, range]] | None = None,
    *,
    seed: int = 0,
    frames: int = 3,
    future: int = 2,
    channels: int = 3,
    size: tuple[int, int] = SIZE,
    labelled: bool = True,
) -> dict[str, Any]:
    """Rectangles that move along the columns; the vehicle stands still.

    Args:
        agents: row of each agent and the frames (0 is the first observed one) that show it.
        seed: of the clip's noise.
        frames: T.
        future: F.
        channels: of the rasters, the first of which shows the agents.
        size: (H, W).
        labelled: add labels.
    """
    generator = torch.Generator().manual_seed(seed)
    agents = [(2, range(100)), (12, range(100))] if agents is None else agents
    total = frames + future
    masks = torch.zeros(total, len(agents), *size, dtype=torch.bool)
    for number, (row, times) in enumerate(agents):
        for time in times:
            if time < total:
                column = 3 + 5 * number + 2 * time
                masks[time, number, row : row + 6, column : column + 8] = True
    clip = 0.1 * torch.rand(frames, channels, *size, generator=generator)
    clip[:, 0] += masks[:frames].any(dim=1)
    sample: dict[str, Any] = {
        "clip": clip,
        "grid": BevGrid.centred(*size, 0.5),
        "ego_pose": torch.zeros(total, 3, dtype=torch.float64),
        "clip_id": f"clip{seed}",
    }
    if labelled:
        labels = [frame_labels(each) for each in masks]
        for each in labels[frames:]:
            flow = torch.full((2, *size), 255.0)
            flow[:, each["masks"].any(dim=0)] = torch.tensor([-2.0, 0.0])[:, None]
            each["flow"] = flow
        sample["frames"] = labels[:frames]
        sample["future"] = labels[frames - 1 :]
        sample["semantic"] = masks[frames - 1 :].any(dim=1).long()
        sample["agents"] = agent_poses(agents, range(frames - 1, total), sample["grid"])
    return sample


def agent_poses(
    agents: list[tuple[int, range]], times: range, grid: BevGrid
) -> dict[str, torch.Tensor]:
    """Centres of the rectangles at some frames, NaN where they are not shown."""
    cells = torch.tensor(
        [
            [(row + 2.5, 6.5 + 5 * number + 2 * time) for number, (row, _) in enumerate(agents)]
            for time in times
        ],
        dtype=torch.float64,
    ).view(len(times), len(agents), 2)
    hidden = torch.tensor([[t not in seen for _, seen in agents] for t in times], dtype=torch.bool)
    poses = F.pad(grid.cells_to_metres(cells), (0, 1))
    poses[hidden.view(len(times), len(agents))] = torch.nan
    return {"ids": torch.arange(len(agents)) + 1, "poses": poses}


def frame_labels(masks: torch.Tensor) -> dict[str, torch.Tensor]:
    """Labels of the agents whose mask (N, H, W) is not empty; ids count from 1."""
    height, width = masks.shape[-2:]
    present = masks.flatten(1).any(dim=1).nonzero().flatten()
    boxes = []
    for mask in masks[present]:
        rows, columns = mask.nonzero().unbind(dim=1)
        low = torch.stack([columns.min(), rows.min()])
        high = torch.stack([columns.max(), rows.max()]) + 1
        scale = torch.tensor([width, height])
        boxes.append(torch.cat([(low + high) / 2 / scale, (high - low) / scale]))
    return {
        "boxes": torch.stack(boxes) if boxes else torch.zeros(0, 4),
        "labels": present % CLASSES,
        "ids": present + 1,
        "masks": masks[present],
    }
