"""FutureDETR on the embedded traffic, first stage: the motion of annotated vehicles.

Without a detector clips are seen several times as fast. `bev_present.py` is next.
"""

from .bev_stack import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.train_motion_only = True

dataloader.train.total_batch_size = 32
dataloader.train.num_workers = 2

lr_multiplier.flat = 0.4

optimizer.lr = 2e-3

train.output_dir = "./output/future_detr_bev_motion"
train.init_checkpoint = ""
train.max_iter = 7000
train.eval_period = 0  # there is no detector yet
