"""FutureDETR R50 on COCO, the last stage of the backbone dilated instead of strided."""

from .image_r50 import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.detector.backbone.dilation = True

train.output_dir = "./output/future_detr_image_r50_dc5"
