"""NOCS R50-FPN on CAMERA, REAL and COCO, first of three stages: the heads.

The schedule is that of the official code, whose results users reproduced: 100000 iterations of two
images for everything but the ResNet; then `camera_real_r50_fpn_stage2.py`, 30000 for its last two
stages too, ten times slower; then `camera_real_r50_fpn_stage3.py`, 270000 for all of it, a hundred
times slower. Each starts from the last file of the one before. The paper names 10000, 3000 and
70000 iterations (`train.max_iter`), with which users got poor results.

Starts from detectron2's COCO weights. Poses are evaluated on REAL275.
"""

from detectron2.config import LazyCall as L

from roca_nocs.data.class_symmetries import class_symmetries
from roca_nocs.utils.deferred import Deferred

from ..common.data_nocs import dataloader
from ..common.models.nocs_fpn import model
from ..common.optim import sgd as optimizer
from ..common.schedule import constant as lr_multiplier
from ..common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

# The pre-trained ResNet is that of MSRA: BGR, stride in the first 1x1 convolution.
model.backbone.bottom_up.stages.stride_in_1x1 = True
model.backbone.bottom_up.freeze_at = 5
model.input_format = "BGR"
model.pixel_mean = [103.53, 116.28, 123.675]
model.pixel_std = [1.0, 1.0, 1.0]

# Poses without depth; the models of CAMERA have no metric size.
model.class_sizes = L(Deferred)(
    target="roca_nocs.data.class_sizes.mean_sizes", names="nocs_real_train"
)

model.proposal_generator.anchor_generator.sizes = [[16], [32], [48], [64], [128]]
model.proposal_generator.loss_weight = 2.0

_heads = model.roi_heads
_heads.batch_size_per_image = 64
_heads.positive_fraction = 0.33
_heads.box_predictor.test_score_thresh = 0.7
_heads.box_predictor.test_nms_thresh = 0.3
_heads.nocs_head.norm = "StoredBN"
_heads.nocs_loss.rotations = L(class_symmetries)(names="${dataloader.train.dataset.names}")

optimizer.lr = 1e-3
optimizer.params.weight_decay_norm = None  # all weights decay alike

train.output_dir = "./output/nocs_camera_real_r50_fpn"
train.init_checkpoint = (
    "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x/137260431/model_final_a54504.pkl"
)
train.seed = 0
train.max_iter = 100000
train.clip_gradients.norm = 5.0
train.eval_period = 10000
train.best.metric = "pose_nocs/10deg_5cm"
