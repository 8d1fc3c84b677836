"""Counting of parameters and operations, and a search for parameters without a gradient."""

from collections.abc import Mapping, Sequence
from typing import Any

import fvcore.nn
import torch
from fvcore.nn import parameter_count, parameter_count_table
from torch import nn

__all__ = [
    "FlopCountAnalysis",
    "find_unused_parameters",
    "parameter_count",
    "parameter_count_table",
]

# Elementwise operations and the like, which fvcore would list as unsupported.
_IGNORED_OPERATIONS = (
    *(f"aten::{name}" for name in ("add", "div", "exp", "log2", "mul", "neg", "rsub", "sigmoid")),
    *(f"aten::{name}" for name in ("add_", "div_", "mul_", "sigmoid_", "softmax", "sort")),
    *(f"aten::{name}" for name in ("argmax", "argsort", "batch_norm", "constant_pad_nd")),
    *(f"aten::{name}" for name in ("max_pool2d", "meshgrid", "reciprocal", "repeat_interleave")),
    "torchvision::nms",
)


def _collect_tensors(value: Any, found: list[torch.Tensor]) -> None:
    """Append the tensors inside containers, Instances and boxes to ``found``, in a fixed order."""
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, Mapping):
        _collect_tensors(list(value.values()), found)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect_tensors(item, found)
    elif hasattr(value, "get_fields"):
        _collect_tensors(value.get_fields(), found)
    elif hasattr(value, "tensor"):
        _collect_tensors(value.tensor, found)


def _replace_tensors(value: Any, tensors: list[torch.Tensor]) -> Any:
    """The same containers with their tensors taken from the front of ``tensors``, in order."""
    if isinstance(value, torch.Tensor):
        return tensors.pop(0)
    if isinstance(value, Mapping):
        return {key: _replace_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replace_tensors(item, tensors) for item in value)
    return value


class _TensorsInTensorsOut(nn.Module):
    """A model behind the interface that tracing needs: tensors in, a tuple of tensors out."""

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        super().__init__()
        self.model = model
        self._inputs = inputs

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs: list[torch.Tensor] = []
        _collect_tensors(self.model(*_replace_tensors(self._inputs, list(tensors))), outputs)
        return tuple(outputs)


class FlopCountAnalysis(fvcore.nn.FlopCountAnalysis):
    """``fvcore.nn.FlopCountAnalysis`` for models with structured inputs and outputs.

    The flops of a detector depend on its proposals, hence on the input: average over several. The
    model is run as it is; call ``eval()`` first for the cost of inference.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        """
        Args:
            model: the model.
            inputs: its positional arguments as a tuple, or a single one; tensors may be nested in
                lists, tuples and dicts.
        """
        arguments = inputs if isinstance(inputs, tuple) else (inputs,)
        tensors: list[torch.Tensor] = []
        _collect_tensors(arguments, tensors)
        super().__init__(_TensorsInTensorsOut(model, arguments), tuple(tensors))
        self.set_op_handle(**dict.fromkeys(_IGNORED_OPERATIONS))


def find_unused_parameters(model: nn.Module, inputs: Any) -> list[str]:
    """Names of the trainable parameters that get no gradient from one backward pass.

    Gradients are cleared before and after.

    Args:
        model: in training mode; returns a scalar loss, a dict of them, or a sequence of them.
        inputs: its positional arguments as a tuple, or a single one.
    """
    assert model.training, "find_unused_parameters needs a model in training mode"
    model.zero_grad(set_to_none=True)
    losses = model(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    if isinstance(losses, Mapping):
        losses = list(losses.values())
    if isinstance(losses, Sequence):
        losses = sum(losses)
    losses.backward()
    unused = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    model.zero_grad(set_to_none=True)
    return unused
