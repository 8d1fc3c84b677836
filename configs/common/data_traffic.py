"""The embedded traffic: clips of rasters of 96x96 cells in the bird's-eye view.

Training turns, scales and mirrors whole clips, poses included. Evaluation is over the present and
four future frames, beside predictions that need no model.
"""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts

from roca_nocs.data.bev_augmentation import BevAugmentation
from roca_nocs.data.bev_mapper import BevClipMapper
from roca_nocs.data.loader import build_train_loader
from roca_nocs.evaluation.bev_evaluator import BevEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="traffic_train", filter_empty=False),
        mapper=L(BevClipMapper)(
            n_past=3,
            n_future=4,
            augmentation=L(BevAugmentation)(
                rotation=22.5, scale=(0.95, 1.05), flip_x=0.5, flip_y=0.5
            ),
        ),
        total_batch_size=8,
        num_workers=0,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="traffic_val", filter_empty=False),
        mapper=L(BevClipMapper)(
            n_past="${...train.mapper.n_past}",
            n_future="${...train.mapper.n_future}",
            augmentation=None,
        ),
        num_workers=0,
    ),
    evaluator=L(BevEvaluator)(),
)
