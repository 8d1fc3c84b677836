"""ROCA's ablation, P + E + W + R: learned retrieval, without completion.

With completion it is `configs/roca/roca_r50_fpn_scan2cad.py`.
"""

from .roca_r50_fpn_scan2cad import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads.alignment_head.retrieval_head.mode = "resnet_resnet+image"
train.output_dir = "./output/roca_ablation_pewr"
