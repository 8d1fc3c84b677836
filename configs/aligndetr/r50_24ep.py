"""AlignDETR R50 on COCO, 24 epochs."""

from .r50_12ep import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

lr_multiplier.milestones = [150000]  # after 20 epochs
train.max_iter = 180000
train.output_dir = "./output/aligndetr_r50_24ep"
