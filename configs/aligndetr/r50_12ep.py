"""AlignDETR R50 with four feature levels on COCO, 12 epochs: two queries per target, tau 1.5."""

from ..common.data_coco_detr import dataloader
from ..common.models.align_detr_r50 import model
from ..common.optim import adamw_detr as optimizer
from ..common.schedule import detr as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

dataloader.train.num_workers = 16

train.output_dir = "./output/aligndetr_r50_12ep"
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.max_iter = 90000
train.clip_gradients.norm = 0.1
train.ema.decay = 0.999
train.checkpointer.update(period=10000, max_to_keep=100)
train.log_period = 100
train.best.metric = "bbox/AP"
