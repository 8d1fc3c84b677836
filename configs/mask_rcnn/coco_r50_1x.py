"""Mask R-CNN R50-FPN on COCO 2017 with detectron2's 1x schedule."""

from ..common.data_coco import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import sgd as optimizer
from ..common.schedule import coco_1x as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

train.output_dir = "./output/mask_rcnn_coco_r50_1x"
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.best.metric = "segm/AP"
