"""Monocular 3D boxes R50-FPN on indoor Omni3D: full rotations, learned from corners.

The schedule is the one published for Cube R-CNN indoors: batches of 128 images.
"""

from detectron2.config import LazyCall as L

from roca_nocs.engine.history import HistoryLogger
from roca_nocs.engine.schedule import multi_step
from roca_nocs.engine.skipping_trainer import SkippingTrainer
from roca_nocs.utils.deferred import Deferred

from ..common.data_omni3d_indoor import dataloader
from ..common.models.mono3d_fpn import model
from ..common.optim import sgd as optimizer
from ..common.train import train

__all__ = ["dataloader", "hooks", "lr_multiplier", "model", "optimizer", "train", "trainer"]

_heads = model.roi_heads
_heads.num_classes = 38
_heads.cube_head.pose_type = "6d"
_heads.cube_head.uncertainty = True
_heads.cube_loss.mode = "disentangled"
_heads.box_predictor.test_score_thresh = 0.01
_heads.priors = L(Deferred)(
    target="roca_nocs.data.mono3d_priors.dataset_priors",
    names="${dataloader.train.dataset.names}",
    shortest_side=448,
)

optimizer.lr = 0.08

train.output_dir = "./output/mono3d_omni3d_indoor_r50_fpn"
train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
train.seed = 0
train.max_iter = 116000
train.clip_gradients.norm = 35.0
train.eval_period = 29000
train.best.metric = "omni3d_3d/AP"

lr_multiplier = L(multi_step)(max_iter="${train.max_iter}", milestones=[69600, 92800], warmup=3625)
hooks = dict(
    history=L(HistoryLogger)(
        output_dir="${train.output_dir}", period=1000, metric="${train.best.metric}"
    )
)
trainer = L(SkippingTrainer)(tolerance=4.0)
