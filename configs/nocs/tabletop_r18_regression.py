"""tabletop_r18 with a head that regresses the coordinates (soft L1 distance) instead of bins."""

from .tabletop_r18 import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads.nocs_head.num_bins = 1
train.output_dir = "./output/nocs_tabletop_r18_regression"
