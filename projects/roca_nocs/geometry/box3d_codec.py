"""The six numbers by which a 3D box is regressed from a 2D box.

With the reference box (centre x_p, y_p, size w_p, h_p), the projected centre (u, v), the projective
depth z, the focal length f_y of the image as the network sees it, and the priors of the class:

    du = (u - x_p) / w_p, dv = (v - y_p) / h_p, dz = log(z_virtual / z_c),
    dw, dh, dl = log of width, height, length over the mean of the class,

where z_virtual = z f_virtual / f_y does not depend on focal length and image size ("virtual
camera", Brazil et al., CVPR 2023). Depth and dimensions have bounded and unbounded alternatives.
Pixels are those of the network's image, lengths metres, dimensions in the order width, height,
length. All functions are batched over leading dimensions; half precision is computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

BOX3D_FIELDS = ("du", "dv", "dz", "dw", "dh", "dl")
"""The channels of an encoded box, in their order."""

Z_TYPES = ("log", "direct", "sigmoid", "clusters")
"""What dz stands for: ``log`` as above; ``direct``: z_virtual itself; ``sigmoid``: its logit with
100 m as the largest; ``clusters``: its logit between mean - 3 std (at least 0) and mean + 3 std of
those training boxes of the class whose 2D boxes are about as large as the reference box."""

DIMS_FUNCS = ("exp", "sigmoid")
"""What dw, dh, dl stand for: ``exp`` as above; ``sigmoid``: logits between mean - 3 std (at least
0) and mean + 3 std of the class."""

VIRTUAL_FOCAL = 512.0
"""Default focal length of the virtual camera, pixels."""

_MAX_LOG = 5.0
_MAX_SIGMOID_DEPTH = 100.0
# Targets of logits saturate here, a millionth of the range away from its ends.
_EDGE = 1e-6

_FEWEST_BOXES = 5
_LEAST_SPREAD = 0.05
_MAX_ITERATIONS = 100


class BoxPriors(NamedTuple):
    """Statistics of the training boxes of C classes.

    Attributes:
        dimensions: (C, 3) mean width, height, length, metres.
        dimensions_std: (C, 3), metres.
        depth: (C,) geometric mean of the virtual depth, metres.
        cluster_scales: (C, K) centres of the clusters of 2D scales (diagonals of 2D boxes, pixels).
        cluster_depth: (C, K) mean virtual depth in each cluster, metres.
        cluster_depth_std: (C, K), metres.
    """

    dimensions: torch.Tensor
    dimensions_std: torch.Tensor
    depth: torch.Tensor
    cluster_scales: torch.Tensor
    cluster_depth: torch.Tensor
    cluster_depth_std: torch.Tensor


class ImageBoxes3D(NamedTuple):
    """3D boxes without their rotation, as the image shows them.

    Attributes:
        center_2d: (..., 2), the projected centre (u, v), pixels; may lie outside the image.
        depth: (...), projective depth of the centre, metres.
        dimensions: (..., 3), width, height, length, metres.
    """

    center_2d: torch.Tensor
    depth: torch.Tensor
    dimensions: torch.Tensor


@dataclass(frozen=True)
class Box3DCodec:
    """Encoder and decoder of the six numbers.

    Attributes:
        priors: of the classes.
        z_type: one of ``Z_TYPES``.
        dims_func: one of ``DIMS_FUNCS``.
        virtual_focal: pixels; None takes depths as they are, without a virtual camera.

    Raises:
        ValueError: an unknown type of depth or dimensions.
    """

    priors: BoxPriors
    z_type: str = "log"
    dims_func: str = "exp"
    virtual_focal: float | None = VIRTUAL_FOCAL

    def __post_init__(self) -> None:
        for name, choices in (("z_type", Z_TYPES), ("dims_func", DIMS_FUNCS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"unknown {name.upper()} {getattr(self, name)!r}; expected one of {choices}"
                )

    def encode(
        self,
        boxes3d: ImageBoxes3D,
        reference: torch.Tensor,
        classes: torch.Tensor,
        focal: torch.Tensor,
    ) -> torch.Tensor:
        """Regression targets.

        Args:
            boxes3d: with positive depth and dimensions.
            reference: (..., 4) XYXY, 2D boxes with positive sizes.
            classes: (...) int64 in [0, C).
            focal: (...), f_y at the network's resolution, pixels.

        Returns:
            (..., 6), channels ``BOX3D_FIELDS``. Bounded channels saturate at logits of +-13.8.
        """
        reference, focal = _full_precision(reference), _full_precision(focal)
        center, size = _center_and_size(reference)
        offset = (boxes3d.center_2d - center) / size
        depth = boxes3d.depth * self._virtual_per_metre(focal)
        if self.z_type == "log":
            dz = (depth / self.priors.depth[classes]).log()
        elif self.z_type == "direct":
            dz = depth
        elif self.z_type == "sigmoid":
            dz = _bounded_logit(depth, depth.new_tensor(0.0), depth.new_tensor(_MAX_SIGMOID_DEPTH))
        else:
            dz = _bounded_logit(depth, *self._cluster_bounds(size, classes))
        mean = self.priors.dimensions[classes]
        if self.dims_func == "exp":
            scales = (boxes3d.dimensions / mean).log()
        else:
            scales = _bounded_logit(
                boxes3d.dimensions, *_bounds(mean, self.priors.dimensions_std[classes])
            )
        return torch.cat([offset, dz[..., None], scales], dim=-1)

    def decode(
        self,
        deltas: torch.Tensor,
        reference: torch.Tensor,
        classes: torch.Tensor,
        focal: torch.Tensor,
    ) -> ImageBoxes3D:
        """Boxes of six numbers (..., 6) each; other arguments as of :meth:`encode`.

        Logarithms of depth are clipped to +-5 and those of dimensions to at most 5.
        """
        deltas, reference = _full_precision(deltas), _full_precision(reference)
        offset, dz, scales = deltas.split([2, 1, 3], dim=-1)
        dz = dz.squeeze(-1)
        center, size = _center_and_size(reference)
        if self.z_type == "log":
            depth = self.priors.depth[classes] * dz.clamp(-_MAX_LOG, _MAX_LOG).exp()
        elif self.z_type == "direct":
            depth = dz
        elif self.z_type == "sigmoid":
            depth = _MAX_SIGMOID_DEPTH * dz.sigmoid()
        else:
            low, high = self._cluster_bounds(size, classes)
            depth = low + (high - low) * dz.sigmoid()
        mean = self.priors.dimensions[classes]
        if self.dims_func == "exp":
            dimensions = mean * scales.clamp(max=_MAX_LOG).exp()
        else:
            low, high = _bounds(mean, self.priors.dimensions_std[classes])
            dimensions = low + (high - low) * scales.sigmoid()
        depth = depth / self._virtual_per_metre(_full_precision(focal))
        return ImageBoxes3D(center + offset * size, depth, dimensions)

    def _virtual_per_metre(self, focal: torch.Tensor) -> torch.Tensor:
        if self.virtual_focal is None:
            return torch.ones_like(focal)
        return self.virtual_focal / focal

    def _cluster_bounds(
        self, size: torch.Tensor, classes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scale = size.norm(dim=-1, keepdim=True)
        nearest = (self.priors.cluster_scales[classes] - scale).abs().argmin(dim=-1)
        return _bounds(
            self.priors.cluster_depth[classes, nearest],
            self.priors.cluster_depth_std[classes, nearest],
        )


def virtual_depth(
    depth: torch.Tensor, focal: torch.Tensor, virtual_focal: float = VIRTUAL_FOCAL
) -> torch.Tensor:
    """Depths (...) as a camera of the virtual focal length would see objects as large.

    Args:
        depth: (...), metres.
        focal: (...), f_y at the network's resolution, pixels.
        virtual_focal: pixels.
    """
    return depth * (virtual_focal / focal)


def uninformed_priors(num_classes: int, num_clusters: int = 1) -> BoxPriors:
    """Priors of 1 everywhere, the place of those that a checkpoint or a dataset brings."""
    ones = torch.ones(num_classes)
    dimensions, clusters = ones[:, None].repeat(1, 3), ones[:, None].repeat(1, num_clusters)
    return BoxPriors(dimensions, dimensions, ones, clusters, clusters, clusters)


def estimate_priors(
    classes: torch.Tensor,
    dimensions: torch.Tensor,
    virtual_depths: torch.Tensor,
    box_scales: torch.Tensor,
    num_classes: int,
    num_clusters: int = 1,
) -> BoxPriors:
    """Statistics of M training boxes.

    A class with fewer than five boxes gets dimensions of 1 m (standard deviation 1 m) and the depth
    of all classes together. Standard deviations are at least 5 % of the mean, so that the bounded
    channels keep a range.

    Args:
        classes: (M,) int64.
        dimensions: (M, 3), width, height, length, metres.
        virtual_depths: (M,), metres, positive.
        box_scales: (M,), diagonals of the 2D boxes at the network's resolution, pixels.
        num_classes: C.
        num_clusters: K clusters of ``box_scales`` in each class.

    Returns:
        float32 priors.
    """
    dimensions, depths, scales = dimensions.double(), virtual_depths.double(), box_scales.double()
    rows = []
    for which in range(num_classes):
        own = classes == which
        enough = int(own.sum()) >= _FEWEST_BOXES
        # Too few boxes say nothing about their class: its depth is then that of all boxes.
        used = own if enough else torch.ones_like(own)
        clusters = _depth_clusters(scales[used], depths[used], num_clusters)
        mean, std = torch.ones(2, 3, dtype=torch.float64)
        if enough:
            mean, std = dimensions[own].mean(dim=0), dimensions[own].std(dim=0, correction=0)
        depth = depths[used].log().sum().div(max(len(depths[used]), 1)).exp()
        rows.append([mean, torch.maximum(std, _LEAST_SPREAD * mean), depth, *clusters])
    return BoxPriors(*(torch.stack(column).float() for column in zip(*rows, strict=True)))


def _depth_clusters(
    scales: torch.Tensor, depths: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centres (K,) of k-means on scales (M,), and mean and spread of the depth in each cluster."""
    if len(scales) == 0:
        ones = scales.new_ones(count)
        return ones, ones, ones
    # Quantiles start the iteration, which in one dimension keeps clusters in order.
    quantiles = (torch.arange(count, dtype=scales.dtype) + 0.5) / count
    centers = scales.quantile(quantiles)
    for _ in range(_MAX_ITERATIONS):
        members = torch.nn.functional.one_hot(_nearest(scales, centers), count).to(scales)
        sizes = members.sum(dim=0)
        moved = torch.where(sizes > 0, scales @ members / sizes.clamp(min=1), centers)
        if torch.equal(moved, centers):
            break
        centers = moved
    members = torch.nn.functional.one_hot(_nearest(scales, centers), count).to(scales)
    sizes = members.sum(dim=0).clamp(min=1)
    empty = members.sum(dim=0) == 0
    mean = torch.where(empty, depths.mean(), depths @ members / sizes)
    square = ((depths[:, None] - mean).square() * members).sum(dim=0) / sizes
    spread = torch.where(empty, depths.std(correction=0), square.sqrt())
    return centers, mean, torch.maximum(spread, _LEAST_SPREAD * mean)


def _nearest(scales: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    return (scales[:, None] - centers).abs().argmin(dim=1)


def _full_precision(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _center_and_size(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = boxes.split(2, dim=-1)
    return (low + high) / 2, high - low


def _bounds(mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (mean - 3 * std).clamp(min=0), mean + 3 * std


def _bounded_logit(value: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    return ((value - low) / (high - low)).clamp(_EDGE, 1 - _EDGE).logit()
