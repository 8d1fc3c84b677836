"""CAMERA and REAL with COCO for boxes and masks, as NOCS was trained, and its test set REAL275."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator

from roca_nocs.data.loader import build_train_loader
from roca_nocs.data.mixtures import mixed_records, repeat_factors
from roca_nocs.data.nocs_mapper import NocsMapper
from roca_nocs.data.transforms import RandomGamma, RandomRollCrop
from roca_nocs.evaluation.nocs_evaluator import NocsEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(mixed_records)(
            names=["nocs_camera_train", "nocs_real_train", "nocs_coco_train"], shares=[3, 1, 1]
        ),
        mapper=L(NocsMapper)(
            is_train=True,
            augmentations=[L(RandomGamma)(), L(RandomRollCrop)(max_degrees=5.0)],
            image_format="BGR",
        ),
        repeat_factors=repeat_factors,
        total_batch_size=2,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="nocs_real_test", filter_empty=False),
        mapper=L(NocsMapper)(
            is_train=False,
            augmentations=[],
            image_format="${...train.mapper.image_format}",
            depth=True,
        ),
        num_workers=4,
    ),
    evaluator=[
        L(COCOEvaluator)(dataset_name="${...test.dataset.names}"),
        L(NocsEvaluator)(dataset_name="${...test.dataset.names}"),
    ],
)
