"""tabletop_r18 with bins and the place in them, which makes up for their width."""

from .tabletop_r18 import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads.nocs_head.bin_offsets = True
train.output_dir = "./output/nocs_tabletop_r18_offset"
