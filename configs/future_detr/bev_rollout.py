"""FutureDETR on the embedded traffic, stages 3 and 4 of 4: masks of the present and the future.

See `bev_detection.py` for the recipe. From scratch (`train.init_checkpoint=""`) it trains too, but
needs longer.
"""

from roca_nocs.engine.param_groups import slow_sampling

from ..common.data_traffic import dataloader
from ..common.models.future_detr_bev import model
from ..common.optim import adamw as optimizer
from ..common.schedule import flat_then_cosine as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.rollout.max_steps = 4  # also while fewer are trained

dataloader.train.mapper.n_future = "${model.num_future}"

lr_multiplier.final = 0.02

optimizer.lr = 2e-4
optimizer.weight_decay = 1e-4
optimizer.params.lr_factor_func = slow_sampling

train.output_dir = "./output/future_detr_bev_rollout"
train.init_checkpoint = "./output/future_detr_bev_clips/model_final.pth"
train.seed = 1
train.max_iter = 12000
train.clip_gradients.norm = 0.1
train.checkpointer.period = 1000
train.eval_period = 2000
train.best.metric = "bev/VPQ_long"
