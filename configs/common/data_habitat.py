"""Chairs in rooms, rendered with Habitat: labelled images, and views of the same chair.

The generator puts a scene's chair elsewhere for every image, so cameras are taken relative to it.
"""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator

from roca_nocs.data.loader import build_train_loader
from roca_nocs.data.multiview import MultiViewMapper, ViewMapper, build_joint_loader, group_views
from roca_nocs.data.nocs_mapper import NocsMapper
from roca_nocs.data.transforms import ColorJitter
from roca_nocs.evaluation.nocs_evaluator import NocsEvaluator

_colors = L(ColorJitter)(contrast=(0.9, 1.1), brightness=(0.9, 1.1), saturation=(0.9, 1.1))

dataloader = dict(
    train=L(build_joint_loader)(
        dataset=L(get_detection_dataset_dicts)(names="habitat_train"),
        mapper=L(NocsMapper)(is_train=True, augmentations=[_colors], image_format="RGB"),
        total_batch_size=6,
        num_workers=4,
        multiview=L(build_train_loader)(
            dataset=L(group_views)(
                records=L(get_detection_dataset_dicts)(names="${....dataset.names}"),
                frame="object",
            ),
            mapper=L(MultiViewMapper)(
                view_mapper=L(ViewMapper)(
                    augmentations=[_colors], image_format="${....mapper.image_format}"
                ),
                num_views=4,
            ),
            total_batch_size=1,
            aspect_ratio_grouping=False,
            num_workers="${..num_workers}",
        ),
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="habitat_val", filter_empty=False),
        mapper=L(NocsMapper)(
            is_train=False,
            augmentations=[],
            image_format="${...train.mapper.image_format}",
            depth=True,
        ),
        num_workers=4,
    ),
    evaluator=[
        # The data has boxes, and masks as images only.
        L(COCOEvaluator)(dataset_name="${...test.dataset.names}", tasks=("bbox",)),
        L(NocsEvaluator)(dataset_name="${...test.dataset.names}"),
    ],
)
