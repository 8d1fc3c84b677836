"""The registration function at the place where detectron2 has it, too."""

from .coco import register_coco_instances

__all__ = ["register_coco_instances"]
