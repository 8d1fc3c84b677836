"""The embedded rooms: nine furniture classes, 160x120 images, masks from the instance maps.

`rooms_val` shows CAD models that never occur in training, `rooms_val_seen` those that do.
"""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data import transforms as T
from detectron2.evaluation import COCOEvaluator

from roca_nocs.data.loader import build_train_loader
from roca_nocs.data.mappers import SceneMapper
from roca_nocs.data.transforms import ColorJitter

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="rooms_train"),
        mapper=L(SceneMapper)(
            is_train=True,
            augmentations=[
                # 2D detection alone: without poses and NOCS maps an image may be mirrored.
                L(T.RandomFlip)(horizontal=True),
                L(ColorJitter)(contrast=(0.8, 1.2), brightness=(0.8, 1.2)),
            ],
            image_format="RGB",
        ),
        total_batch_size=8,
        num_workers=0,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="rooms_val", filter_empty=False),
        mapper=L(SceneMapper)(
            is_train=False,
            augmentations=[],
            image_format="${...train.mapper.image_format}",
        ),
        num_workers=0,
    ),
    evaluator=L(COCOEvaluator)(dataset_name="${..test.dataset.names}"),
)
