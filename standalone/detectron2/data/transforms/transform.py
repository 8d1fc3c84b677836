"""Deterministic transforms that fvcore lacks: resizing, extents, colour operations."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from fvcore.transforms.transform import NoOpTransform, Transform
from PIL import Image
from torch.nn import functional as F

__all__ = ["ColorTransform", "ExtentTransform", "PILColorTransform", "ResizeTransform"]

_TORCH_MODES = {
    Image.Resampling.NEAREST: "nearest",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}


def _through_pil(image: np.ndarray, operation: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Apply an operation of Pillow to `(H, W)` or `(H, W, C)`, keeping a channel axis of one."""
    single_channel = image.ndim == 3 and image.shape[2] == 1
    pil_image = Image.fromarray(image[:, :, 0] if single_channel else image)
    result = np.asarray(operation(pil_image))
    return result[:, :, np.newaxis] if single_channel else result


class ResizeTransform(Transform):
    """Resize to a given size.

    uint8 images go through Pillow, which averages over the covered pixels when it makes an
    image smaller; other types go through `F.interpolate` with `align_corners=False`, which
    does not.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        """
        Args:
            h: height of the input in pixels.
            w: width of the input in pixels.
            new_h: height of the output in pixels.
            new_w: width of the output in pixels.
            interp: a resampling filter of Pillow; `None` is bilinear.
        """
        super().__init__()
        if interp is None:
            interp = Image.Resampling.BILINEAR
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize `(H, W)` or `(H, W, C)` of any type that the filter makes sense for."""
        assert img.shape[:2] == (self.h, self.w), (
            f"ResizeTransform was made for images of {(self.h, self.w)}, got {img.shape[:2]}."
        )
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            return _through_pil(img, lambda x: x.resize((self.new_w, self.new_h), interp))
        if interp not in _TORCH_MODES:
            raise ValueError(
                f"Images of type {img.dtype} can only be resized with nearest, bilinear or "
                f"bicubic interpolation, got interp={interp}. Convert to uint8 for other filters."
            )
        if interp == Image.Resampling.NEAREST:
            return self._resize_nearest(img)
        return self._interpolate(img, _TORCH_MODES[interp])

    def _interpolate(self, img: np.ndarray, mode: str) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(img)).reshape(1, self.h, self.w, -1)
        pixels = F.interpolate(
            pixels.permute(0, 3, 1, 2), (self.new_h, self.new_w), mode=mode, align_corners=False
        )
        shape = (self.new_h, self.new_w, *img.shape[2:])
        return pixels.permute(0, 2, 3, 1).reshape(shape).numpy()

    def _resize_nearest(self, img: np.ndarray) -> np.ndarray:
        # Interpolating indices instead of pixels serves every dtype: label maps are integers.
        rows, columns = (
            F.interpolate(torch.arange(old, dtype=torch.float32)[None, None], new, mode="nearest")
            .flatten()
            .to(torch.int64)
            .numpy()
            for old, new in ((self.h, self.new_h), (self.w, self.new_w))
        )
        return img[rows[:, np.newaxis], columns]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale `(N, 2)` points (x, y) in place."""
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize `(H, W)` labels with the nearest neighbour."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)

    def inverse(self) -> "ResizeTransform":
        """The resize back to the original size."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class ExtentTransform(Transform):
    """Cut a rectangle, which may reach beyond the image, and scale it to the output size."""

    def __init__(
        self,
        src_rect: Sequence[float],
        output_size: Sequence[int],
        interp: int = Image.Resampling.BILINEAR,
        fill: int = 0,
    ) -> None:
        """
        Args:
            src_rect: (x0, y0, x1, y1) in pixels of the input.
            output_size: (height, width) in pixels.
            interp: a resampling filter of Pillow.
            fill: value of every channel outside the input image.
        """
        super().__init__()
        src_rect, output_size = tuple(src_rect), tuple(output_size)
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Cut and scale `(H, W)` or `(H, W, C)`, of a type that Pillow knows."""

        def extent(image: Image.Image) -> Image.Image:
            bands = len(image.getbands())
            return image.transform(
                self.output_size[::-1],
                Image.Transform.EXTENT,
                self.src_rect,
                resample=self.interp if interp is None else interp,
                fillcolor=self.fill if bands == 1 else (self.fill,) * bands,
            )

        return _through_pil(img, extent)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Map `(N, 2)` points (x, y) to the output; returns a new float32 array."""
        height, width = self.output_size
        x0, y0, x1, y1 = self.src_rect
        scale = np.array([width / (x1 - x0), height / (y1 - y0)])
        return ((coords - np.array([x0, y0])) * scale).astype(np.float32)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Cut and scale `(H, W)` labels with the nearest neighbour."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)


class ColorTransform(Transform):
    """An operation on pixel values alone: coordinates and segmentations stay as they are."""

    def __init__(self, op: Callable[[np.ndarray], np.ndarray]) -> None:
        """
        Args:
            op: image array -> image array of the same size.
        """
        if not callable(op):
            raise ValueError(f"op parameter should be callable, got {type(op).__name__}")
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Apply the operation."""
        return self.op(img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Return the input."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Return the input."""
        return segmentation

    def inverse(self) -> Transform:
        """No operation: the geometry did not change."""
        return NoOpTransform()


class PILColorTransform(ColorTransform):
    """A `ColorTransform` whose operation maps a Pillow image to a Pillow image."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Apply the operation to the image as a Pillow image."""
        return np.asarray(super().apply_image(Image.fromarray(img)))
