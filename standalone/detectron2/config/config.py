"""Yacs configs, and constructors that can be called with a config."""

import functools
import inspect
from collections.abc import Callable
from typing import IO, Any

from detectron2.utils.file_io import PathManager
from fvcore.common.config import CfgNode as _CfgNode
from omegaconf import DictConfig

__all__ = ["CfgNode", "configurable", "get_cfg"]


class CfgNode(_CfgNode):
    """fvcore's config node, opened through our path manager, for configs of version 2.

    Config files may hold Python objects: load only trusted files.
    """

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Overwrite values with those of a yaml file and of the files it names in ``_BASE_``.

        Args:
            cfg_filename: path of the file; a missing ``VERSION`` in it means 2.
            allow_unsafe: whether the file may hold Python objects.

        Raises:
            FileNotFoundError: there is no such file.
            KeyError: a key the config does not have.
            ValueError: the file is of another version.
        """
        if not PathManager.isfile(cfg_filename):
            raise FileNotFoundError(f"Config file '{cfg_filename}' does not exist!")
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        version = loaded.get("VERSION", self.VERSION)
        if version != self.VERSION:
            raise ValueError(
                f"Config file '{cfg_filename}' has VERSION {version}, only {self.VERSION} can be "
                "read. Upgrade the file by loading it in the real detectron2 and dumping it."
            )
        self.merge_from_other_cfg(loaded)


def get_cfg() -> CfgNode:
    """A new copy of the default config."""
    from .defaults import _C

    return _C.clone()


def configurable(
    init_func: Callable[..., None] | None = None,
    *,
    from_config: Callable[..., dict[str, Any]] | None = None,
) -> Callable[..., Any]:
    """Let a constructor or a function be called with a config as well as with explicit arguments.

    On ``__init__``, as ``@configurable``: the class has a classmethod ``from_config(cls, cfg)``
    that returns keyword arguments. On a function, as ``@configurable(from_config=f)``: ``f(cfg)``
    returns them. ``from_config`` is used when the first positional argument, or the keyword
    ``cfg``, is a ``CfgNode`` or ``DictConfig``; further keywords go to ``from_config`` if it names
    them or takes ``**kwargs``, and else override what it returned.

    Note:
        A ``DictConfig`` that is an ordinary first argument must be given by keyword, because
        positionally it is taken for the config.
    """
    if init_func is not None:
        if from_config is not None or getattr(init_func, "__name__", None) != "__init__":
            raise TypeError(
                "Incorrect use of @configurable: put it on __init__, or give "
                f"from_config=... for any other function. Got {init_func!r}."
            )
        return _configurable_init(init_func)
    if from_config is None:
        return configurable
    if not inspect.isfunction(from_config):
        raise TypeError(f"from_config of configurable must be a function, got {from_config!r}.")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if _is_called_with_config(args, kwargs):
                return function(**_explicit_arguments(from_config, args, kwargs))
            return function(*args, **kwargs)

        wrapped.from_config = from_config
        return wrapped

    return decorate


def _configurable_init(init_func: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init_func)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        cls = type(self)
        message = (
            f"Class {cls.__qualname__} with @configurable must have a 'from_config' classmethod."
        )
        if not hasattr(cls, "from_config"):
            raise AttributeError(message)
        if not inspect.ismethod(cls.from_config):
            raise TypeError(message)
        if _is_called_with_config(args, kwargs):
            init_func(self, **_explicit_arguments(cls.from_config, args, kwargs))
        else:
            init_func(self, *args, **kwargs)

    return wrapped


def _is_called_with_config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    candidates = (*args[:1], kwargs.get("cfg"))
    return any(isinstance(value, _CfgNode | DictConfig) for value in candidates)


def _explicit_arguments(
    from_config: Callable[..., dict[str, Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Keyword arguments of the decorated function."""
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take 'cfg' as the first argument!")
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if any(parameter.kind in variadic for parameter in parameters.values()):
        return from_config(*args, **kwargs)
    named = {name: value for name, value in kwargs.items() if name in parameters}
    others = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **named), **others}
