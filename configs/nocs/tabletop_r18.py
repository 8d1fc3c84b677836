"""NOCS R18-FPN on the embedded table tops, from scratch: bins and the symmetry loss.

Meant for the CPU: `--num-gpus 0 --num-processes 2`.
"""

from detectron2.config import LazyCall as L

from roca_nocs.data.class_symmetries import class_symmetries
from roca_nocs.utils.deferred import Deferred

from ..common.data_tabletop import dataloader
from ..common.models.nocs_r18_small import model
from ..common.optim import adamw as optimizer
from ..common.schedule import flat_then_cosine as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads.nocs_loss.rotations = L(class_symmetries)(
    names="${dataloader.train.dataset.names}", samples=6
)
model.class_sizes = L(Deferred)(
    target="roca_nocs.data.class_sizes.mean_sizes", names="${dataloader.train.dataset.names}"
)

optimizer.lr = 1e-3
optimizer.weight_decay = 1e-2

train.output_dir = "./output/nocs_tabletop_r18"
train.seed = 1
train.max_iter = 900
train.clip_gradients.norm = 5.0
train.checkpointer.period = 100
train.eval_period = 0
train.best.metric = "pose_aabb/10deg_5cm"
