"""Monocular 3D boxes R18-FPN on the embedded street, from scratch.

Meant for the CPU: `--num-gpus 0 --num-processes 2`.
"""

from detectron2.config import LazyCall as L

from roca_nocs.engine.history import HistoryLogger
from roca_nocs.utils.deferred import Deferred

from ..common.data_street import dataloader
from ..common.models.mono3d_r18_small import model
from ..common.optim import adamw as optimizer
from ..common.schedule import flat_then_cosine as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "hooks", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads.priors = L(Deferred)(
    target="roca_nocs.data.mono3d_priors.dataset_priors",
    names="${dataloader.train.dataset.names}",
)

# AP over all recalls, which chooses the best checkpoint, gains from detections of low scores.
model.roi_heads.box_predictor.test_score_thresh = 0.01
model.roi_heads.box_predictor.test_topk_per_image = 100

lr_multiplier.final = 0.02

optimizer.lr = 1e-3
optimizer.weight_decay = 1e-2

train.output_dir = "./output/mono3d_street_r18"
train.seed = 1
train.max_iter = 1500
train.clip_gradients.norm = 5.0
train.checkpointer.period = 150
train.eval_period = 500
train.best.metric = "omni3d_3d/AP"

hooks = dict(
    history=L(HistoryLogger)(
        output_dir="${train.output_dir}", period=150, metric="${train.best.metric}"
    )
)
