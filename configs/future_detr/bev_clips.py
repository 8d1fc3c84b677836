"""FutureDETR on the embedded traffic, stage 2 of 4: clips of three frames with tracked queries.

See `bev_detection.py` for the recipe; its commands train with 2, 3, 4 and 5 frames one after
another (`dataloader.train.mapper.n_past`). Frames are one or two steps apart, at random.
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
model.rollout = None
model.num_future = 0

dataloader.train.mapper.n_future = 0
dataloader.train.mapper.max_interval = 2
dataloader.test.mapper.n_past = 3  # the present of the evaluation, however long clips are trained

lr_multiplier.final = 0.02

optimizer.lr = 2e-4
optimizer.weight_decay = 1e-4
optimizer.params.lr_factor_func = slow_sampling

train.output_dir = "./output/future_detr_bev_clips"
train.init_checkpoint = "./output/future_detr_bev_detection/model_final.pth"
train.seed = 1
train.max_iter = 6000
train.clip_gradients.norm = 0.1
train.checkpointer.period = 1000
train.eval_period = 2000
train.best.metric = "bev/VPQ_long"
