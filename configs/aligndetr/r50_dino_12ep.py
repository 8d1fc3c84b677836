"""The baseline: AlignDETR's model with the losses of DINO, on COCO, 12 epochs."""

from .r50_12ep import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

# One query per target, which is a full positive however well its box fits.
model.criterion.match_num = [1, 1, 1, 1, 1, 1, 1]
model.criterion.cls_loss = "focal"
train.output_dir = "./output/aligndetr_r50_dino_12ep"
