"""ROCA on AlignDETR on the embedded rooms: data, schedule and length of rooms_r18."""

from roca_nocs.engine.param_groups import slow_proposals

from ..common.models.roca_align_detr_r18_small import model
from .rooms_r18 import dataloader, lr_multiplier, optimizer, train
from .rooms_r18 import model as _with_box_branch

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.cad_database = _with_box_branch.cad_database
model.roi_heads.class_counts = _with_box_branch.roi_heads.class_counts
model.roi_heads.alignment_head.symmetry_aware = True

# AlignDETR keeps the rate of its own training on the rooms, 4e-4.
optimizer.params.lr_factor_func = slow_proposals

train.output_dir = "./output/roca_rooms_r18_align_detr"
