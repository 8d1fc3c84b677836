"""NOCS R50-FPN with the model and training of the ganocs project, whose weights it can load.

`tools/convert_checkpoint.py ganocs IN OUT` converts them. The model is torchvision's Mask R-CNN:
RGB, stride in the 3x3 convolution, first version of ROI align. The ResNet is not trained. Real
images count three times as much as CAMERA and COCO.
"""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params

from roca_nocs.data.class_symmetries import class_symmetries
from roca_nocs.utils.deferred import Deferred

from ..common.data_nocs import dataloader
from ..common.models.nocs_fpn import model
from ..common.schedule import constant as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

dataloader.train.dataset.shares = [1, 3, 1]
dataloader.train.mapper.image_format = "RGB"
dataloader.train.total_batch_size = 6

model.backbone.bottom_up.freeze_at = 5
# Poses without depth; the models of CAMERA have no metric size.
model.class_sizes = L(Deferred)(
    target="roca_nocs.data.class_sizes.mean_sizes", names="nocs_real_train"
)

_heads = model.roi_heads
for _pooler in (_heads.box_pooler, _heads.mask_pooler, _heads.nocs_pooler):
    _pooler.pooler_type = "ROIAlign"
    _pooler.sampling_ratio = 2
_heads.box_predictor.test_score_thresh = 0.7
_heads.nocs_head.bin_rule = "ganocs"
_heads.nocs_loss.rotations = L(class_symmetries)(names="${dataloader.train.dataset.names}")

optimizer = L(torch.optim.Adam)(
    params=L(get_default_optimizer_params)(), lr=1e-4, betas=(0.9, 0.99), weight_decay=1e-4
)

train.output_dir = "./output/nocs_ganocs_r50_fpn"
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.seed = 0
train.max_iter = 100000
train.eval_period = 10000
train.best.metric = "pose_nocs/10deg_5cm"
