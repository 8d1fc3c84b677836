"""FutureDETR R50 on single images of COCO: boxes and masks, 50 epochs of 32 images a step.

To start from published weights, convert them with `tools/convert_checkpoint.py`, see
`docs/future_detr.md`.
"""

from detectron2.config import LazyCall as L

from roca_nocs.engine.schedule import multi_step

from ..common.data_coco_detr import dataloader
from ..common.models.future_detr_image import model
from ..common.optim import adamw_detr_fast as optimizer
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

for _part in (dataloader.train, dataloader.test):
    _part.mapper.mask_on = True
    _part.mapper.mask_format = "bitmask"

dataloader.train.total_batch_size = 32  # what the learning rate of 2e-4 is published with

lr_multiplier = L(multi_step)(
    max_iter="${train.max_iter}",
    milestones=[150000],  # after 40 of 50 epochs of 3750 steps
    warmup=0,
)

train.output_dir = "./output/future_detr_image_r50"
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.max_iter = 187500
train.clip_gradients.norm = 0.1
train.log_period = 100
train.best.metric = "segm/AP"
