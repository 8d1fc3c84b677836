"""tabletop_r18 with a second stream: views of tables without labels shall agree.

Each step also sees three views of each of two tables of `tabletop_real_train`, whose cameras are
known relative to their most frequent object.
"""

from detectron2.config import LazyCall as L
from detectron2.data import get_detection_dataset_dicts

from roca_nocs.data.loader import build_train_loader
from roca_nocs.data.multiview import MultiViewMapper, ViewMapper, build_joint_loader, group_views
from roca_nocs.modeling.criteria.multiview_loss import MultiViewLoss
from roca_nocs.modeling.meta_arch import MultiViewNocsRCNN

from .tabletop_r18 import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

dataloader.train._target_ = build_joint_loader
dataloader.train.multiview = L(build_train_loader)(
    dataset=L(group_views)(
        records=L(get_detection_dataset_dicts)(names="tabletop_real_train"), frame="object"
    ),
    mapper=L(MultiViewMapper)(
        view_mapper=L(ViewMapper)(image_format="${....mapper.image_format}"), num_views=3
    ),
    total_batch_size=2,
    aspect_ratio_grouping=False,
    num_workers="${..num_workers}",
)

model._target_ = MultiViewNocsRCNN
model.multiview_loss = L(MultiViewLoss)(modes=["pixelwise"], weight=1.0, max_pixels=1024)
model.view_score_threshold = 0.5
model.max_detections_per_view = 8

train.output_dir = "./output/nocs_tabletop_multiview_r18"
