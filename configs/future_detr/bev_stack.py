"""FutureDETR on the embedded traffic, everything at once, in minutes on a GPU.

`bev_stack_small.py` with wider layers, masks at the resolution of the raster and larger batches.
The present and one future step first, then all four from those weights; the commands and what they
reached are in `docs/results.md`.
"""

from .bev_stack_small import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.detector.backbone.stem_stride = 1
model.detector.backbone.width = 64
model.detector.hidden_dim = 256
model.detector.dim_feedforward = 1024

dataloader.train.total_batch_size = 32
dataloader.train.num_workers = 8
dataloader.test.num_workers = 8

lr_multiplier.warmup = 100
lr_multiplier.flat = 0.5

optimizer.lr = 4e-4

train.output_dir = "./output/future_detr_bev_stack"
train.max_iter = 820
train.eval_period = 0
train.cudnn_benchmark = True
train.float32_precision = "high"
