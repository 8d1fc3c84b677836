"""Instance masks of object queries: attention maps and small convolutions, or inner products.

n rows (queries of any images of a batch), B images, C channels, M heads. Each row is computed for
itself, so that a part of the rows, or all of them in chunks, gives the same as all at once. What
the rows of an image share is computed once, by ``prepare``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from roca_nocs.layers.transformer import DetrMLP

Skips = Sequence[torch.Tensor | None]

_REACH = 4.0  # of a window, in sizes of the box; what is further away has the same logit


class SharedParts(NamedTuple):
    """What the masks of the same image share.

    Attributes:
        start: (B, channels, h, w), the part of the first convolution that does not depend on the
            query, or the embedding of the pixels.
        skips: (B, channels, h, w) after their adapters; None for none.
        sizes: (height, width) of the skips.
    """

    start: torch.Tensor
    skips: tuple[torch.Tensor | None, ...]
    sizes: tuple[tuple[int, int], ...]


class AttentionMaps(nn.Module):
    """Where queries look, as DETR's head for panoptic segmentation has it (``bbox_attention``).

    One softmax runs over all heads and cells of a query together, so that its M maps, not each of
    them, sum to 1.
    """

    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        """
        Args:
            hidden_dim: C, a multiple of ``num_heads``.
            num_heads: M.
        """
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(hidden_dim, hidden_dim)
        self.k_linear = nn.Linear(hidden_dim, hidden_dim)
        for layer in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def prepare(self, memory: torch.Tensor) -> torch.Tensor:
        """Keys (B, C, h, w) of a memory (B, C, h, w)."""
        weight = self.k_linear.weight[:, :, None, None]
        return F.conv2d(memory, weight, self.k_linear.bias)

    def forward(
        self,
        keys: torch.Tensor,
        queries: torch.Tensor,
        image_index: torch.Tensor,
        padding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            keys: (B, C, h, w) of :meth:`prepare`.
            queries: (n, C).
            image_index: (n,) int64, image of each query.
            padding: (B, h, w) bool, True at padding, where the maps are 0. Of an image with
                nothing else it is ignored.

        Returns:
            (n, M, h, w) float32.
        """
        query = self.q_linear(queries).unflatten(1, (self.num_heads, -1))
        query = query / math.sqrt(query.shape[-1])
        size = keys.shape[-2:]
        keys = keys.flatten(2).unflatten(1, (self.num_heads, -1))
        scores = (query[:, :, None] @ _of_rows(keys, image_index)).squeeze(2).float()
        if padding is not None:
            hidden = padding.flatten(1)
            hidden = hidden & ~hidden.all(dim=1, keepdim=True)
            scores = scores.masked_fill(_of_rows(hidden, image_index)[:, None], -torch.inf)
        return scores.flatten(1).softmax(dim=1).view(len(queries), self.num_heads, *size)


class ConvMaskHead(nn.Module):
    """Small convolutions from a coarse map and attention maps to a mask (``mask_head`` of DETR).

    Widths C + M, C/2, C/4, C/8, C/16; three skips are added at falling strides. A skip may be
    coarser than the map it is added to, which is then brought down to it.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        skip_channels: Sequence[int],
        gn_groups: int | str = 8,
    ) -> None:
        """
        Args:
            hidden_dim: C, see :func:`check_mask_widths`.
            num_heads: M.
            skip_channels: of the three skips, from coarse to fine.
            gn_groups: of the normalisations, or ``"auto"``.
        """
        super().__init__()
        self.hidden_dim = hidden_dim
        first = hidden_dim + num_heads
        widths = [first, first, *(hidden_dim // 2**power for power in range(1, 5))]
        for number, (before, after) in enumerate(pairwise(widths), start=1):
            self.add_module(f"lay{number}", nn.Conv2d(before, after, 3, padding=1))
            self.add_module(f"gn{number}", nn.GroupNorm(_groups(gn_groups, after), after))
        self.out_lay = nn.Conv2d(widths[-1], 1, 3, padding=1)
        for number, channels in enumerate(skip_channels, start=1):
            self.add_module(f"adapter{number}", nn.Conv2d(channels, widths[number + 1], 1))
        _init_convolutions(self)

    def prepare(
        self, x: torch.Tensor, skips: Skips, sizes: tuple[tuple[int, int], ...]
    ) -> SharedParts:
        """
        Args:
            x: (B, C, h, w), the coarse map.
            skips: (B, channels, h, w) from coarse to fine; None for one that adds nothing.
            sizes: (height, width) of each.
        """
        # The first convolution sees the same C channels in all rows of an image.
        weight = self.lay1.weight[:, : self.hidden_dim]
        adapters = (self.adapter1, self.adapter2, self.adapter3)
        return SharedParts(
            F.conv2d(x, weight, self.lay1.bias, padding=1),
            tuple(
                None if skip is None else adapter(skip)
                for adapter, skip in zip(adapters, skips, strict=True)
            ),
            sizes,
        )

    def forward(
        self, maps: torch.Tensor, shared: SharedParts, image_index: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            maps: (n, M, h, w) attention maps.
            shared: of :meth:`prepare`.
            image_index: (n,) int64, image of each row.

        Returns:
            (n, h', w') logits, of the size of the finest skip.
        """
        x = F.conv2d(maps, self.lay1.weight[:, self.hidden_dim :], padding=1)
        x = F.relu(self.gn1(x + _of_rows(shared.start, image_index)))
        x = F.relu(self.gn2(self.lay2(x)))
        layers = ((self.lay3, self.gn3), (self.lay4, self.gn4), (self.lay5, self.gn5))
        for (layer, norm), skip, size in zip(layers, shared.skips, shared.sizes, strict=True):
            x = F.interpolate(x, size=size, mode="nearest")
            if skip is not None:
                x = x + _of_rows(skip, image_index)
            x = F.relu(norm(layer(x)))
        return self.out_lay(x).squeeze(1)


class BoxWindow(nn.Module):
    """A bell around the box of a query, as logits: where its mask can be.

    Inner products alone tell instances of the same look apart only as far as the pixels know where
    they are, which takes long to learn. The window says it from the start: a polynomial of second
    degree in coordinates relative to the box, whose six coefficients depend on the query, so that
    its lines of equal value are ellipses of any direction. (CondInst, Tian et al., ECCV 2020, gives
    relative coordinates to a small network per query for the same reason.)
    """

    def __init__(self, hidden_dim: int) -> None:
        """
        Args:
            hidden_dim: C.
        """
        super().__init__()
        self.coefficients = nn.Linear(hidden_dim, 6)
        nn.init.zeros_(self.coefficients.weight)
        with torch.no_grad():
            # Zero at the edges of the box, -2 at its corners.
            self.coefficients.bias.copy_(torch.tensor([2.0, 0.0, 0.0, -8.0, 0.0, -8.0]))

    def forward(
        self, queries: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        """
        Args:
            queries: (n, C).
            boxes: (n, 4) cxcywh in [0, 1] of the map; they get no gradient.
            size: (height, width) of the map.

        Returns:
            (n, height, width) logits.
        """
        height, width = size
        x, y = (
            (torch.arange(count, device=boxes.device) + 0.5) / count for count in (width, height)
        )
        cx, cy, w, h = boxes.detach().float()[:, :, None].unbind(dim=1)
        # Boxes of less than two cells have too few cells to say where they end.
        u = ((x - cx) / w.clamp(min=2 / width)).clamp(-_REACH, _REACH)
        v = ((y - cy) / h.clamp(min=2 / height)).clamp(-_REACH, _REACH)
        one, a, b, aa, ab, bb = self.coefficients(queries)[:, :, None].unbind(dim=1)
        rows, columns = one + b * v + bb * v * v, a * u + aa * u * u
        return rows[:, :, None] + columns[:, None] + (ab * v)[:, :, None] * u[:, None]


class DotMaskHead(nn.Module):
    """Inner products of an embedding of the pixels with one of the query.

    A light alternative to :class:`ConvMaskHead`: nothing but the product depends on the query, so
    that rows need no chunks.
    """

    def __init__(
        self,
        hidden_dim: int,
        skip_channels: Sequence[int],
        gn_groups: int | str = 8,
        mask_dim: int | None = None,
        window: bool = False,
    ) -> None:
        """
        Args:
            hidden_dim: C.
            skip_channels: from coarse to fine.
            gn_groups: of the normalisations, or ``"auto"``.
            mask_dim: numbers in an embedding; None for C.
            window: add a :class:`BoxWindow` of the query's box.
        """
        super().__init__()
        width = mask_dim or hidden_dim
        groups = _groups(gn_groups, width)
        self.reduce = nn.Conv2d(hidden_dim, width, 1)
        self.adapters = nn.ModuleList(nn.Conv2d(c, width, 1) for c in skip_channels)
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(groups, width),
                nn.ReLU(),
            )
            for _ in skip_channels
        )
        self.pixel_embed = nn.Conv2d(width, width, 1)
        _init_convolutions(self)
        self.query_embed = DetrMLP(hidden_dim, hidden_dim, width, 3)
        self.window = BoxWindow(hidden_dim) if window else None

    def prepare(
        self, x: torch.Tensor, skips: Skips, sizes: tuple[tuple[int, int], ...]
    ) -> SharedParts:
        """As :meth:`ConvMaskHead.prepare`."""
        x = self.reduce(x)
        for adapter, conv, skip, size in zip(self.adapters, self.convs, skips, sizes, strict=True):
            x = F.interpolate(x, size=size, mode="nearest")
            x = conv(x if skip is None else x + adapter(skip))
        return SharedParts(self.pixel_embed(x), (), sizes)

    def forward(
        self,
        shared: SharedParts,
        queries: torch.Tensor,
        image_index: torch.Tensor,
        boxes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            shared: of :meth:`prepare`.
            queries: (n, C).
            image_index: (n,) int64, image of each row.
            boxes: (n, 4) cxcywh in [0, 1] of the map, read with ``window`` only.

        Returns:
            (n, h', w') logits, of the size of the finest skip.

        Raises:
            ValueError: ``window`` without boxes.
        """
        embedded = self.query_embed(queries)
        embedded = embedded / math.sqrt(embedded.shape[1])
        # The rows of an image side by side: one product each, without a copy of the pixels per row.
        pixels = shared.start.flatten(2)
        order = image_index.argsort(stable=True)
        counts = torch.bincount(image_index, minlength=len(pixels))
        first = counts.cumsum(dim=0) - counts
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        place = place - first[image_index]
        most = int(counts.max())
        table = embedded.new_zeros(len(pixels), most, embedded.shape[1])
        table = table.index_put((image_index, place), embedded)
        masks = (table @ pixels)[image_index, place].unflatten(1, shared.sizes[-1])
        if self.window is None:
            return masks
        if boxes is None:
            raise ValueError("a mask head with a window needs the boxes of the queries")
        return masks + self.window(queries, boxes, shared.sizes[-1])


class StridedSkips(nn.ModuleList):
    """Skips of half the resolution and half the channels, by 3x3 convolutions of stride 2."""

    def __init__(self, channels: Sequence[int]) -> None:
        """
        Args:
            channels: of the features.
        """
        super().__init__(nn.Conv2d(c, c // 2, 3, stride=2, padding=1) for c in channels)
        self.out_channels = [c // 2 for c in channels]
        _init_convolutions(self)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """(B, channels, h, w) to (B, channels / 2, ceil(h / 2), ceil(w / 2))."""
        return [conv(feature) for conv, feature in zip(self, features, strict=True)]


def masks_in_chunks(
    head: ConvMaskHead,
    shared: SharedParts,
    queries: torch.Tensor,
    image_index: torch.Tensor,
    *,
    attend: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    chunk: int,
) -> torch.Tensor:
    """The masks of n queries, some at a time, so that memory does not grow with n.

    Args:
        head: the mask head.
        shared: what it has prepared.
        queries: (n, C).
        image_index: (n,) int64, image of each.
        attend: gives the attention maps of rows and their images.
        chunk: rows at a time, at least 1.

    Returns:
        (n, h, w) logits.
    """
    parts = []
    # One empty chunk for no queries keeps the parameters in the graph.
    for start in range(0, max(len(queries), 1), chunk):
        rows, images = queries[start : start + chunk], image_index[start : start + chunk]
        parts.append(head(attend(rows, images), shared, images))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def check_mask_widths(hidden_dim: int, nheads: int, gn_groups: int | str) -> None:
    """
    Raises:
        ValueError: a width of :class:`ConvMaskHead` is not a multiple of the number of groups.
    """
    if gn_groups == "auto":
        return
    needed = 16 * int(gn_groups)
    if hidden_dim % needed:
        raise ValueError(
            f"hidden_dim must be a multiple of {needed}, since hidden_dim / 16 channels of the "
            f"mask head are normalised in gn_groups={gn_groups} groups; got {hidden_dim}"
        )
    if nheads % int(gn_groups):
        raise ValueError(
            f"nheads must be a multiple of gn_groups={gn_groups}, since hidden_dim + nheads "
            f"channels of the mask head are normalised in so many groups; got {nheads}"
        )


def _groups(gn_groups: int | str, channels: int) -> int:
    return math.gcd(8, channels) if gn_groups == "auto" else int(gn_groups)


def _init_convolutions(module: nn.Module) -> None:
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.kaiming_uniform_(each.weight, a=1)
            assert each.bias is not None
            nn.init.zeros_(each.bias)


def _of_rows(values: torch.Tensor, image_index: torch.Tensor) -> torch.Tensor:
    """(n, ...) of (B, ...); of a single image without a copy, as (1, ...)."""
    return values if len(values) == 1 else values[image_index]
