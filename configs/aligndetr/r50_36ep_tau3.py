"""AlignDETR R50 on COCO, 36 epochs, with a slower fall of the rank weights."""

from .r50_36ep import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.criterion.tau = 3.0
train.output_dir = "./output/aligndetr_r50_36ep_tau3"
