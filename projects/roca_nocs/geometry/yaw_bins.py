"""Headings as a bin and a residual: MultiBin without overlap on the circle of angles.

Angles are radians. Functions are elementwise, keep the dtype of their input and are differentiable
in the residual. With Q bins of width w, bin b is centred on -period / 2 + b w, so that bin 0 lies
on both sides of the seam.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

RESIDUALS = ("half_width", "birdnet")
"""``half_width``: in units of half a bin, in [-1, 1). ``birdnet``: radians times trunc(Q / pi), as
in BirdNet+ (Barrera et al., 2021), whose encoder gives exact bin edges to the lower bin."""

PERIODS = ("2pi", "pi")
"""Angles that differ by the period are the same. With ``pi`` front and back are not told apart:
for symmetric classes only."""


def wrap_angle(angle: torch.Tensor, period: float = 2 * math.pi) -> torch.Tensor:
    """The angle of [-period / 2, period / 2) that differs by a multiple of the period.

    Angles that lie there already come back unchanged.
    """
    half = period / 2
    wrapped = angle - period * ((angle + half) / period).floor()
    # Rounding may leave an angle just outside, on either side of the seam.
    wrapped = torch.where(wrapped >= half, wrapped - period, wrapped)
    return torch.where(wrapped < -half, wrapped.new_tensor(-half), wrapped)


@dataclass(frozen=True)
class YawBins:
    """A division of the circle.

    Attributes:
        num_bins: Q.
        residual: one of ``RESIDUALS``.
        period: one of ``PERIODS``.

    Raises:
        ValueError: no such residual or period, or too few bins.
    """

    num_bins: int = 12
    residual: str = "half_width"
    period: str = "2pi"

    def __post_init__(self) -> None:
        for name, choices in (("residual", RESIDUALS), ("period", PERIODS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"unknown yaw {name} {getattr(self, name)!r}; expected one of {choices}"
                )
        least = 4 if self.residual == "birdnet" else 1
        if self.num_bins < least:
            raise ValueError(
                f"{self.num_bins} yaw bins; a residual {self.residual!r} needs {least} or more"
            )

    def encode(self, angle: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bin and residual of angles.

        Args:
            angle: (...), any real number.

        Returns:
            bin: (...) int64 in [0, Q).
            residual: (...), in units of ``residual``.
        """
        position = (angle + self._period / 2) / self._width
        if self.residual == "birdnet":
            bins = (position - 0.5).ceil()
        else:
            bins = (position + 0.5).floor()
        bins = bins.long() % self.num_bins
        return bins, wrap_angle(angle - self.centers(bins, angle.dtype), self._period) * self._scale

    def decode(self, bins: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Angles in [-period / 2, period / 2) of bins (...) int64 and residuals (...).

        Residuals may be larger than a bin: they are not squashed.
        """
        angle = self.centers(bins, residual.dtype) + residual / self._scale
        return wrap_angle(angle, self._period)

    def centers(self, bins: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Central angles (...) of bins (...) int64."""
        return bins.to(dtype) * self._width - self._period / 2

    @property
    def _period(self) -> float:
        return {"2pi": 2 * math.pi, "pi": math.pi}[self.period]

    @property
    def _width(self) -> float:
        return self._period / self.num_bins

    @property
    def _scale(self) -> float:
        """Residual per radian."""
        if self.residual == "birdnet":
            return float(math.trunc(self.num_bins / math.pi))
        return 2 / self._width
