"""KITTI's object benchmark with the usual split of its training images (3712 and 3769).

Images are brought to about their own size and mirrored; labels follow.
"""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data import transforms as T

from roca_nocs.data.loader import build_train_loader
from roca_nocs.data.mono3d_mapper import Mono3DMapper
from roca_nocs.data.transforms import ColorJitter
from roca_nocs.evaluation.kitti_evaluator import KittiEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="kitti_train", filter_empty=False),
        mapper=L(Mono3DMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=[*range(320, 449, 16)], sample_style="choice", max_size=4096
                ),
                L(T.RandomFlip)(horizontal=True),
                L(ColorJitter)(contrast=(0.7, 1.3), brightness=(0.7, 1.3), saturation=(0.7, 1.3)),
            ],
            image_format="RGB",
        ),
        total_batch_size=16,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="kitti_val", filter_empty=False),
        mapper=L(Mono3DMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=384, max_size=4096)],
            image_format="${...train.mapper.image_format}",
        ),
        num_workers=4,
    ),
    evaluator=L(KittiEvaluator)(
        dataset_name="${..test.dataset.names}",
        train_dataset_name="${..train.dataset.names}",
        output_dir="${train.output_dir}",
    ),
)
