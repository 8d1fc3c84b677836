"""Calls that a config describes and that are made only when their result is needed."""

from __future__ import annotations

from typing import Any

from detectron2.utils.registry import locate
from omegaconf import OmegaConf


class Deferred:
    """``L(Deferred)(target="package.module.function", key=value)``: a function without arguments.

    For what a model needs in one situation only, such as a dataset's CAD models: building the
    model then does not need the dataset.
    """

    def __init__(self, target: str, **arguments: Any) -> None:
        """
        Args:
            target: dotted name of what is called; must exist.
            arguments: of the call.
        """
        self._target = locate(target)
        self._arguments = {
            key: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
            for key, value in arguments.items()
        }

    def __call__(self) -> Any:
        """Make the call."""
        return self._target(**self._arguments)
