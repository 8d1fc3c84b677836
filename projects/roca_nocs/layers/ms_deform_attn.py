"""Multi-scale deformable attention: the sampling operator and the attention module.

The operator (Zhu et al., "Deformable DETR", equation 3) reads, for every query and head, a few
points of every feature level by bilinear interpolation and adds them with given weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from roca_nocs.layers._compiled import COMPILED_DEVICES, HAS_COMPILED_OPS


def ms_deform_attn(
    value: torch.Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted sum of bilinear samples of all levels, per query and head.

    ``torch.ops.roca_nocs.ms_deform_attn`` where it is compiled for the device, else
    :func:`ms_deform_attn_reference`. Differentiable once in all three tensors.

    Precision: half types are accumulated in float32, and locations and weights may be float32
    beside half values. Under autocast locations and weights are read in float32, while the values
    keep their dtype: what a half projection has rounded gains nothing in float32.

    CPU: the kernels are chosen at run time (AVX-512, AVX2 with FMA, or portable vectors) as
    PyTorch chooses its own, ``torch.backends.cpu.get_cpu_capability()``; the environment variable
    ``ATEN_CPU_CAPABILITY`` (``default``, ``avx2``, ``avx512``) limits both. Results do not depend
    on the number of threads. CUDA: the gradient of ``value`` is added with atomic operations,
    whose order, and so the rounding, varies from run to run.

    At a coordinate exactly on a pixel centre the interpolation has a kink: the gradient of the
    location is then that towards larger coordinates.

    Args:
        value: (B, S, H, D) float16, bfloat16, float32 or float64; the tokens of all levels one
            after the other, row by row inside a level.
        spatial_shapes: (height, width) of each of the L levels; S is the sum of their products.
        sampling_locations: (B, Q, H, L, P, 2), (x, y) from 0 at the outer left (top) border of the
            level to 1 at its outer right (bottom) border. Pixels outside of the map are zero and
            receive no gradient; a location that is not finite lies outside.
        attention_weights: (B, Q, H, L, P).

    Returns:
        (B, Q, H * D) in the dtype of ``value``.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    if value.device.type in COMPILED_DEVICES:
        sizes = [size for shape in spatial_shapes for size in shape]
        return torch.ops.roca_nocs.ms_deform_attn(
            value, sizes, sampling_locations, attention_weights
        )
    return ms_deform_attn_reference(value, spatial_shapes, sampling_locations, attention_weights)


def ms_deform_attn_reference(
    value: torch.Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
) -> torch.Tensor:
    """The same in plain PyTorch: the oracle of the tests and the path without a compiler."""
    _check_arguments(value, spatial_shapes, sampling_locations, attention_weights)
    batch, _, heads, channels = value.shape
    queries = sampling_locations.shape[1]
    dtype = torch.promote_types(value.dtype, torch.float32)
    maps = value.to(dtype).permute(0, 2, 3, 1).flatten(0, 1)
    # grid_sample counts from -1 to 1. One entry per level, (B * H, Q, P, 2) and (B * H, Q, P).
    grids = (2 * sampling_locations.to(dtype) - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    weights = attention_weights.to(dtype).permute(3, 0, 2, 1, 4).flatten(1, 2)
    output = maps.new_zeros(batch * heads, channels, queries)
    tokens = [height * width for height, width in spatial_shapes]
    for level, shape, grid, weight in zip(
        maps.split(tokens, dim=2), spatial_shapes, grids, weights, strict=True
    ):
        samples = F.grid_sample(level.unflatten(2, tuple(shape)), grid, align_corners=False)
        output = output + (samples * weight[:, None]).sum(-1)
    return output.view(batch, heads * channels, queries).mT.to(value.dtype)


def _check_arguments(
    value: torch.Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
) -> None:
    """Raise ValueError for what the compiled operator refuses as well."""
    if value.dim() != 4:
        raise ValueError(f"value must have shape (B, S, H, D), got {tuple(value.shape)}")
    shapes = [tuple(shape) for shape in spatial_shapes]
    if not shapes:
        raise ValueError("spatial_shapes must hold the height and width of at least one level")
    if any(size <= 0 for shape in shapes for size in shape):
        raise ValueError(f"spatial_shapes must be positive, got {shapes}")
    batch, tokens, heads, _ = value.shape
    if sum(height * width for height, width in shapes) != tokens:
        raise ValueError(f"value must hold the tokens of spatial_shapes {shapes}, got {tokens}")
    located = tuple(sampling_locations.shape)
    if len(located) != 6 or (located[0], *located[2:4], located[5]) != (
        batch,
        heads,
        len(shapes),
        2,
    ):
        raise ValueError(
            f"sampling_locations must have shape ({batch}, Q, {heads}, {len(shapes)}, P, 2), "
            f"got {located}"
        )
    if attention_weights.shape != located[:5]:
        raise ValueError(
            f"attention_weights must have shape {located[:5]}, got {tuple(attention_weights.shape)}"
        )
    allowed = {value.dtype, torch.promote_types(value.dtype, torch.float32)}
    for tensor in (sampling_locations, attention_weights):
        if tensor.dtype not in allowed and not torch.is_autocast_enabled(value.device.type):
            raise ValueError(
                "sampling_locations and attention_weights must have the dtype of value "
                f"({value.dtype}), or float32 beside a half one, got {tensor.dtype}"
            )


def _register_compiled_operator() -> None:
    """Give the compiled operator its shapes (torch.compile, torch.export) and its gradient."""

    @torch.library.register_fake("roca_nocs::ms_deform_attn")
    def fake(
        value: torch.Tensor,
        spatial_shapes: Sequence[int],
        sampling_locations: torch.Tensor,
        attention_weights: torch.Tensor,
    ) -> torch.Tensor:
        shapes = list(zip(spatial_shapes[::2], spatial_shapes[1::2], strict=True))
        _check_arguments(value, shapes, sampling_locations, attention_weights)
        batch, _, heads, channels = value.shape
        return value.new_empty((batch, sampling_locations.shape[1], heads * channels))

    @torch.library.register_fake("roca_nocs::ms_deform_attn_backward")
    def fake_backward(
        grad_output: torch.Tensor,
        value: torch.Tensor,
        spatial_shapes: Sequence[int],
        sampling_locations: torch.Tensor,
        attention_weights: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return (
            value.new_empty(value.shape),
            sampling_locations.new_empty(sampling_locations.shape),
            attention_weights.new_empty(attention_weights.shape),
        )

    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        value, ctx.spatial_shapes, sampling_locations, attention_weights = inputs
        ctx.save_for_backward(value, sampling_locations, attention_weights)

    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        value, sampling_locations, attention_weights = ctx.saved_tensors
        of_value, of_locations, of_weights = torch.ops.roca_nocs.ms_deform_attn_backward(
            grad_output, value, ctx.spatial_shapes, sampling_locations, attention_weights
        )
        return of_value, None, of_locations, of_weights

    torch.library.register_autograd(
        "roca_nocs::ms_deform_attn", backward, setup_context=setup_context
    )


if HAS_COMPILED_OPS:
    _register_compiled_operator()


class MultiScaleDeformableAttention(nn.Module):
    """Attention whose keys are a few learned points per query, head and level.

    The parameter names are those of the published weights.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        dropout: float = 0.0,
    ) -> None:
        """
        Args:
            embed_dim: E, channels of queries and values.
            num_heads: H; must divide ``embed_dim``.
            num_levels: L.
            num_points: P, points of a head in each level.
            dropout: probability, on the output before the residual.

        Raises:
            ValueError: ``num_heads`` does not divide ``embed_dim``.
        """
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, 2 * samples)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Equal weights on square rings: point p of head h lies p + 1 pixels away at angle h."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        rings = torch.arange(1, self.num_points + 1)
        offsets = directions[:, None, None] * rings[:, None]
        with torch.no_grad():
            bias = offsets.expand(-1, self.num_levels, -1, -1)
            self.sampling_offsets.bias.copy_(bias.flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: torch.Tensor,
        value: torch.Tensor,
        *,
        reference_points: torch.Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        query_pos: torch.Tensor | None = None,
        key_padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            query: (B, Q, E).
            value: (B, S, E), the tokens of all levels.
            reference_points: (B, Q, L, 2) normalised (x, y), around which offsets count in pixels
                of the level; or (B, Q, L, 4) normalised (x, y, w, h), where offsets count in
                halves of the box divided by P.
            spatial_shapes: (height, width) of the levels.
            query_pos: (B, Q, E), added to the query for offsets and weights only.
            key_padding_mask: (B, S) bool, True where the token is padding and its value zero.

        Returns:
            (B, Q, E), the residual on ``query`` (without ``query_pos``) included.

        Raises:
            ValueError: a shape does not fit.
        """
        batch, queries, _ = query.shape
        if reference_points.shape[:3] != (batch, queries, self.num_levels) or (
            reference_points.shape[-1] not in (2, 4)
        ):
            raise ValueError(
                f"reference_points must have shape ({batch}, {queries}, {self.num_levels}, 2 or 4),"
                f" got {tuple(reference_points.shape)}"
            )
        positioned = query if query_pos is None else query + query_pos
        values = self.value_proj(value)
        if key_padding_mask is not None:
            # After the projection: its bias must not leak in.
            values = values.masked_fill(key_padding_mask[..., None], 0.0)
        values = values.unflatten(2, (self.num_heads, -1))
        samples = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(positioned).unflatten(2, (self.num_heads, -1))
        weights = self.attention_weights(positioned).unflatten(2, (self.num_heads, -1))
        weights = weights.softmax(-1).unflatten(-1, samples[1:])
        # Half precision has too few digits for positions.
        reference = reference_points.to(torch.promote_types(reference_points.dtype, torch.float32))
        centers = self._of_points(reference[..., :2])
        if reference.shape[-1] == 2:
            sizes = reference.new_tensor([(width, height) for height, width in spatial_shapes])
            locations = centers + offsets / self._of_points(sizes)
        else:
            halves = reference[..., 2:] * (0.5 / self.num_points)
            locations = centers + offsets * self._of_points(halves)
        locations = locations.unflatten(3, (*samples[1:], 2))
        output = ms_deform_attn(values, spatial_shapes, locations, weights)
        return query + self.dropout(self.output_proj(output))

    def _of_points(self, of_levels: torch.Tensor) -> torch.Tensor:
        """(..., L, 2) of the levels as (..., 1, L * P * 2) of their points, equal for all heads.

        In this form arithmetic with all points of a head runs along contiguous numbers; broadcast
        over points it would go two numbers at a time.
        """
        repeated = of_levels[..., None, :].expand(*of_levels.shape[:-1], self.num_points, 2)
        return repeated.flatten(-3)[..., None, :]
