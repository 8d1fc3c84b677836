"""NOCS R50-FPN on CAMERA, REAL and COCO, second of three stages: from the ResNet's fourth on."""

from .camera_real_r50_fpn import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.freeze_at = 3
optimizer.lr = 1e-4
train.init_checkpoint = "./output/nocs_camera_real_r50_fpn/model_final.pth"
train.output_dir = "./output/nocs_camera_real_r50_fpn_stage2"
train.max_iter = 30000
