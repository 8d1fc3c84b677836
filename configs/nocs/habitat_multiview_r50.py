"""NOCS R50-FPN on Habitat's chairs with the multi-view losses of ganocs, one scene a step."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params

from roca_nocs.data.class_symmetries import class_symmetries
from roca_nocs.modeling.criteria.multiview_loss import MultiViewLoss
from roca_nocs.modeling.meta_arch import MultiViewNocsRCNN
from roca_nocs.utils.deferred import Deferred

from ..common.data_habitat import dataloader
from ..common.models.nocs_fpn import model
from ..common.schedule import flat_then_cosine as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model._target_ = MultiViewNocsRCNN
model.multiview_loss = L(MultiViewLoss)(modes=["pixelwise", "alignment"], weight=1.0)
model.view_score_threshold = 0.7
model.roi_heads.num_classes = 1
model.roi_heads.nocs_loss.rotations = L(class_symmetries)(names="${dataloader.train.dataset.names}")
model.class_sizes = L(Deferred)(
    target="roca_nocs.data.class_sizes.mean_sizes", names="${dataloader.train.dataset.names}"
)

optimizer = L(torch.optim.Adam)(
    params=L(get_default_optimizer_params)(), lr=1e-4, betas=(0.9, 0.99), weight_decay=1e-4
)

train.output_dir = "./output/nocs_habitat_multiview_r50"
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.seed = 0
train.max_iter = 30000
train.checkpointer.period = 1000
train.eval_period = 5000
train.best.metric = "pose_aabb/10deg_5cm"
