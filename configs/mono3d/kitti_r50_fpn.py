"""Monocular 3D boxes R50-FPN on KITTI: yaw bins and encoded numbers, 172 passes over 3712 images.

With `model.roi_heads.cube_loss.mode=disentangled model.roi_heads.cube_head.uncertainty=True` the
boxes are learned from their corners, as Cube R-CNN does. The learning rate is that of its recipe
for 16 images.
"""

from detectron2.config import LazyCall as L
from omegaconf import ListConfig

from roca_nocs.engine.history import HistoryLogger
from roca_nocs.engine.schedule import multi_step
from roca_nocs.engine.skipping_trainer import SkippingTrainer
from roca_nocs.utils.deferred import Deferred

from ..common.data_kitti import dataloader
from ..common.models.mono3d_fpn import model
from ..common.optim import sgd as optimizer
from ..common.train import train

__all__ = ["dataloader", "hooks", "lr_multiplier", "model", "optimizer", "train", "trainer"]

model.roi_heads.priors = L(Deferred)(
    target="roca_nocs.data.mono3d_priors.dataset_priors",
    names="${dataloader.train.dataset.names}",
    shortest_side=384,
)

optimizer.lr = 0.01

train.output_dir = "./output/mono3d_kitti_r50_fpn"
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.seed = 0
train.max_iter = 40000
train.clip_gradients.norm = 35.0
train.checkpointer.period = 2000
train.eval_period = 4000
train.best.metric = "kitti_3d_strict_R40/Car-moderate"

lr_multiplier = L(multi_step)(max_iter="${train.max_iter}", milestones=[24000, 32000], warmup=1000)
# Loading a config leaves plain lists out.
hooks = ListConfig(
    [L(HistoryLogger)(output_dir="${train.output_dir}", period=232, metric="${train.best.metric}")]
)
trainer = L(SkippingTrainer)(tolerance=4.0)
