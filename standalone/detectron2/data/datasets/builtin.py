"""Registration of COCO's instance splits; no file is opened.

They are expected under `$DETECTRON2_DATASETS`, by default `./datasets`.
"""

import os

from .builtin_meta import coco_instances_metadata
from .coco import register_coco_instances

__all__ = ["register_all_coco"]

# Name after "coco_" -> folder of the images below coco/, json file below coco/annotations/.
_COCO_SPLITS = {
    "2014_train": ("train2014", "instances_train2014"),
    "2014_val": ("val2014", "instances_val2014"),
    "2014_minival": ("val2014", "instances_minival2014"),
    "2014_valminusminival": ("val2014", "instances_valminusminival2014"),
    "2017_train": ("train2017", "instances_train2017"),
    "2017_val": ("val2017", "instances_val2017"),
    "2017_test": ("test2017", "image_info_test2017"),
    "2017_test-dev": ("test2017", "image_info_test-dev2017"),
    "2017_val_100": ("val2017", "instances_val2017_100"),
}


def register_all_coco(root: str) -> None:
    """Register `coco_2014_*` and `coco_2017_*` below the folder `root`."""
    for split, (images, annotations) in _COCO_SPLITS.items():
        register_coco_instances(
            f"coco_{split}",
            coco_instances_metadata(),
            os.path.join(root, "coco/annotations", f"{annotations}.json"),
            os.path.join(root, "coco", images),
        )


register_all_coco(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
