"""Parameter groups, optimizers and learning-rate schedules."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer

from .lr_scheduler import LRMultiplier, WarmupParamScheduler

__all__ = [
    "build_lr_scheduler",
    "build_optimizer",
    "get_default_optimizer_params",
    "maybe_add_gradient_clipping",
    "reduce_param_groups",
]

ParamGroup = dict[str, Any]

_NORM_MODULES = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)
# Entries of a parameter group that run parallel to its parameters; all others are settings.
_PER_PARAMETER_KEYS = ("params", "param_names")


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: Mapping[str, Mapping[str, float]] | None = None,
) -> list[ParamGroup]:
    """Parameter groups for a torch optimizer, as few as the settings allow.

    Args:
        model: trainable parameters are collected once each, also when modules share them.
        base_lr: learning rate of every group; None leaves it to the optimizer.
        weight_decay: weight decay of every group; None leaves it to the optimizer.
        weight_decay_norm: weight decay of the parameters of torch's normalisation modules.
        bias_lr_factor: factor on ``base_lr`` for parameters called ``bias``.
        weight_decay_bias: weight decay of parameters called ``bias``.
        lr_factor_func: maps a full parameter name to a factor on ``base_lr``.
        overrides: settings by the last part of the parameter name. They are applied last and
            replace what was computed before; bias options count as an override of ``bias`` and
            so cancel the factor of ``lr_factor_func`` for biases.

    Returns:
        Groups in the order in which their first parameter appears in the model.

    Raises:
        ValueError: a factor is given without ``base_lr``, or bias options and an explicit
            override of ``bias`` are both given.
    """
    overrides = dict(overrides or {})
    bias_settings = _bias_settings(base_lr, bias_lr_factor, weight_decay_bias)
    if bias_settings:
        if "bias" in overrides:
            raise ValueError(
                "Conflicting overrides for 'bias': give either overrides['bias'] or "
                "bias_lr_factor/weight_decay_bias."
            )
        overrides["bias"] = bias_settings
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func requires base_lr")

    common = {"lr": base_lr, "weight_decay": weight_decay}
    common = {name: value for name, value in common.items() if value is not None}
    groups: list[ParamGroup] = []
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        is_norm = isinstance(module, _NORM_MODULES)
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            settings = dict(common)
            if is_norm and weight_decay_norm is not None:
                settings["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                settings["lr"] *= lr_factor_func(f"{module_name}.{name}" if module_name else name)
            settings.update(overrides.get(name, {}))
            groups.append({"params": [parameter], **settings})
    return reduce_param_groups(groups)


def _bias_settings(
    base_lr: float | None, bias_lr_factor: float | None, weight_decay_bias: float | None
) -> dict[str, float]:
    settings = {}
    if bias_lr_factor is not None and bias_lr_factor != 1.0:
        if base_lr is None:
            raise ValueError("bias_lr_factor requires base_lr")
        settings["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        settings["weight_decay"] = weight_decay_bias
    return settings


def _expand_param_groups(params: Iterable[ParamGroup]) -> list[ParamGroup]:
    """One group per parameter; settings of a later group win where a parameter is repeated."""
    by_parameter: dict[Any, ParamGroup] = {}
    for group in params:
        settings = {k: v for k, v in group.items() if k not in _PER_PARAMETER_KEYS}
        names = group.get("param_names")
        for index, parameter in enumerate(group["params"]):
            entry = by_parameter.setdefault(parameter, {})
            if names is not None:
                entry["param_names"] = [names[index]]
            entry["params"] = [parameter]
            entry.update(settings)
    return list(by_parameter.values())


def reduce_param_groups(params: Iterable[ParamGroup]) -> list[ParamGroup]:
    """Merge parameters with equal settings into one group.

    Multi-tensor optimizers launch their kernels once per group, so few groups are fast.

    Args:
        params: torch parameter groups, optionally with ``param_names``; a parameter may occur
            in several, then the settings of the later one win.

    Returns:
        Groups in the order of appearance of their first parameter.
    """
    merged: dict[tuple[bool, frozenset[tuple[str, Any]]], ParamGroup] = {}
    for entry in _expand_param_groups(params):
        settings = {k: v for k, v in entry.items() if k not in _PER_PARAMETER_KEYS}
        per_parameter = {k: entry[k] for k in _PER_PARAMETER_KEYS if k in entry}
        # Named and unnamed parameters cannot share a group: torch pairs names by position.
        key = ("param_names" in entry, frozenset(settings.items()))
        group = merged.setdefault(key, {**settings, **{k: [] for k in per_parameter}})
        for name, values in per_parameter.items():
            group[name].extend(values)
    return list(merged.values())


def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: type[Optimizer] | Optimizer
) -> type[Optimizer] | Optimizer:
    """Clip each parameter's gradient before a step, if the yacs config asks for it.

    Args:
        cfg: ``SOLVER.CLIP_GRADIENTS.{ENABLED, CLIP_TYPE, CLIP_VALUE, NORM_TYPE}`` is read;
            ``CLIP_TYPE`` is ``"value"`` or ``"norm"`` (of one parameter, not of the model).
        optimizer: a class or an instance.

    Returns:
        The argument itself if clipping is off, a subclass for a class, and the same object with
        its class exchanged for an instance (learning-rate schedulers may hold it already).
    """
    if not cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        return optimizer
    clip = _gradient_clipper(cfg.SOLVER.CLIP_GRADIENTS)
    base = type(optimizer) if isinstance(optimizer, Optimizer) else optimizer

    def clip_gradients(self: Optimizer) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    clip(parameter)

    def step(self: Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        if closure is None:
            clip_gradients(self)
            return base.step(self)

        def closure_and_clip() -> float:
            loss = closure()
            clip_gradients(self)
            return loss

        return base.step(self, closure_and_clip)

    clipping = type(f"{base.__name__}WithGradientClip", (base,), {"step": step})
    if isinstance(optimizer, Optimizer):
        optimizer.__class__ = clipping
        return optimizer
    return clipping


def _gradient_clipper(clip_cfg: CfgNode) -> Callable[[nn.Parameter], Any]:
    # Values are read now: a config changed later must not change a running optimizer.
    limit, norm_type = clip_cfg.CLIP_VALUE, clip_cfg.NORM_TYPE
    if clip_cfg.CLIP_TYPE == "value":
        return lambda parameter: nn.utils.clip_grad_value_(parameter, limit)
    if clip_cfg.CLIP_TYPE == "norm":
        return lambda parameter: nn.utils.clip_grad_norm_(parameter, limit, norm_type)
    raise ValueError(
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE must be 'value' or 'norm', "
        f"but it is {clip_cfg.CLIP_TYPE!r}."
    )


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """SGD over the default parameter groups, from the ``SOLVER`` section of a yacs config."""
    solver = cfg.SOLVER
    optimizer = torch.optim.SGD(
        get_default_optimizer_params(
            model,
            base_lr=solver.BASE_LR,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            bias_lr_factor=solver.BIAS_LR_FACTOR,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        ),
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
        foreach=True,
    )
    return maybe_add_gradient_clipping(cfg, optimizer)


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRMultiplier:
    """Warm-up plus the schedule named by ``SOLVER.LR_SCHEDULER_NAME`` of a yacs config.

    Raises:
        ValueError: unknown name, or an end value outside ``[0, BASE_LR]``.
    """
    solver = cfg.SOLVER
    schedule = WarmupParamScheduler(
        _schedule_by_name(solver),
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_length=min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        warmup_method=solver.WARMUP_METHOD,
        rescale_interval=solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)


def _schedule_by_name(solver: CfgNode) -> ParamScheduler:
    name = solver.LR_SCHEDULER_NAME
    if name == "WarmupMultiStepLR":
        milestones = _milestones_within(solver.STEPS, solver.MAX_ITER)
        values = [solver.GAMMA**k for k in range(len(milestones) + 1)]
        return MultiStepParamScheduler(
            values=values, milestones=milestones, num_updates=solver.MAX_ITER
        )
    if name == "WarmupCosineLR":
        end_value = solver.BASE_LR_END / solver.BASE_LR
        if not 0.0 <= end_value <= 1.0:
            raise ValueError(
                f"SOLVER.BASE_LR_END={solver.BASE_LR_END} must lie between 0 and "
                f"SOLVER.BASE_LR={solver.BASE_LR}."
            )
        return CosineParamScheduler(1, end_value)
    if name == "WarmupStepWithFixedGammaLR":
        return StepWithFixedGammaParamScheduler(
            base_value=1.0,
            gamma=solver.GAMMA,
            num_decays=solver.NUM_DECAYS,
            num_updates=solver.MAX_ITER,
        )
    raise ValueError(f"Unknown LR scheduler: {name}")


def _milestones_within(steps: Sequence[int], max_iter: int) -> list[int]:
    milestones = [step for step in steps if step <= max_iter]
    if len(milestones) < len(steps):
        logging.getLogger(__name__).warning(
            "SOLVER.STEPS=%s contains values larger than SOLVER.MAX_ITER=%d; they are ignored.",
            tuple(steps),
            max_iter,
        )
    return milestones
