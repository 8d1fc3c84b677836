"""AlignDETR R18 on the embedded rooms, from scratch.

Meant for the CPU: `--num-gpus 0 --num-processes 2`.
"""

from ..common.data_rooms import dataloader
from ..common.models.align_detr_r18_small import model
from ..common.optim import adamw as optimizer
from ..common.schedule import flat_then_cosine as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.num_classes = 9

lr_multiplier.final = 0.02

optimizer.lr = 4e-4
optimizer.weight_decay = 1e-2

train.output_dir = "./output/aligndetr_rooms_r18"
train.seed = 1
train.max_iter = 1200
train.clip_gradients.norm = 1.0
train.checkpointer.period = 200
train.eval_period = 600
train.best.metric = "bbox/AP"
