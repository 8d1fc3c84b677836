"""Saving and loading of models; importing this package registers ``catalog://`` addresses."""

from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

from . import catalog as _catalog  # noqa: F401 - registers the path handler
from .detection_checkpoint import DetectionCheckpointer

__all__ = ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"]
