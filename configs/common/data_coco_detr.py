"""COCO 2017 detection with the augmentation of DETR; for other data sets replace the names."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data import transforms as T
from detectron2.evaluation import COCOEvaluator

from roca_nocs.data.detr_mapper import DetrDatasetMapper
from roca_nocs.data.loader import build_train_loader

_resize = L(T.ResizeShortestEdge)(
    short_edge_length=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    max_size=1333,
    sample_style="choice",
)

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
        mapper=L(DetrDatasetMapper)(
            augmentation=[L(T.RandomFlip)(), _resize],
            augmentation_with_crop=[
                L(T.RandomFlip)(),
                L(T.ResizeShortestEdge)(short_edge_length=(400, 500, 600), sample_style="choice"),
                L(T.RandomCrop)(crop_type="absolute_range", crop_size=(384, 600)),
                _resize,
            ],
            is_train=True,
            mask_on=False,
            img_format="RGB",
        ),
        total_batch_size=16,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(DetrDatasetMapper)(
            augmentation=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
            augmentation_with_crop=None,
            is_train=False,
            mask_on=False,
            img_format="${...train.mapper.img_format}",
        ),
        num_workers=4,
    ),
    evaluator=L(COCOEvaluator)(
        dataset_name="${..test.dataset.names}",
        tasks=("bbox",),
        output_dir="${train.output_dir}",
    ),
)
