"""Configs written as Python calls that are made later: describe, load, override, save."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import cloudpickle
import yaml
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import _convert_target_to_string, _is_located_at
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode

from .config_file import run_config_file, to_config
from .source_code import to_source_code

__all__ = ["LazyCall", "LazyConfig"]

logger = logging.getLogger(__name__)


class LazyCall:
    """Describe a call instead of making it: ``LazyCall(nn.Conv2d)(in_channels=3)``.

    The result is a ``DictConfig`` of the keywords and ``_target_``; it can be edited before
    :func:`~detectron2.config.instantiate` makes the call. Containers such as ``dict`` cannot be
    targets, because omegaconf does not hold them; use a function.
    """

    def __init__(self, target: Callable[..., Any] | str | Mapping[str, Any]) -> None:
        """
        Args:
            target: a callable, its dotted path, or a config that describes it.
        """
        if not (callable(target) or isinstance(target, str | Mapping)):
            raise TypeError(
                "target of LazyCall must be a callable, its dotted path or a config that describes "
                f"a callable! Got {target!r}"
            )
        # omegaconf would take a dataclass type for a schema.
        is_schema = isinstance(target, type) and is_dataclass(target)
        self._target = _convert_target_to_string(target) if is_schema else target

    def __call__(self, **kwargs: Any) -> DictConfig:
        return DictConfig({**kwargs, "_target_": self._target}, flags={"allow_objects": True})


class LazyConfig:
    """Operations on whole configs."""

    @staticmethod
    def load(filename: str, keys: str | Sequence[str] | None = None) -> Any:
        """Load a python or yaml config file. Either may execute code: load only trusted files.

        Args:
            filename: absolute, or relative to the working directory.
            keys: names to load; without them a ``DictConfig`` of everything is returned, which for
                a python file means its dicts and configs without a leading underscore.

        Returns:
            One object for a single key, a tuple for several; dicts become ``DictConfig``.
        """
        filename = os.fspath(filename)
        suffix = os.path.splitext(filename)[1]
        if suffix == ".py":
            content = vars(run_config_file(filename))
        elif suffix in (".yaml", ".yml"):
            with PathManager.open(filename, "r") as file:
                content = OmegaConf.create(yaml.unsafe_load(file), flags={"allow_objects": True})
        else:
            raise ValueError(
                f"Config file {filename} has to be a python or yaml file (.py, .yaml or .yml)."
            )
        if keys is not None:
            return _select(content, keys, filename)
        if suffix != ".py":
            return content
        configs = {
            name: to_config(value)
            for name, value in content.items()
            if isinstance(value, DictConfig | ListConfig | dict) and not name.startswith("_")
        }
        return DictConfig(configs, flags={"allow_objects": True})

    @staticmethod
    def load_rel(filename: str, keys: str | Sequence[str] | None = None) -> Any:
        """:meth:`load` with a path relative to the file that contains the call."""
        caller = sys._getframe(1).f_code.co_filename
        if caller == "<string>":
            raise ValueError(
                f"load_rel({filename!r}) was called from code without a file; use load."
            )
        return LazyConfig.load(os.path.join(os.path.dirname(caller), filename), keys)

    @staticmethod
    def save(cfg: DictConfig, filename: str) -> None:
        """Write a config to a yaml file; problems are logged, never raised.

        Callable targets become the shortest dotted paths that import them, interpolations stay as
        they are. If the text cannot be loaded again (a lambda in the config), the yaml is for
        reading only and ``<filename>.pkl``, written by cloudpickle, holds the config.
        """
        filename = os.fspath(filename)
        try:
            loadable = _save_yaml(cfg, filename)
        except Exception:
            logger.exception("Unable to serialize the config to yaml. Error:")
            loadable = False
        if loadable:
            return
        try:
            with PathManager.open(filename + ".pkl", "wb") as file:
                cloudpickle.dump(cfg, file)
            logger.warning("Config is saved using cloudpickle at %s.pkl.", filename)
        except Exception:
            logger.exception("Unable to save the config at %s.pkl either. Error:", filename)

    @staticmethod
    def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """Change a config in place by texts in hydra's override grammar, such as ``a.b=3``.

        Missing keys are created on the way.

        Returns:
            ``cfg`` itself.

        Raises:
            KeyError: the path leads through a value that is not a config.
            NotImplementedError: a deletion (``~key``) or a sweep (``key=1,2``).
        """
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        for override in parsed:
            if override.is_delete() or override.is_sweep_override():
                kind = "deletion" if override.is_delete() else "a sweep over several values"
                raise NotImplementedError(
                    f"{override.input_line!r}: {kind} is not a supported override"
                )
        for override in parsed:
            _update(cfg, override.key_or_group, override.value())
        return cfg

    @staticmethod
    def to_py(cfg: DictConfig, prefix: str = "cfg.") -> str:
        """Python-like text of a config, for people to read.

        Args:
            cfg: the config; interpolations are resolved.
            prefix: what the assigned names start with.
        """
        return to_source_code(OmegaConf.to_container(cfg, resolve=True), prefix)


def _select(content: Mapping[str, Any], keys: str | Sequence[str], filename: str) -> Any:
    for key in [keys] if isinstance(keys, str) else keys:
        if key not in content:
            names = sorted(str(name) for name in content if not str(name).startswith("_"))
            raise KeyError(f"Config file {filename} does not define {key!r}, only {names}.")
    if isinstance(keys, str):
        return to_config(content[keys])
    return tuple(to_config(content[key]) for key in keys)


def _update(cfg: DictConfig, key: str, value: Any) -> None:
    parts = key.split(".")
    for size in range(1, len(parts)):
        prefix = ".".join(parts[:size])
        node = OmegaConf.select(cfg, prefix, default=None)
        if node is None:
            break
        if not OmegaConf.is_config(node):
            raise KeyError(
                f"Trying to update key {key}, but {prefix} is not a config, "
                f"but has type {type(node)}."
            )
    OmegaConf.update(cfg, key, value, merge=True)


def _name_targets(content: Any) -> None:
    """Replace callable targets in nested dicts and lists by dotted paths, in place."""
    if isinstance(content, dict):
        target = content.get("_target_")
        if callable(target) and hasattr(target, "__qualname__"):
            name = _convert_target_to_string(target)
            # A local function or a lambda has no path: kept, so that it ends in the pickle.
            if _is_located_at(name, target):
                content["_target_"] = name
    for child in content.values() if isinstance(content, dict) else content:
        if isinstance(child, dict | list):
            _name_targets(child)


def _save_yaml(cfg: Any, filename: str) -> bool:
    """Write the yaml file and tell whether it can be loaded."""
    content = OmegaConf.to_container(cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE)
    if isinstance(content, dict | list):
        _name_targets(content)
    text = yaml.dump(content, default_flow_style=None, allow_unicode=True, width=9999)
    with PathManager.open(filename, "w") as file:
        file.write(text)
    try:
        yaml.unsafe_load(text)
    except Exception:
        logger.warning(
            "The config contains objects that cannot serialize to a valid yaml. "
            "%s is human-readable but cannot be loaded.",
            filename,
        )
        return False
    return True
