"""ROCA's ablation, P + E + W: learned weights of the pixels in the Procrustes solve."""

from .roca_r50_fpn_scan2cad import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

# Retrieval without learning: the CAD model whose surface points are nearest.
model.roi_heads.alignment_head.retrieval_head.mode = "nearest"
model.cad_database.voxels = False
model.cad_database.points = True
dataloader.train.mapper.retrieval = None
train.output_dir = "./output/roca_ablation_pew"
