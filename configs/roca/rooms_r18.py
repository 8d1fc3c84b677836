"""ROCA R18-FPN on the embedded rooms, from scratch.

Meant for the CPU: `--num-gpus 0 --num-processes 2`. A longer schedule is
`configs/roca/rooms_r18_long.py`; `make demo` trains `configs/roca/rooms_r18_demo.py`.
"""

from detectron2.config import LazyCall as L

from roca_nocs.utils.deferred import Deferred

from ..common.data_rooms_roca import dataloader
from ..common.models.roca_r18_small import model
from ..common.optim import adamw as optimizer
from ..common.schedule import flat_then_cosine as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.cad_database = L(Deferred)(
    target="roca_nocs.data.cad_databases.build_cad_database",
    datasets="${dataloader.test.dataset.names}",
    voxels=False,
    points=True,
)
model.roi_heads.class_counts = L(Deferred)(
    target="roca_nocs.data.class_frequencies.class_frequencies",
    names="${dataloader.train.dataset.names}",
)
# Tables and bins look alike from several sides: the nearest of these poses is the target.
model.roi_heads.alignment_head.symmetry_aware = True

optimizer.lr = 1e-3
optimizer.weight_decay = 1e-2

train.output_dir = "./output/roca_rooms_r18"
train.seed = 1
train.max_iter = 600
train.clip_gradients.norm = 5.0
train.checkpointer.period = 100
train.eval_period = 0
train.best.metric = "alignment_visible/instance"
