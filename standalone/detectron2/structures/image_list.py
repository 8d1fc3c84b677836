"""Images of different sizes in one padded tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


class ImageList:
    """A batch of images, padded at the bottom and at the right to one common size.

    Attributes:
        tensor: ``(N, H, W)`` or ``(N, C_1, ..., C_k, H, W)``.
        image_sizes: the ``(height, width)`` of every image before padding.
    """

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, index: int) -> torch.Tensor:
        """The image without its padding: a view of shape ``(..., h, w)``."""
        height, width = self.image_sizes[index]
        return self.tensor[index, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        """Convert the tensor like ``Tensor.to``."""
        return type(self)(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        """Device of the tensor."""
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: Sequence[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: Mapping[str, int] | None = None,
    ) -> ImageList:
        """Pad images to the largest height and width among them and stack them.

        Args:
            tensors: at least one image, each ``(C_1, ..., C_k, H_i, W_i)`` with equal leading
                dimensions (possibly none).
            size_divisibility: if greater than 1, the padded sides are rounded up to a multiple.
            pad_value: value of the padding.
            padding_constraints: ``{"square_size": s}`` with ``s > 0`` asks for ``s x s`` images,
                ``{"size_divisibility": d}`` replaces ``size_divisibility``.

        Raises:
            ValueError: an image is larger than the requested square.
        """
        assert len(tensors) > 0, "ImageList.from_tensors needs at least one image."
        leading = tensors[0].shape[:-2]
        for image in tensors:
            assert isinstance(image, torch.Tensor), f"Images must be tensors, got {type(image)}."
            assert image.shape[:-2] == leading, (
                f"Images must agree in all but the last two dimensions, got shapes "
                f"{[tuple(other.shape) for other in tensors]}."
            )
        image_sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in tensors]
        height, width = _padded_size(image_sizes, size_divisibility, padding_constraints or {})

        batch = tensors[0].new_full((len(tensors), *leading, height, width), pad_value)
        for index, (image_height, image_width) in enumerate(image_sizes):
            batch[index, ..., :image_height, :image_width].copy_(tensors[index])
        return ImageList(batch, image_sizes)


def _padded_size(
    image_sizes: list[tuple[int, int]], divisor: int, constraints: Mapping[str, int]
) -> tuple[int, int]:
    height = max(size[0] for size in image_sizes)
    width = max(size[1] for size in image_sizes)
    square = constraints.get("square_size", 0)
    if square > 0:
        if max(height, width) > square:
            raise ValueError(
                f"The padding constraint asks for {square} x {square} images but an image of the "
                f"batch needs {height} x {width}; resize the images or raise `square_size`."
            )
        height = width = square
    divisor = constraints.get("size_divisibility", divisor)
    if divisor > 1:
        height, width = (-(-side // divisor) * divisor for side in (height, width))
    return height, width
