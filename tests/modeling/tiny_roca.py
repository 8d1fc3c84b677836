"""A ROCA of a few thousand parameters, its inputs and its CAD models, for tests of whole models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import roma
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.structures import BitMasks, Boxes, Instances
from omegaconf import DictConfig

from roca_nocs.modeling.meta_arch import ROCA
from roca_nocs.structures import CadDatabase

MODEL = Path(__file__).parents[2] / "configs/common/models/roca_r18_small.py"
NUM_CLASSES, HEIGHT, WIDTH = 9, 64, 96
WIDTHS = (8, 16, 24, 32)


def narrow_stages() -> list[list[BasicBlock]]:
    """Four stages of one block each."""
    return [
        ResNet.make_stage(
            BasicBlock,
            1,
            in_channels=before,
            out_channels=width,
            stride_per_block=[1 if number == 0 else 2],
            norm="BN",
        )
        for number, (before, width) in enumerate(
            zip((WIDTHS[0], *WIDTHS[:-1]), WIDTHS, strict=True)
        )
    ]


def narrow(model: DictConfig) -> None:
    """Give a model configuration of the rooms few channels."""
    bottom_up = model.backbone.bottom_up
    bottom_up.stem.out_channels = WIDTHS[0]
    bottom_up.stages = L(narrow_stages)()
    model.backbone.out_channels = 16
    heads = model.roi_heads
    if "box_head" in heads:
        heads.box_head.fc_dims = [16, 16]
    heads.mask_head.conv_dims = [8, 8]
    heads.depth_head.update(level_channels=4, hidden_channels=8)
    align = heads.alignment_head
    align.in_channels = 16
    for name in ("shape_pixel_sizes", "shape_code_sizes", "noc_sizes"):
        align[name] = [16, 16]
    for name in ("scale_sizes", "translation_sizes", "confidence_sizes"):
        align[name] = [16]
    align.retrieval_head.shape_code_size = 16


def build_roca(
    retrieval: str = "nearest",
    *,
    wild: bool = False,
    cad_database: Callable[[], CadDatabase] | None = None,
    dropout: float = 0.3,
    squeeze_padding: bool = False,
    seed: int = 0,
    **heads: Any,
) -> ROCA:
    """The model of the rooms with few channels.

    Args:
        retrieval: mode.
        wild, cad_database, dropout, squeeze_padding: options of the model's parts.
        seed: of the weights.
        heads: options of ``ROCAHeads``.
    """
    model = LazyConfig.load(str(MODEL)).model
    narrow(model)
    model.cad_database = cad_database
    model.roi_heads.update(heads)
    model.roi_heads.depth_head.squeeze_padding = squeeze_padding
    model.roi_heads.alignment_head.dropout = dropout
    model.roi_heads.alignment_head.retrieval_head.update(mode=retrieval, wild=wild)
    torch.manual_seed(seed)
    built = instantiate(model)
    built.roi_heads.alignment_head.retrieval_head.max_regions = 2  # 3D convolutions are slow
    return built


def make_input(
    count: int,
    *,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    seed: int = 0,
    retrieval: str | None = None,
    scene: str | None = None,
) -> dict[str, Any]:
    """A training input with rectangular objects, each in a cell of its own so that none hides.

    Args:
        count: number of objects, at most 12.
        size: height and width, pixels.
        seed: of all values.
        retrieval: ``"voxels"`` or ``"points"``: with CAD models in this form.
        scene: name of the scene.
    """
    random = torch.Generator().manual_seed(seed)
    height, width = size
    cells = torch.randperm(12, generator=random)[:count]
    corners = torch.stack([cells % 4 * (width // 4), cells // 4 * (height // 3)], dim=1)
    extents = torch.stack(
        [torch.randint(n // 2, n, (count,), generator=random) for n in (width // 4, height // 3)],
        dim=1,
    )
    ids = torch.zeros(size, dtype=torch.uint8)
    for row, (x, y, right, bottom) in enumerate(torch.cat([corners, corners + extents], 1)):
        ids[y:bottom, x:right] = row + 1
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.cat([corners, corners + extents], dim=1).float())
    instances.gt_classes = torch.randint(NUM_CLASSES, (count,), generator=random)
    instances.gt_masks = BitMasks(ids == torch.arange(1, count + 1)[:, None, None])
    rotations = roma.rotvec_to_rotmat(torch.randn(count, 3, generator=random))
    instances.gt_rotations = rotations if count else torch.zeros(0, 3, 3)
    depth = 1 + 2 * torch.rand(size, generator=random)
    instances.gt_translations = torch.randn(count, 3, generator=random) + torch.tensor([0, 0, 2])
    instances.gt_scales = 0.5 + torch.rand(count, 3, generator=random)
    instances.gt_symmetries = torch.randint(4, (count,), generator=random)
    if retrieval is not None:
        shape = (count, 1, 32, 32, 32) if retrieval == "voxels" else (count, 50, 3)
        for name in ("gt_pos_cads", "gt_neg_cads"):
            values = torch.rand(shape, generator=random)
            instances.set(name, values > 0.9 if retrieval == "voxels" else values - 0.5)
    focal = 0.8 * width
    return {
        "image": torch.randint(256, (3, *size), generator=random, dtype=torch.uint8),
        "intrinsics": torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]),
        "instances": instances,
        "instance": ids,
        "depth": depth * (ids > 0),
        "scene_id": scene,
        "file_name": f"image_{seed}.png",
        "height": height,
        "width": width,
    }


def make_database(
    categories: Sequence[int], scenes: dict[str, Sequence[int]] | None = None
) -> CadDatabase:
    """CAD models of these classes, and the candidates of scenes."""
    random = torch.Generator().manual_seed(0)
    count = len(categories)
    return CadDatabase(
        keys=tuple(
            (f"synset_{category}", f"model_{row}") for row, category in enumerate(categories)
        ),
        category_ids=torch.tensor(categories),
        symmetries=torch.zeros(count, dtype=torch.int64),
        points=torch.rand(count, 30, 3, generator=random) - 0.5,
        scenes={name: torch.tensor(rows) for name, rows in (scenes or {}).items()},
    )


def fit_tiny_rooms(
    dataloader: DictConfig,
    lr_multiplier: DictConfig,
    optimizer: DictConfig,
    train: DictConfig,
    iterations: int,
) -> None:
    """Make the parts of a rooms config train and evaluate on the same 16 images, in seconds."""
    dataloader.train.total_batch_size = 4
    dataloader.train.dataset.names = "rooms_tiny_val"
    dataloader.test.dataset.names = "rooms_tiny_val"
    lr_multiplier.warmup = 5
    optimizer.lr = 3e-3
    train.max_iter = iterations
    train.log_period = 1
    train.best.metric = None
