"""FutureDETR on the embedded traffic, stage 1 of 4: boxes in single frames.

The whole recipe, whose commands are in `docs/future_detr.md`; each stage starts from the weights of
the one before (`train.init_checkpoint`) and has an output folder of its own:

1. this file: boxes and classes of single frames;
2. `bev_clips.py`: clips of two frames first, then of up to five, whose queries are carried on;
3. `bev_rollout.py model.freeze_detector=True model.num_future=1 train.max_iter=3000`: masks,
   semantics, flow and one future step on a fixed detector;
4. `bev_rollout.py optimizer.lr=1e-4`: everything, four future steps; with
   `model.num_future=2 train.max_iter=3000` before it the future grows step by step.
"""

from roca_nocs.engine.param_groups import slow_sampling

from ..common.data_traffic import dataloader
from ..common.models.future_detr_bev import model
from ..common.optim import adamw as optimizer
from ..common.schedule import flat_then_cosine as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.detector.mask_type = None
model.detector.num_semantic_classes = 0
model.propagation = None
model.rollout = None
model.num_frames = 1
model.num_future = 0

dataloader.train.mapper.n_past = 1
dataloader.train.mapper.n_future = 0

lr_multiplier.final = 0.02

optimizer.lr = 2e-4
optimizer.weight_decay = 1e-4
optimizer.params.lr_factor_func = slow_sampling

train.output_dir = "./output/future_detr_bev_detection"
train.seed = 1
train.max_iter = 6000
train.clip_gradients.norm = 0.1
train.checkpointer.period = 1000
train.eval_period = 2000
train.best.metric = "bev/VPQ_long"
