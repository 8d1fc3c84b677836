"""ROCA R50-FPN on Scan2CAD and ScanNet25k: the published training and its weights.

Starts from detectron2's COCO weights. The published weights, converted by
`tools/convert_checkpoint.py roca`, are evaluated with
`--eval-only train.init_checkpoint=FILE`.
"""

from detectron2.config import LazyCall as L

from roca_nocs.utils.deferred import Deferred

from ..common.data_scan2cad import dataloader
from ..common.models.roca_fpn import model
from ..common.optim import sgd as optimizer
from ..common.schedule import roca as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

# The pre-trained ResNet is that of MSRA: BGR, stride in the first 1x1 convolution.
model.backbone.bottom_up.stages.stride_in_1x1 = True
model.input_format = "BGR"
model.pixel_mean = [103.53, 116.28, 123.675]
model.pixel_std = [1.0, 1.0, 1.0]

# Properties of the published code that its weights were trained with.
model.roi_heads.depth_head.squeeze_padding = True
model.roi_heads.box_predictor.published_indexing = True

model.cad_database = L(Deferred)(
    target="roca_nocs.data.cad_databases.build_cad_database",
    datasets="${dataloader.test.dataset.names}",
    voxels=True,
    points=False,
)
model.roi_heads.class_counts = L(Deferred)(
    target="roca_nocs.data.class_frequencies.class_frequencies",
    names="${dataloader.train.dataset.names}",
)

optimizer.lr = 1e-3
optimizer.weight_decay = 1e-4

train.output_dir = "./output/roca_r50_fpn_scan2cad"
train.init_checkpoint = (
    "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x/137260431/model_final_a54504.pkl"
)
train.seed = 2021
train.max_iter = 80000
train.clip_gradients.norm = 10.0
train.clip_gradients.per_parameter = True
train.checkpointer.period = 2500
train.eval_period = 2500
train.best.metric = "alignment/instance"
