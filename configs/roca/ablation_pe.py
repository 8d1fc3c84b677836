"""ROCA's ablation, P + E: trained end to end through the Procrustes solve."""

from .ablation_pew import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads.alignment_head.noc_weights = False
train.output_dir = "./output/roca_ablation_pe"
