"""Turning lazily described calls into objects."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

__all__ = ["instantiate"]

logger = logging.getLogger(__name__)


def instantiate(cfg: Any) -> Any:
    """Build what a config describes.

    * A mapping with ``_target_`` becomes the result of calling the target with the other entries as
      keywords. Target and entries are instantiated first; a string target is a dotted path.
    * A list becomes a list and a ``ListConfig`` a ``ListConfig``, of instantiated elements.
    * A structured config becomes an object of its dataclass.
    * Anything else is returned unchanged, mappings without ``_target_`` included.

    Raises:
        ImportError: a string target that does not exist.
        AssertionError: a target that is not callable.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(x) for x in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        return [instantiate(x) for x in cfg]
    if isinstance(cfg, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(cfg)):
        return OmegaConf.to_object(cfg)
    if isinstance(cfg, Mapping) and "_target_" in cfg:
        arguments = {name: instantiate(value) for name, value in cfg.items()}
        return _call(arguments.pop("_target_"), arguments)
    return cfg


def _call(target: str | Callable[..., Any], arguments: dict[str, Any]) -> Any:
    if isinstance(target, str):
        name, target = target, locate(target)
    else:
        name = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}"
    assert callable(target), f"_target_ {target} does not define a callable object"
    try:
        return target(**arguments)
    except TypeError:
        logger.error("Error when instantiating %s!", name)
        raise
