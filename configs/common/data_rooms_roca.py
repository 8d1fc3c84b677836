"""The embedded rooms with what ROCA learns: depth, poses and CAD models.

Images are not mirrored: no rotation explains a mirrored scene.
"""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator

from roca_nocs.data.loader import build_train_loader
from roca_nocs.data.roca_mapper import RocaMapper
from roca_nocs.data.transforms import ColorJitter
from roca_nocs.evaluation import AlignmentEvaluator, RocaFrameEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="rooms_train"),
        mapper=L(RocaMapper)(
            is_train=True,
            augmentations=[L(ColorJitter)(contrast=(0.8, 1.2), brightness=(0.8, 1.2))],
            image_format="RGB",
            # Floor and walls tell a network that starts from nothing more about depth than the
            # objects alone.
            scene_depth=True,
        ),
        total_batch_size=8,
        num_workers=0,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="rooms_val", filter_empty=False),
        mapper=L(RocaMapper)(
            is_train=False,
            augmentations=[],
            image_format="${...train.mapper.image_format}",
        ),
        num_workers=0,
    ),
    evaluator=[
        L(COCOEvaluator)(dataset_name="${...test.dataset.names}"),
        L(RocaFrameEvaluator)(dataset_name="${...test.dataset.names}"),
        L(AlignmentEvaluator)(
            dataset_name="${...test.dataset.names}",
            train_dataset_name="${...train.dataset.names}",
        ),
    ],
)
