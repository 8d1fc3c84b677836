"""The indoor part of Omni3D: SUN RGB-D, Hypersim and ARKitScenes, trained and tested together."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data import transforms as T

from roca_nocs.data.loader import build_train_loader
from roca_nocs.data.mono3d_mapper import Mono3DMapper
from roca_nocs.evaluation.omni3d_evaluator import Omni3DEvaluator

_datasets = ("sunrgbd", "hypersim", "arkitscenes")

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names=[f"omni3d_{name}_{split}" for name in _datasets for split in ("train", "val")],
        ),
        mapper=L(Mono3DMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=[*range(256, 641, 16)], sample_style="choice", max_size=4096
                ),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="RGB",
        ),
        repeat_threshold=0.1,
        total_batch_size=128,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(
            names=[f"omni3d_{name}_test" for name in _datasets], filter_empty=False
        ),
        mapper=L(Mono3DMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=512, max_size=4096)],
            image_format="${...train.mapper.image_format}",
        ),
        num_workers=4,
    ),
    evaluator=L(Omni3DEvaluator)(
        dataset_name="${..test.dataset.names}",
        output_dir="${train.output_dir}",
    ),
)
