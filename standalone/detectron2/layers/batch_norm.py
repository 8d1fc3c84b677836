"""Normalisation layers and their lookup by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics and a fixed affine map.

    All four quantities are buffers: nothing is trained and nothing is updated. A fresh layer is
    the identity, so a model can be tested without weights.
    """

    _version = 3
    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor | None

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        # Only a layer that was frozen after training has a count, and keeps it in its files.
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``(N, C, H, W)``; the dtype of the input is kept."""
        if not x.requires_grad:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        # With a gradient that kernel would keep `x`, to differentiate by the weight. A
        # multiply-add whose factors are constant keeps nothing of that size.
        scale, shift = self.scale_and_shift()
        return torch.addcmul(
            shift.to(x.dtype).view(1, -1, 1, 1), x, scale.to(x.dtype).view(1, -1, 1, 1)
        )

    def scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer as an affine map: factor and summand of each channel, both ``(C,)``."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        version = local_metadata.get("version")
        if version is None or version < 2:
            # Old files hold only the affine map, with the statistics already folded into it.
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}, eps={self.eps}"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every ``BatchNorm2d`` and ``SyncBatchNorm`` below ``module``.

        Returns:
            The frozen copy if ``module`` itself is a batch normalisation, else ``module``, whose
            children are replaced in place.

        Raises:
            ValueError: a batch normalisation that does not track running statistics.
        """
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            return cls._frozen_copy(module)
        for name, child in module.named_children():
            frozen = cls.convert_frozen_batchnorm(child)
            if frozen is not child:
                setattr(module, name, frozen)
        return module

    @classmethod
    def _frozen_copy(cls, module: nn.BatchNorm2d | nn.SyncBatchNorm) -> FrozenBatchNorm2d:
        if module.running_mean is None:
            raise ValueError(
                f"{module} has no running statistics to freeze; build it with "
                "track_running_stats=True."
            )
        frozen = cls(module.num_features, module.eps)
        names = ["running_mean", "running_var", "num_batches_tracked"]
        if module.affine:
            names += ["weight", "bias"]
        for name in names:
            setattr(frozen, name, getattr(module, name).detach().clone())
        return frozen.to(module.running_mean.device)


class LayerNorm(nn.Module):
    """Layer normalisation over the channels of ``(N, C, H, W)``."""

    def __init__(self, num_features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise each pixel over its channels."""
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        normalised = (x - mean) * torch.rsqrt(variance + self.eps)
        return normalised * self.weight[:, None, None] + self.bias[:, None, None]


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
    "LN": LayerNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Make a normalisation layer.

    Args:
        norm: a name (``BN``, ``SyncBN``, ``FrozenBN``, ``GN`` with 32 groups, ``LN``), a callable
            that takes the number of channels, or ``None`` / ``""`` for no layer.
        out_channels: number of channels.

    Raises:
        KeyError: an unknown name.
    """
    if norm is None or norm == "":
        return None
    if isinstance(norm, str):
        if norm not in _NORMS:
            raise KeyError(f"Unknown normalisation '{norm}', choose one of {sorted(_NORMS)}.")
        norm = _NORMS[norm]
    return norm(out_channels)
