"""Training: the trainer, its hooks, checkpoints, the weight average, configuration checks."""

from .trainer import Trainer

__all__ = ["Trainer"]
