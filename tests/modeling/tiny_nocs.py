"""A NOCS model of a few thousand parameters and its inputs, for tests of whole models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate

from modeling.tiny_roca import HEIGHT, WIDTH, WIDTHS, narrow_stages
from modeling.tiny_roca import make_input as make_scene
from roca_nocs.geometry.symmetry import class_rotations
from roca_nocs.modeling.meta_arch import NocsRCNN

MODEL = Path(__file__).parents[2] / "configs/common/models/nocs_r18_small.py"
CLASSES = ("bottle", "bowl", "camera", "can", "laptop", "mug")
ROUND = ("bottle", "bowl", "can")
SIDE = 24
"""Of the maps of regions."""


def round_rotations(samples: int = 6) -> torch.Tensor:
    """(6, samples, 3, 3) rotations of the classes."""
    symmetries = {name: {"axis": "y", "order": "inf"} for name in ROUND}
    return class_rotations(CLASSES, symmetries, samples)


def narrow_nocs(model: Any) -> None:
    """Give a model configuration of the table tops few channels."""
    model.backbone.bottom_up.stem.out_channels = WIDTHS[0]
    model.backbone.bottom_up.stages = L(narrow_stages)()
    model.backbone.out_channels = 16
    heads = model.roi_heads
    heads.box_head.fc_dims = [16, 16]
    heads.mask_head.conv_dims = [8, 8]
    heads.nocs_head.conv_dims = [8, 8]


def build_nocs(
    *,
    symmetric: bool = True,
    seed: int = 0,
    head: dict[str, Any] | None = None,
    loss: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    **heads: Any,
) -> NocsRCNN:
    """The model of the table tops with few channels.

    Args:
        symmetric: whether bottles, bowls and cans are round.
        seed: of the weights.
        head, loss, options, heads: options of ``NocsHead``, ``NocsLoss``, ``NocsRCNN`` and
            ``NocsROIHeads``.
    """
    model = LazyConfig.load(str(MODEL)).model
    narrow_nocs(model)
    model.roi_heads.nocs_head.update({"num_bins": 8, **(head or {})})
    model.roi_heads.nocs_loss.update(loss or {})
    torch.manual_seed(seed)
    if symmetric:
        model.roi_heads.nocs_loss.rotations = L(round_rotations)()
    model.update(options or {})
    model.roi_heads.update(heads)
    return instantiate(model)


def make_input(
    count: int,
    *,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    seed: int = 0,
    labels: bool = True,
    depth: bool = True,
) -> dict[str, Any]:
    """A training input with ``count`` rectangular objects and random coordinates.

    Args:
        count, size, seed: see ``tiny_roca.make_input``.
        labels: with ``nocs``.
        depth: with ``depth``.
    """
    record = make_scene(count, size=size, seed=seed)
    random = torch.Generator().manual_seed(seed)
    instances = record["instances"]
    instances.gt_classes = torch.randint(len(CLASSES), (count,), generator=random)
    for name in list(instances.get_fields()):
        if name not in ("gt_boxes", "gt_classes", "gt_masks"):
            instances.remove(name)
    if labels:
        directions = torch.randn(3, *size, generator=random)
        nocs = 0.5 * directions / directions.norm(dim=0)
        record["nocs"] = nocs * (record["instance"] > 0)
    if not depth:
        del record["depth"]
    return record
