"""tabletop_r18 with one tower for x, y and z, twice as deep and wide, as the official program's."""

from .tabletop_r18 import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads.nocs_head.shared_tower = True
model.roi_heads.nocs_head.conv_dims = [128, 128, 128, 128, 128]
train.output_dir = "./output/nocs_tabletop_r18_shared"
