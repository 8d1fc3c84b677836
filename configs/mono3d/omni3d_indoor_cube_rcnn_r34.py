"""Cube R-CNN R34-FPN on indoor Omni3D, the model of the published cubercnn_Res34_FPN checkpoints.

`tools/convert_checkpoint.py cube_rcnn` makes them loadable. Those of the outdoor and of all
datasets have 11 and 50 classes (`model.roi_heads.num_classes`), in the order of Omni3D's ids.
"""

from detectron2.config import LazyCall as L

from roca_nocs.utils.deferred import Deferred

from ..common.models.cube_rcnn_r34_fpn import model
from .omni3d_indoor_r50_fpn import dataloader, hooks, lr_multiplier, optimizer, train, trainer

__all__ = ["dataloader", "hooks", "lr_multiplier", "model", "optimizer", "train", "trainer"]

dataloader.train.mapper.image_format = "BGR"

# Of no effect with the published checkpoints, which have theirs.
model.roi_heads.priors = L(Deferred)(
    target="roca_nocs.data.mono3d_priors.dataset_priors",
    names="${dataloader.train.dataset.names}",
    shortest_side=448,
)

train.output_dir = "./output/mono3d_omni3d_indoor_cube_rcnn_r34"
train.init_checkpoint = ""
