"""FutureDETR R18 on single images of the embedded rooms, from scratch.

Meant for the CPU: `--num-gpus 0 --num-processes 2`.
"""

from ..common.data_rooms import dataloader
from ..common.models.future_detr_image import model
from ..common.optim import adamw as optimizer
from ..common.schedule import flat_then_cosine as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

# From scratch the normalisation must learn: frozen statistics would be those of no data.
model.detector.backbone.depth = 18
model.detector.backbone.norm = "BN"
model.detector.backbone.freeze_at = 0
# Images of 160x120 pixels: levels from 40x30 to 5x4 cells, masks from 20x15 to 80x60.
model.detector.backbone.stem_stride = 2
model.detector.seg_stride = 8

model.detector.num_classes = 9
model.detector.num_queries = 50
model.detector.hidden_dim = 128
model.detector.enc_layers = 3
model.detector.dec_layers = 3
model.detector.dim_feedforward = 512
model.detector.dropout = 0.0

model.pixel_mean = [110.0, 110.0, 110.0]
model.pixel_std = [58.0, 58.0, 58.0]

lr_multiplier.final = 0.02

optimizer.lr = 4e-4
optimizer.weight_decay = 1e-2

train.output_dir = "./output/future_detr_image_r18"
train.seed = 1
train.max_iter = 1200
train.clip_gradients.norm = 1.0
train.checkpointer.period = 200
train.eval_period = 600
train.best.metric = "segm/AP"
