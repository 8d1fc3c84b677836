"""Ablation of tabletop_r18: the annotated coordinates are the only right ones, no symmetry loss."""

from .tabletop_r18 import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads.nocs_loss.rotations.symmetries = {}
train.output_dir = "./output/nocs_tabletop_r18_nosym"
