"""ROCA R18-FPN on the embedded rooms: the first stage of the weights in `models/`, 7 passes."""

from .rooms_r18 import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

lr_multiplier.final = 0.02
train.output_dir = "./output/roca_rooms_r18_long"
train.max_iter = 2200
