"""Scan2CAD alignments on ScanNet25k images, as ROCA was trained and evaluated on them."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import COCOEvaluator

from roca_nocs.data.datasets.scan2cad import image_repeat_factors, scan2cad_records
from roca_nocs.data.loader import build_train_loader
from roca_nocs.data.roca_mapper import RocaMapper
from roca_nocs.data.transforms import ColorJitter
from roca_nocs.evaluation import AlignmentEvaluator, RocaFrameEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(scan2cad_records)(names="scan2cad_train"),
        mapper=L(RocaMapper)(
            is_train=True,
            augmentations=[
                L(ColorJitter)(
                    contrast=(0.8, 1.25),
                    brightness=(0.8, 1.25),
                    saturation=(0.8, 1.25),
                    image_format="${...image_format}",
                )
            ],
            image_format="BGR",
            retrieval="voxels",
            datasets="${..dataset.names}",
        ),
        repeat_factors=image_repeat_factors,
        total_batch_size=4,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(scan2cad_records)(names="scan2cad_val", filter_empty=False),
        mapper=L(RocaMapper)(
            is_train=False,
            augmentations=[],
            image_format="${...train.mapper.image_format}",
        ),
        num_workers=4,
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
