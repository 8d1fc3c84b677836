"""Mask R-CNN R18-FPN on the embedded rooms, from scratch: 600 iterations, about two passes.

Meant for the CPU: `--num-gpus 0 --num-processes 2` takes about ten minutes on two cores.
"""

from ..common.data_rooms import dataloader
from ..common.models.mask_rcnn_r18_small import model
from ..common.optim import adamw as optimizer
from ..common.schedule import flat_then_cosine as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads.num_classes = 9
# Boxes and masks learn from the foreground only, of which 12 regions an image are few.
model.roi_heads.batch_size_per_image = 64
model.roi_heads.positive_fraction = 0.5

lr_multiplier.final = 0.02

optimizer.lr = 1e-3
optimizer.weight_decay = 1e-2

train.output_dir = "./output/mask_rcnn_rooms_r18"
train.seed = 1
train.max_iter = 600
train.clip_gradients.norm = 5.0
train.checkpointer.period = 100
train.eval_period = 300
train.best.metric = "bbox/AP"
