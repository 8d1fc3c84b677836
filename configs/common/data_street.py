"""The embedded street: cars, pedestrians and cyclists in the layout of KITTI, 384x112 images.

`street_omni3d_val` has the same images in the format of Omni3D, with AP over all 3D IoUs from 0.05
to 0.5 beside that of KITTI, whose thresholds are strict.
"""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data import transforms as T

from roca_nocs.data.loader import build_train_loader
from roca_nocs.data.mono3d_mapper import Mono3DMapper
from roca_nocs.data.transforms import ColorJitter
from roca_nocs.evaluation.kitti_evaluator import KittiEvaluator
from roca_nocs.evaluation.omni3d_evaluator import Omni3DEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="street_train", filter_empty=False),
        mapper=L(Mono3DMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomFlip)(horizontal=True),
                L(ColorJitter)(contrast=(0.8, 1.2), brightness=(0.8, 1.2)),
            ],
            image_format="RGB",
        ),
        total_batch_size=8,
        num_workers=0,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="street_val", filter_empty=False),
        mapper=L(Mono3DMapper)(
            is_train=False,
            augmentations=[],
            image_format="${...train.mapper.image_format}",
        ),
        num_workers=0,
    ),
    evaluator=[
        L(KittiEvaluator)(
            dataset_name="${...test.dataset.names}",
            train_dataset_name="${...train.dataset.names}",
            output_dir="${train.output_dir}",
        ),
        L(Omni3DEvaluator)(
            dataset_name="${...test.dataset.names}",
            train_dataset_name="${...train.dataset.names}",
        ),
    ],
)
