"""A NOCS model with multi-view loss of a few thousand parameters, and its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import BitMasks, Boxes, Instances

from modeling.tiny_roca import narrow_stages
from roca_nocs.modeling.criteria.dispersion import DispersionLoss
from roca_nocs.modeling.criteria.multiview_loss import MODES, MultiViewLoss
from roca_nocs.modeling.criteria.nocs_loss import NocsLoss
from roca_nocs.modeling.meta_arch.multiview_nocs import MultiViewNocsRCNN
from roca_nocs.modeling.roi_heads.nocs_head import NocsHead
from roca_nocs.modeling.roi_heads.nocs_heads import NocsROIHeads

MODEL = Path(__file__).parents[2] / "configs/common/models/mask_rcnn_r18_small.py"
HEIGHT, WIDTH, NUM_CLASSES, CHANNELS = 64, 96, 2, 16


def build_multiview(
    seed: int = 0, num_bins: int = 4, bin_offsets: bool = False, **options: Any
) -> MultiViewNocsRCNN:
    """The small detector with few channels, NOCS heads, and all losses of the multi-view track.

    Args:
        seed: of the weights.
        num_bins: 1 regresses.
        bin_offsets: of ``NocsHead``.
        options: of ``MultiViewNocsRCNN``.
    """
    torch.manual_seed(seed)
    config = LazyConfig.load(str(MODEL)).model
    bottom_up = config.backbone.bottom_up
    bottom_up.stem.out_channels = 8
    config.backbone.out_channels = CHANNELS
    config.roi_heads.num_classes = NUM_CLASSES
    config.roi_heads.box_head.fc_dims = [16, 16]
    config.roi_heads.mask_head.conv_dims = [8, 8]
    del bottom_up.stages
    bottom_up.stages = narrow_stages()
    parts = {name: instantiate(config.roi_heads[name]) for name in _HEAD_PARTS}
    names = ["p2", "p3", "p4", "p5"]
    pooler = ROIPooler(
        output_size=7,
        scales=tuple(1 / 2**level for level in range(2, 6)),
        sampling_ratio=2,
        pooler_type="ROIAlignV2",
    )
    heads = NocsROIHeads(
        **parts,
        num_classes=NUM_CLASSES,
        batch_size_per_image=16,
        positive_fraction=0.5,
        box_in_features=names,
        mask_in_features=names,
        nocs_in_features=names,
        nocs_pooler=pooler,
        nocs_head=NocsHead(
            in_channels=CHANNELS,
            num_classes=NUM_CLASSES,
            num_bins=num_bins,
            bin_offsets=bin_offsets,
            conv_dims=(8, 8),
        ),
        nocs_loss=NocsLoss(),
        dispersion=DispersionLoss() if num_bins > 1 else None,
    )
    settings: dict[str, Any] = {
        "multiview_loss": MultiViewLoss(modes=MODES, max_points=50),
        "view_score_threshold": 0.0,
        "max_detections_per_view": 4,
        **options,
    }
    return MultiViewNocsRCNN(
        backbone=instantiate(config.backbone),
        proposal_generator=instantiate(config.proposal_generator),
        roi_heads=heads,
        pixel_mean=list(config.pixel_mean),
        pixel_std=list(config.pixel_std),
        input_format="RGB",
        **settings,
    )


_HEAD_PARTS = (
    "proposal_matcher",
    "box_pooler",
    "box_head",
    "box_predictor",
    "mask_pooler",
    "mask_head",
)


def view_input(seed: int, shift: float) -> dict[str, Any]:
    """A view of a wall at 2 m, of a camera that stands ``shift`` metres to the right."""
    generator = torch.Generator().manual_seed(seed)
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 3] = shift
    intrinsics = torch.tensor([[80.0, 0, 47.5], [0, 80.0, 31.5], [0, 0, 1]])
    return {
        "image": torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=generator).byte(),
        "depth": torch.full((HEIGHT, WIDTH), 2.0),
        "intrinsics": intrinsics,
        "camera_pose": pose,
    }


def training_inputs(seed: int = 0) -> list[dict[str, Any]]:
    """Two labelled images with two objects each; the first carries two views."""
    generator = torch.Generator().manual_seed(100 + seed)
    inputs = []
    for number in range(2):
        masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
        masks[0, 8:40, 6:40] = True
        masks[1, 20:56, 50:90] = True
        instances = Instances((HEIGHT, WIDTH))
        instances.gt_boxes = Boxes(torch.tensor([[6.0, 8, 40, 40], [50, 20, 90, 56]]))
        instances.gt_classes = torch.tensor([0, 1])
        instances.gt_masks = BitMasks(masks)
        nocs = torch.rand(3, HEIGHT, WIDTH, generator=generator) - 0.5
        inputs.append(
            {
                "image": torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=generator).byte(),
                "height": HEIGHT,
                "width": WIDTH,
                "image_id": 10 * seed + number,
                "instances": instances,
                "nocs": nocs * masks.any(dim=0),
            }
        )
    inputs[0]["views"] = [view_input(seed, 0.0), view_input(seed + 1, 0.1)]
    return inputs
