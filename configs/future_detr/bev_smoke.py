"""FutureDETR by heart: four clips of the embedded traffic, two frames and two future steps.

Everything at once and from scratch, in minutes on a CPU (`--num-gpus 0`); VPQ of these four clips
must exceed 80 %. Needs `prepare_embedded.py --kind traffic --preset tiny`.
"""

from detectron2.config import LazyCall as L

from roca_nocs.data.mixtures import first_records

from ..common.data_traffic import dataloader
from ..common.models.future_detr_bev_small import model
from ..common.optim import adamw as optimizer
from ..common.schedule import flat_then_cosine as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.num_future = 2
model.propagation.drop = 0.0
model.propagation.fp_ratio = 0.0

dataloader.train.dataset.names = "traffic_tiny_train"
dataloader.test.dataset.names = "traffic_tiny_train"
for _part in (dataloader.train, dataloader.test):
    _part.dataset = L(first_records)(records=_part.dataset, count=4)
dataloader.train.mapper.n_past = 2
dataloader.train.mapper.n_future = 2
dataloader.train.mapper.augmentation = None
dataloader.train.total_batch_size = 1

lr_multiplier.final = 0.02

optimizer.lr = 5e-4
optimizer.weight_decay = 1e-4

train.output_dir = "./output/future_detr_bev_smoke"
train.seed = 1
train.max_iter = 1000
train.clip_gradients.norm = 1.0
train.checkpointer.period = 100
train.eval_period = 250
train.log_period = 10
train.best.metric = "bev/VPQ_long"
