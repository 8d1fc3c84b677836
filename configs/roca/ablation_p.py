"""ROCA's ablation, P: Procrustes solved but not trained through, equal weights, nearest CAD."""

from .ablation_pe import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads.alignment_head.end_to_end = False
train.output_dir = "./output/roca_ablation_p"
