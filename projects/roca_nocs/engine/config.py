"""Loading a config and checking it before anything is built."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

__all__ = [
    "OPTIONAL",
    "TOP_LEVEL",
    "ConfigError",
    "TrainSettings",
    "check_config",
    "check_datasets",
    "load_config",
]

TOP_LEVEL = {
    "model": "lazy call of the model",
    "dataloader": "train, test and evaluator",
    "optimizer": "lazy call with params.model to be filled in",
    "lr_multiplier": "lazy call of an fvcore ParamScheduler",
    "train": "see TrainSettings",
}
"""What a config file for `tools/train_net.py` defines; other names start with an underscore."""

OPTIONAL = {
    "hooks": "lazy calls of hooks beside the usual ones, by name (LazyConfig drops lists)",
    "trainer": "lazy call of another class than Trainer, with the arguments it has beyond those of "
    "Trainer; `${optimizer.params.model}` is the model",
}
"""What a config file may define."""


_RENAMED = {
    "train.clip_grad": "train.clip_gradients.norm (null for no clipping)",
    "train.model_ema": "train.ema",
    "model.device": "train.device",
    "return_intermediate": "model.aux_loss: all layers of a decoder are always returned",
}
"""What keys of detrex's configs are called here; dotted names, also of any node above."""


class ConfigError(ValueError):
    """A config, or an override, that cannot be run; the message names file and key."""


@dataclasses.dataclass
class _Amp:
    enabled: bool
    dtype: str  # "float16", with loss scaling, or "bfloat16"


@dataclasses.dataclass
class _Ddp:
    broadcast_buffers: bool
    find_unused_parameters: bool
    fp16_compression: bool


@dataclasses.dataclass
class _FastDevRun:
    enabled: bool  # 20 iterations, evaluation every 10, logs of each; schedules shrink with it


@dataclasses.dataclass
class _Checkpointer:
    period: int  # iterations
    max_to_keep: int | None  # periodic files; at least 2, else a damaged one leaves nothing


@dataclasses.dataclass
class _ClipGradients:
    norm: float | None  # of all gradients together, or of each parameter's
    value: float | None  # of each entry
    per_parameter: bool  # norm bounds each parameter's gradient by itself


@dataclasses.dataclass
class _Ema:
    enabled: bool  # the average is then what is evaluated
    decay: float
    evaluate_raw: bool  # evaluate the weights without averaging too, under "raw/..."


@dataclasses.dataclass
class _Best:
    metric: str | None  # such as "bbox/AP50"; None keeps no best checkpoint
    maximize: bool


@dataclasses.dataclass
class _Wandb:
    enabled: bool
    project: str
    name: str | None


@dataclasses.dataclass
class TrainSettings:
    """The keys of `train` in a config, all of them required; defaults: configs/common/train.py."""

    output_dir: str
    init_checkpoint: str  # weights to start from, "" for none
    init_modules: list[str]  # the modules that take them, [] for all
    seed: int  # negative for a random one
    device: str | None  # None takes the GPU if there is one, unless --num-gpus is 0
    max_iter: int
    fast_dev_run: _FastDevRun
    accumulation_steps: int  # parts that a batch is split into to save memory
    amp: _Amp
    clip_gradients: _ClipGradients
    ddp: _Ddp
    ema: _Ema
    checkpointer: _Checkpointer
    best: _Best
    eval_period: int  # iterations; 0 evaluates at the end only
    log_period: int
    wandb: _Wandb
    cudnn_benchmark: bool
    float32_precision: str  # "", or what torch.set_float32_matmul_precision takes


def load_config(file: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a LazyConfig file, apply ``key=value`` overrides, and check the result.

    An override may only set a key that exists, unless it begins with ``+`` (add) or ``++``.

    Raises:
        ConfigError: unknown or missing key, or a value of a wrong type.
    """
    config = LazyConfig.load(str(file))
    _check_overrides(config, overrides, file)
    config = LazyConfig.apply_overrides(config, list(overrides))
    check_config(config, file)
    if config.train.fast_dev_run.enabled:
        # Milestones and warm-up are those of the whole training, relative to its length.
        OmegaConf.resolve(config.lr_multiplier)
        config.train.update(max_iter=20, eval_period=10, log_period=1)
    return config


def check_config(config: DictConfig, file: str | Path) -> None:
    """Raise `ConfigError` for a config that `tools/train_net.py` cannot run."""
    known = TOP_LEVEL | OPTIONAL
    for key in config:
        if key not in known:
            raise ConfigError(
                f"{file}: unknown top-level key {key!r}.{_closest(key, known)} Known are "
                f"{', '.join(known)}; begin the name of a private variable with an underscore."
            )
    if missing := [key for key in TOP_LEVEL if key not in config]:
        raise ConfigError(f"{file}: missing top-level key {', '.join(missing)}")
    if not isinstance(config.get("hooks", DictConfig({})), DictConfig):
        raise ConfigError(f"{file}: hooks must be a dict of lazy calls, got {config.hooks!r}")
    _check_settings(config.train, TrainSettings, "train", file)
    if config.train.amp.dtype not in ("float16", "bfloat16"):
        raise ConfigError(
            f"{file}: train.amp.dtype must be 'float16' or 'bfloat16', got "
            f"{config.train.amp.dtype!r}"
        )
    if config.train.clip_gradients.norm and config.train.clip_gradients.value:
        raise ConfigError(f"{file}: set train.clip_gradients.norm or .value, not both")


def _check_settings(node: Any, schema: type, prefix: str, file: str | Path) -> None:
    """Compare the keys and the value types of a config node with a dataclass."""
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{file}: {prefix} must be a dict, got {node!r}")
    fields = {field.name: field for field in dataclasses.fields(schema)}
    for key in node:
        if key not in fields:
            raise ConfigError(
                f"{file}: unknown key {prefix}.{key}.{_hint(f'{prefix}.{key}', key, fields)} "
                f"Known are {', '.join(fields)}"
            )
    if missing := [f"{prefix}.{key}" for key in fields if key not in node]:
        raise ConfigError(
            f"{file}: missing {', '.join(missing)}: start from configs/common/train.py"
        )
    hints = typing.get_type_hints(schema)
    for key in fields:
        if dataclasses.is_dataclass(hints[key]):
            _check_settings(node[key], hints[key], f"{prefix}.{key}", file)
    plain = {k: node[k] for k in fields if not dataclasses.is_dataclass(hints[k])}
    flat = dataclasses.make_dataclass(schema.__name__, [(key, hints[key]) for key in plain])
    try:
        OmegaConf.merge(OmegaConf.structured(flat), plain)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{file}: {prefix}.{error.full_key}: {reason}") from error


def _hint(full_key: str, key: str, known: Iterable[str]) -> str:
    """What a key of detrex is called here, else a similar name that is known."""
    for name, ours in _RENAMED.items():
        if f".{name}." in f".{full_key}.":
            return f" {name} of detrex is here {ours}."
    return _closest(key, known)


def _closest(key: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' if there is a similar name."""
    matches = difflib.get_close_matches(key, list(known), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def _check_overrides(config: DictConfig, overrides: Sequence[str], file: str | Path) -> None:
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise ConfigError(
            f"override {error.override!r} is not of the form key=value (options come before all "
            f"overrides): {str(error).splitlines()[0]}"
        ) from error
    for override in parsed:
        key = override.key_or_group
        if override.is_add() or override.is_force_add() or _exists(config, key):
            continue
        raise ConfigError(
            f"override {override.input_line!r}: {file} has no key {key!r}."
            f"{_hint(key, key, _all_keys(config))} To add a new key write +{override.input_line}"
        )


def _exists(config: Any, key: str) -> bool:
    node = config
    for part in key.split("."):
        if isinstance(node, DictConfig) and part in node:
            node = node[part]
        elif isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return False
    return True


def _all_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all dict keys below `node`."""
    if not isinstance(node, DictConfig):
        return
    for key in node:
        yield f"{prefix}{key}"
        if not OmegaConf.is_interpolation(node, key):
            yield from _all_keys(node[key], f"{prefix}{key}.")


def _dataset_names(node: Any) -> Iterator[tuple[str, str]]:
    """(key, data set name) for all data sets that a part of a config mentions."""
    if isinstance(node, ListConfig):
        for item in node:
            yield from _dataset_names(item)
    if not isinstance(node, DictConfig):
        return
    target = node.get("_target_")
    target = locate(target) if isinstance(target, str) else target
    keys = ["dataset_name", "train_dataset_name"]
    if getattr(target, "__name__", "") == "get_detection_dataset_dicts":
        keys.append("names")
    for key in node:
        value = node[key]
        if key in keys and value is not None:
            names = [value] if isinstance(value, str) else value
            yield from ((node._get_full_key(key), name) for name in names)
        else:
            yield from _dataset_names(value)


def check_datasets(config: DictConfig, parts: Sequence[str], file: str | Path) -> None:
    """Make sure that the data sets of a config are registered and their files exist.

    Args:
        config: the whole config.
        parts: keys below `dataloader` that are going to be used.
        file: for the messages.

    Raises:
        ConfigError: unregistered name, or a missing annotation file or image folder.
    """
    for part in parts:
        for key, name in _dataset_names(config.dataloader.get(part)):
            if name not in DatasetCatalog.list():
                close = difflib.get_close_matches(name, DatasetCatalog.list(), n=5, cutoff=0.5)
                raise ConfigError(
                    f"{file}: {key} names the data set {name!r}, which is not registered. Similar "
                    f"names: {', '.join(close) or 'none'}. Data sets are registered in "
                    "projects/roca_nocs/data/datasets/builtin.py"
                )
            if missing := _missing_path(name):
                try:  # the data set knows best what to do about it
                    DatasetCatalog.get(name)
                except Exception as error:
                    raise ConfigError(
                        f"{file}: {key} names the data set {name!r}, but {missing} does not exist: "
                        f"{error}. See datasets/README.md"
                    ) from error


def _missing_path(name: str) -> str | None:
    """The first file or folder in the metadata of a data set that is not there."""
    metadata = MetadataCatalog.get(name)
    paths = [metadata.get(attribute, None) for attribute in ("json_file", "image_root")]
    absent = (path for path in paths if path and "://" not in path and not Path(path).exists())
    return next(absent, None)
