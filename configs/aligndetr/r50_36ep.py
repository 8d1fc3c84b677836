"""AlignDETR R50 on COCO, 36 epochs."""

from .r50_12ep import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

lr_multiplier.milestones = [225000]  # after 30 epochs
train.max_iter = 270000
train.output_dir = "./output/aligndetr_r50_36ep"
