"""AlignDETR R50 on COCO, 24 epochs, with a slower fall of the rank weights."""

from .r50_24ep import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.criterion.tau = 3.0
train.output_dir = "./output/aligndetr_r50_24ep_tau3"
