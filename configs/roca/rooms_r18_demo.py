"""ROCA R18-FPN on the embedded rooms in a few minutes: what `make demo` trains.

As the published training starts from a Mask R-CNN of COCO, this one starts from the detector of the
shipped weights, which saw these training rooms and others, none of validation. Its ResNet stays as
it is, which takes a quarter off a step; depth and poses are learned from nothing.
"""

from .rooms_r18 import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

train.output_dir = "./output/roca_rooms_r18_demo"
train.init_checkpoint = "models/roca_rooms_r18.safetensors"
train.init_modules = [
    "backbone",
    "proposal_generator",
    "roi_heads.box_head",
    "roi_heads.box_predictor",
    "roi_heads.mask_head",
]
model.backbone.bottom_up.freeze_at = 5
train.max_iter = 340
