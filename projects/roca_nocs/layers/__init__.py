"""Layers without task knowledge, and the compiled operators behind them."""

from roca_nocs.layers.instance_boxes import instance_boxes, instance_boxes_reference

__all__ = ["instance_boxes", "instance_boxes_reference"]
