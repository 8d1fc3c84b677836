"""Ground truth of regions: object coordinates, masks and depth, cut out of image maps.

B images, N objects of all images together, R regions, S x S cells per region. Coordinates are those
of the NOCS cube [0, 1]^3, in which an object is centred at 1/2 and has a diagonal of 1 (Wang et
al., CVPR 2019). Nothing here has a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from roca_nocs.geometry.roi_grid import cell_pixels

__all__ = ["RESAMPLING", "NocsTargets", "ObjectMaps", "crop_and_resize", "resample", "roi_depth"]

RESAMPLING = ("normalized", "nocs", "ganocs")
"""Ways from maps to regions, see :func:`resample`."""

_MINI_SIZE = 28
_EPSILON = 1e-6


@dataclass(frozen=True)
class NocsTargets:
    """Ground truth of R regions.

    Attributes:
        coordinates: (R, 3, S, S) float32 in [0, 1], channels x, y, z; 0 outside the mask.
        mask: (R, S, S) bool, cells that show the object.
        classes: (R,) int64, foreground classes.
        labelled: (R,) bool, whether the region's image has object coordinates at all; elsewhere
            the coordinates are 0 and must not be learnt.
    """

    coordinates: torch.Tensor
    mask: torch.Tensor
    classes: torch.Tensor
    labelled: torch.Tensor


@dataclass(frozen=True)
class ObjectMaps:
    """What the images show of N objects.

    Attributes:
        nocs: (B, 3, H, W) float32, coordinates minus 1/2 on the padded canvas, 0 outside objects.
        masks: (N, H, W) bool, on the same canvas.
        boxes: (N, 4), XYXY in pixels.
        image_indices: (N,) int64, image of each object.
        depth: (B, 1, H, W) float32, metres, 0 = unknown.
    """

    nocs: torch.Tensor
    masks: torch.Tensor
    boxes: torch.Tensor
    image_indices: torch.Tensor
    depth: torch.Tensor

    def select(self, rows: torch.Tensor) -> ObjectMaps:
        """The objects of these rows (K,), in their order."""
        return ObjectMaps(
            self.nocs, self.masks[rows], self.boxes[rows], self.image_indices[rows], self.depth
        )


@torch.no_grad()
def resample(
    objects: ObjectMaps,
    boxes: torch.Tensor,
    rows: torch.Tensor,
    size: int,
    mode: str = "normalized",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates and masks of objects in regions.

    Interpolation mixes the object with the zeros around it. ``"normalized"`` samples mask m and
    m q with the same operator (ROI align, as detectron2 pools features) and divides, so that cells
    on the outline hold coordinates of the object alone. The other modes reproduce published
    programs, whose cells on the outline are pulled towards 0:

    * ``"nocs"``, the official one: the object is cut to its own box and resized to 28 x 28 by the
      nearest pixel; that is sampled by :func:`crop_and_resize`, the mask rounded.
    * ``"ganocs"``: ROI align without the half-pixel shift; a cell belongs to the mask if it
      touches the object.

    Args:
        objects: their maps.
        boxes: (R, 4), XYXY in pixels.
        rows: (R,) int64, object of each region.
        size: S.
        mode: one of ``RESAMPLING``.

    Returns:
        coordinates (R, 3, S, S) float32 in [0, 1], 0 outside the mask, and the mask (R, S, S) bool.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in RESAMPLING:
        raise ValueError(f"target_resample is {mode!r}; expected one of {RESAMPLING}")
    if len(boxes) == 0:
        empty = objects.nocs.new_zeros(0, 3, size, size)
        return empty, empty[:, 0] > 0
    if mode == "nocs":
        sampled = _through_object_box(objects, boxes, rows, size)
        mask = sampled[:, 3].round() > 0
        return sampled[:, :3] * mask[:, None], mask
    objects, rows = _used(objects, rows)
    masks = objects.masks[:, None].float()
    values = (objects.nocs[objects.image_indices] + 0.5) * masks
    sampled = _align(torch.cat([values, masks], dim=1), boxes, rows, size, mode == "normalized")
    coordinates, share = sampled[:, :3], sampled[:, 3]
    if mode == "ganocs":
        return coordinates, share > 0
    mask = share >= 0.5
    return coordinates / share.clamp(min=_EPSILON)[:, None] * mask[:, None], mask


@torch.no_grad()
def roi_depth(
    objects: ObjectMaps, boxes: torch.Tensor, rows: torch.Tensor, size: int
) -> torch.Tensor:
    """Depth of objects in regions: the mean over the pixels of the object that have one.

    Args:
        objects: their maps.
        boxes: (R, 4), XYXY in pixels.
        rows: (R,) int64, object of each region.
        size: S.

    Returns:
        (R, 1, S, S) float32, metres; 0 where less than half of a cell shows the object's depth.
    """
    if len(boxes) == 0:
        return objects.depth.new_zeros(0, 1, size, size)
    objects, rows = _used(objects, rows)
    depth = objects.depth[objects.image_indices]
    known = objects.masks[:, None] & (depth > 0)
    values = torch.cat([depth * known, known.float()], dim=1)
    depth, share = _align(values, boxes, rows, size, aligned=True).split(1, dim=1)
    return depth / share.clamp(min=_EPSILON) * (share >= 0.5)


def crop_and_resize(
    maps: torch.Tensor, boxes: torch.Tensor, rows: torch.Tensor, size: int
) -> torch.Tensor:
    """Bilinear samples at the corners of a grid over each box, as TensorFlow's operator defines.

    Sample i of a line lies at start + i (end - start) / (S - 1), where 0 and 1 are the centres of
    the first and the last cell of the map. Samples outside the map are 0.

    Args:
        maps: (N, K, h, w).
        boxes: (R, 4), XYXY as fractions of the map.
        rows: (R,) int64, map of each box.
        size: S, at least 2.

    Returns:
        (R, K, S, S).
    """
    steps = torch.linspace(0, 1, size, device=boxes.device, dtype=boxes.dtype)
    start, extent = boxes[:, :2, None], (boxes[:, 2:] - boxes[:, :2])[..., None]
    x, y = (start + steps * extent).unbind(dim=1)
    shape = (len(boxes), size, size)
    grid = torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape)], dim=-1)
    inside = ((grid >= 0) & (grid <= 1)).all(dim=-1)
    sampled = F.grid_sample(maps[rows], 2 * grid - 1, padding_mode="border", align_corners=True)
    return sampled * inside[:, None]


def _through_object_box(
    objects: ObjectMaps, boxes: torch.Tensor, rows: torch.Tensor, size: int
) -> torch.Tensor:
    """(R, 4, S, S): coordinates times mask, and mask, by way of a small map of each object."""
    objects, rows = _used(objects, rows)
    height, width = objects.masks.shape[1:]
    limits = objects.masks.new_tensor([[height, width]], dtype=torch.int64)
    x, y = cell_pixels(objects.boxes, limits, _MINI_SIZE).unbind(dim=1)
    number = torch.arange(len(x), device=x.device)[:, None, None]
    mask = objects.masks[number, y, x]
    image = objects.image_indices[:, None, None]
    values = (objects.nocs[image, :, y, x].movedim(-1, 1) + 0.5) * mask[:, None]
    mini = torch.cat([values, mask[:, None].float()], dim=1)

    own = objects.boxes[rows]
    origin, extent = own[:, :2].repeat(1, 2), (own[:, 2:] - own[:, :2]).repeat(1, 2)
    return crop_and_resize(mini, (boxes - origin) / extent.clamp(min=1), rows, size)


def _used(objects: ObjectMaps, rows: torch.Tensor) -> tuple[ObjectMaps, torch.Tensor]:
    """The objects that have a region, and the rows of the regions among them."""
    used, rows = rows.unique(return_inverse=True)
    return objects.select(used), rows


def _align(
    maps: torch.Tensor, boxes: torch.Tensor, rows: torch.Tensor, size: int, aligned: bool
) -> torch.Tensor:
    regions = torch.cat([rows[:, None].to(boxes.dtype), boxes], dim=1).to(maps.dtype)
    return roi_align(maps, regions, size, aligned=aligned)
