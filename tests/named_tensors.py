"""A model that is only parameters; its module name also means this file in a config."""

from __future__ import annotations

import torch
from torch import nn


class NamedTensors(nn.Module):
    """A module with parameters of the given dotted names and shapes."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            *path, last = name.split(".")
            module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            module.register_parameter(last, nn.Parameter(torch.zeros(tuple(shape))))
