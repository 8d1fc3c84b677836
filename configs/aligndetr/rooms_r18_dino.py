"""The baseline: the model of rooms_r18 with the losses of DINO."""

from .rooms_r18 import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

# One query per target, which is a full positive however well its box fits.
model.criterion.match_num = [1, 1, 1, 1]
model.criterion.cls_loss = "focal"
train.output_dir = "./output/aligndetr_rooms_r18_dino"
