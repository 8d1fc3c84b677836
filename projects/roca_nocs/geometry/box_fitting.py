"""Nine-parameter boxes of objects from their NOCS maps, with depth or with a known size.

A NOCS map holds at each pixel the point q of the model seen there, in [0, 1]^3; q - 1/2 are its
coordinates in the centred model frame with unit diagonal. N instances, maps of H x W.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from roca_nocs.geometry.failures import FailureReason
from roca_nocs.geometry.pnp import pnp_ransac
from roca_nocs.geometry.similarity import umeyama_ransac

_MILLIMETRES = 1000.0
_REFINEMENTS = 3


@dataclass(frozen=True)
class BoxFit:
    """Boxes: the model point q - 1/2 lies at ``scale * rotation @ (q - 1/2) + translation``.

    Rows with a reason have the identity, zeros and scale 1, but keep their extents.

    Attributes:
        rotation: (N, 3, 3), model to camera.
        translation: (N, 3), metres, centre of the box.
        scale: (N,), metres per unit of the map, the diagonal of the model.
        extents: (N, 3), edges of the box in units of the map, about (0, 0, 0) of the model.
        reasons: (N,) int64, :class:`~roca_nocs.geometry.failures.FailureReason`.
    """

    rotation: torch.Tensor
    translation: torch.Tensor
    scale: torch.Tensor
    extents: torch.Tensor
    reasons: torch.Tensor

    @property
    def valid(self) -> torch.Tensor:
        """(N,) bool, boxes that were found."""
        return self.reasons == FailureReason.OK

    @property
    def sizes(self) -> torch.Tensor:
        """(N, 3), edges in metres."""
        return self.scale[:, None] * self.extents


def fit_boxes(
    coordinates: torch.Tensor,
    masks: torch.Tensor,
    points: torch.Tensor,
    *,
    size_quantile: float = 1.0,
    rule: str = "corrected",
    generator: torch.Generator | None = None,
) -> BoxFit:
    """Boxes from the camera-frame points behind the pixels.

    The box is centred at q = 1/2; its edges are twice the largest |q - 1/2| along each axis over
    all pixels of the mask, also those without depth. No gradient; float32 or the wider type of the
    inputs.

    Args:
        coordinates: (N, 3, H, W), q.
        masks: (N, H, W) bool. Pixels whose q is not finite do not count.
        points: (N, 3, H, W), metres, camera frame (``camera.back_project`` or
            ``roi_grid.back_project_grid``; ``expand`` serves instances of one image). Pixels
            whose z is not positive and finite have no depth.
        size_quantile: of |q - 1/2| in place of the largest, e.g. 0.98 against stray pixels.
        rule: of ``similarity.umeyama_ransac``; ``"nocs"`` reproduces the official alignment.
        generator: of RANSAC's draws; None is torch's global one.

    Returns:
        Reasons: TOO_FEW_POINTS below three pixels, or three with depth; NO_VALID_DEPTH without any;
        further those of ``umeyama_ransac``.

    Raises:
        ValueError: shapes that do not fit, ``size_quantile`` outside (0, 1], unknown ``rule``.
    """
    model, behind, visible = _pack(coordinates, masks, points, "points")
    seen = visible & (behind[..., 2] > 0) & behind.isfinite().all(dim=2)
    edges = _edges(model, visible, size_quantile)
    unit = _MILLIMETRES if rule == "nocs" else 1.0
    similarity = umeyama_ransac(
        model,
        behind * unit,
        seen,
        rule=rule,
        refinements=0 if rule == "nocs" else _REFINEMENTS,
        generator=generator,
    )
    no_depth = (visible.sum(dim=1) >= 3) & ~seen.any(dim=1)
    reasons = torch.where(no_depth, FailureReason.NO_VALID_DEPTH, similarity.reasons)
    fit = similarity.failed_where(reasons)
    scale = torch.where(reasons == FailureReason.OK, fit.scale / unit, fit.scale)
    return BoxFit(fit.rotation, fit.translation / unit, scale, edges, reasons)


def fit_boxes_of_known_size(
    coordinates: torch.Tensor,
    masks: torch.Tensor,
    rays: torch.Tensor,
    sizes: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
) -> BoxFit:
    """Boxes without depth: the pose that puts a model of this size behind its pixels.

    The model points are the diagonal of the size times q - 1/2 (perspective n points, RANSAC).

    Args:
        coordinates: (N, 3, H, W), q.
        masks: (N, H, W) bool. Pixels whose q is not finite do not count.
        rays: (N, 3, H, W), camera frame, z = 1 (``camera.pixel_rays`` or ``roi_grid.grid_rays``).
        sizes: (N, 3), edges in metres, positive.
        generator: of RANSAC's draws; None is torch's global one.

    Returns:
        ``scale`` is the diagonal of ``sizes``, ``extents`` are its edges over that. Reasons: those
        of ``pnp.pnp_ransac``.

    Raises:
        ValueError: shapes that do not fit.
    """
    if sizes.shape != (len(coordinates), 3):
        raise ValueError(f"expected sizes {(len(coordinates), 3)}, got {tuple(sizes.shape)}")
    model, behind, visible = _pack(coordinates, masks, rays, "rays")
    sizes = sizes.to(model.dtype)
    diagonal = sizes.norm(dim=1)
    pose = pnp_ransac(model * diagonal[:, None, None], behind, visible, diagonal, generator)
    scale = torch.where(pose.reasons == FailureReason.OK, diagonal, 1.0)
    extents = sizes / diagonal[:, None]
    return BoxFit(pose.rotation, pose.translation, scale, extents, pose.reasons)


def _pack(
    coordinates: torch.Tensor, masks: torch.Tensor, behind: torch.Tensor, name: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q - 1/2 and what lies behind the pixels, both (N, P, 3), and which of these P exist (N, P).

    P is the largest number of pixels of a mask, so that the cost does not grow with the image.
    """
    count, _, height, width = expected = (len(coordinates), 3, *coordinates.shape[-2:])
    if coordinates.shape != expected or behind.shape != expected:
        shapes = f"coordinates {tuple(coordinates.shape)}, {name} {tuple(behind.shape)}"
        raise ValueError(f"expected coordinates and {name} of one shape (N, 3, H, W), got {shapes}")
    if masks.shape != (count, height, width):
        raise ValueError(f"expected masks {(count, height, width)}, got {tuple(masks.shape)}")
    with torch.no_grad():
        dtype = torch.promote_types(coordinates.dtype, behind.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        finite = coordinates.isfinite().all(dim=1)
        rows, y, x = (masks.bool() & finite).nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=count)
        columns = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        most = int(counts.max()) if count else 0
        packed = []
        for maps in (coordinates, behind):
            padded = torch.zeros(count, most, 3, dtype=dtype, device=maps.device)
            padded[rows, columns] = maps[rows, :, y, x].to(dtype)
            packed.append(padded)
        visible = torch.arange(most, device=rows.device) < counts[:, None]
        return packed[0] - 0.5, packed[1], visible


def _edges(model: torch.Tensor, visible: torch.Tensor, quantile: float) -> torch.Tensor:
    """(N, 3) twice the quantile of the distances from the centre; zeros without a pixel."""
    if not 0 < quantile <= 1:
        raise ValueError(f"size_quantile must lie in (0, 1], got {quantile}")
    if model.shape[1] == 0:
        return model.new_zeros(len(model), 3)
    distances = model.abs().masked_fill(~visible[..., None], 0)
    if quantile == 1:
        return 2 * distances.amax(dim=1)
    # Descending, so that the pixels that do not exist come last.
    last = (visible.sum(dim=1) - 1).clamp(min=0)
    rank = ((1 - quantile) * last).round().long()
    ordered = distances.sort(dim=1, descending=True).values
    return 2 * ordered[torch.arange(len(model), device=model.device), rank]
