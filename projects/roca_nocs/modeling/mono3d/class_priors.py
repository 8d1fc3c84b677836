"""The statistics of the classes that 3D boxes are encoded against, as a part of the model."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import nn

from roca_nocs.geometry.box3d_codec import BoxPriors, uninformed_priors

__all__ = ["ClassPriors"]

logger = logging.getLogger(__name__)


class ClassPriors(nn.Module):
    """Buffers with the names of ``BoxPriors``, which every checkpoint has."""

    def __init__(
        self, num_classes: int, num_clusters: int, load: Callable[[], BoxPriors] | None = None
    ) -> None:
        """
        Args:
            num_classes: C.
            num_clusters: K, of 2D box sizes in each class.
            load: gives the priors; called when the model is put into training mode before it has
                any, whether loaded or from a checkpoint. None: all are 1, and a warning says so
                when a training starts with them.
        """
        super().__init__()
        self._load = load
        self._warned = False
        for name, values in uninformed_priors(num_classes, num_clusters)._asdict().items():
            unknown = values if load is None else torch.full_like(values, torch.nan)
            self.register_buffer(name, unknown.clone())

    def train(self, mode: bool = True) -> ClassPriors:
        """As of every module; a training also begins with priors.

        Here and not at the first step, so that averages of the weights start with them too.
        """
        if mode and self._load is not None and not self._known():
            self.set(self._load())
        if mode and not self._warned and all((each == 1).all() for each in self.buffers()):
            self._warned = True
            logger.warning(
                "the sizes and depths of all classes are 1, which makes 3D boxes hard to learn: "
                "have them computed from the training set (roca_nocs.data.mono3d_priors)"
            )
        return super().train(mode)

    def forward(self) -> BoxPriors:
        """The present priors.

        Raises:
            ValueError: there are none.
        """
        if not self._known():
            raise ValueError(
                "the heads know no sizes and depths of the classes to decode boxes with: load a "
                "checkpoint of this model, or train it, which computes them from the training set"
            )
        return BoxPriors(*(getattr(self, name) for name in BoxPriors._fields))

    def set(self, priors: BoxPriors) -> None:
        """Take these from now on.

        Raises:
            ValueError: they are of another number of classes or clusters.
        """
        for name, values in priors._asdict().items():
            buffer = getattr(self, name)
            if values.shape != buffer.shape:
                raise ValueError(
                    f"the priors have {name} of shape {tuple(values.shape)}; the numbers of "
                    f"classes and clusters of the model need {tuple(buffer.shape)}"
                )
            buffer.copy_(values)

    def _known(self) -> bool:
        return bool(self.depth.isfinite().all())
