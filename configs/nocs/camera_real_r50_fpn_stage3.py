"""NOCS R50-FPN on CAMERA, REAL and COCO, last of three stages: all layers."""

from .camera_real_r50_fpn_stage2 import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.freeze_at = 0
optimizer.lr = 1e-5
train.init_checkpoint = "./output/nocs_camera_real_r50_fpn_stage2/model_final.pth"
train.output_dir = "./output/nocs_camera_real_r50_fpn_stage3"
train.max_iter = 270000
