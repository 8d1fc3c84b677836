"""The embedded table tops with what NOCS learns: object coordinates; poses are fitted to depth.

Images are not mirrored: a mirrored object has other coordinates. `tabletop_val` shows models that
never occur in training, on synthetic tables; `tabletop_real_test` is the other half of the data.
"""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator

from roca_nocs.data.loader import build_train_loader
from roca_nocs.data.nocs_mapper import NocsMapper
from roca_nocs.data.transforms import ColorJitter
from roca_nocs.evaluation.nocs_evaluator import NocsEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="tabletop_train"),
        mapper=L(NocsMapper)(
            is_train=True,
            augmentations=[L(ColorJitter)(contrast=(0.8, 1.2), brightness=(0.8, 1.2))],
            image_format="RGB",
        ),
        total_batch_size=8,
        num_workers=0,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="tabletop_val", filter_empty=False),
        mapper=L(NocsMapper)(
            is_train=False,
            augmentations=[],
            image_format="${...train.mapper.image_format}",
            depth=True,
        ),
        num_workers=0,
    ),
    evaluator=[
        L(COCOEvaluator)(dataset_name="${...test.dataset.names}"),
        L(NocsEvaluator)(
            dataset_name="${...test.dataset.names}",
            train_dataset_name="${...train.dataset.names}",
        ),
    ],
)
