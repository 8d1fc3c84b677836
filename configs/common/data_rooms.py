"""The embedded rooms: nine furniture classes, 160x120 images, masks as RLE.

`rooms_val` shows CAD models that never occur in training, `rooms_val_seen` those that do.
"""

from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.evaluation import COCOEvaluator

from roca_nocs.data.loader import build_train_loader

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="rooms_train"),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomFlip)(horizontal=True),
                L(T.RandomBrightness)(intensity_min=0.8, intensity_max=1.2),
                L(T.RandomContrast)(intensity_min=0.8, intensity_max=1.2),
            ],
            image_format="RGB",
            use_instance_mask=True,
            instance_mask_format="bitmask",
        ),
        total_batch_size=8,
        num_workers=0,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="rooms_val", filter_empty=False),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[],
            image_format="${...train.mapper.image_format}",
        ),
        num_workers=0,
    ),
    evaluator=L(COCOEvaluator)(dataset_name="${..test.dataset.names}"),
)
