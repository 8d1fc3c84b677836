"""FutureDETR on the embedded traffic, everything at once, in hours on a CPU (`--num-gpus 0`).

The aligned rasters of the three observed frames are the channels of a single one
(`temporal_fusion="stack"`), so that a clip is encoded once and no tracks have to be learned. The
present and one future step first, `model.num_future=1`, then all four from those weights; the
commands are in `docs/results.md`.
"""

from ..common.data_traffic import dataloader
from ..common.models.future_detr_bev_small import model
from ..common.optim import adamw as optimizer
from ..common.schedule import flat_then_cosine as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.temporal_fusion = "stack"
model.num_frames = 3
model.propagation = None
model.detector.backbone.in_channels = 15  # of three frames
model.detector.backbone.stem_stride = 2  # masks in cells of a metre cost a quarter
model.rollout.max_steps = 4  # also while fewer are trained
# In short trainings instances are told apart sooner: after 400 iterations of eight single frames a
# VPQ of 25.5 % on `traffic_val`, with the published 10 and 1 of 10.0 %.
model.criterion.weight_mask = 50.0
model.criterion.weight_dice = 5.0

dataloader.train.mapper.n_future = "${model.num_future}"
dataloader.train.total_batch_size = 4

lr_multiplier.final = 0.02

optimizer.lr = 5e-4
optimizer.weight_decay = 1e-4

train.output_dir = "./output/future_detr_bev_stack_small"
train.seed = 1
train.max_iter = 3000
train.clip_gradients.norm = 1.0
train.checkpointer.period = 250
train.eval_period = 1000
train.best.metric = "bev/VPQ_long"
