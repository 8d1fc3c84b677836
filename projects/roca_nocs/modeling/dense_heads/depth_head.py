"""Depth of all pixels from the feature pyramid (ROCA, section 3.1).

Parameter names are those of the published checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from roca_nocs.losses import inverse_huber, masked_cosine_distance

__all__ = ["DepthHead"]

STRIDE = 4
# Below it, metres, a depth is unknown.
MIN_DEPTH = 1e-5
NORMAL_LOSS_FACTOR = 5.0


class UpProjection(nn.Module):
    """Two branches of convolutions on a resized map, added (Laina et al., 2016)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 5, padding=2)
        self.conv1_2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 5, padding=2)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(B, C, h, w) -> (B, D, *size)."""
        x = F.interpolate(x, size, mode="bilinear", align_corners=True)
        return F.relu(self.conv1_2(F.relu(self.conv1(x))) + self.conv2(x))


class PyramidFeatures(nn.Module):
    """All levels at the size of the finest, concatenated."""

    def __init__(self, num_levels: int, in_channels: int, level_channels: int) -> None:
        super().__init__()
        self.ups = nn.ModuleList(
            UpProjection(in_channels, level_channels) for _ in range(num_levels)
        )

    def forward(self, levels: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """Maps (B, C, h, w) -> (B, L D, *size)."""
        return torch.cat([up(x, size) for up, x in zip(self.ups, levels, strict=True)], dim=1)


class DepthOutput(nn.Module):
    """Depth at four times the resolution of the features."""

    def __init__(self, in_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(in_channels, hidden_channels, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(hidden_channels, hidden_channels, 5, padding=2),
            nn.ReLU(),
        )
        self.output = nn.Sequential(
            nn.Conv2d(hidden_channels, STRIDE**2, 1), nn.PixelShuffle(STRIDE)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, h, w) -> (B, 1, 4 h, 4 w) float32."""
        features = self.convs(features)
        # Half precision would round metres to centimetres.
        with torch.autocast(features.device.type, enabled=False):
            return self.output(features.float())


class DepthHead(nn.Module):
    """Depth features and depth maps of B images.

    The maps cover the padded canvas of the batch, so they are aligned with the pyramid, top-left
    corner at top-left corner, whatever the sizes of the images.
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str] = ("p2", "p3", "p4", "p5"),
        in_channels: int = 256,
        level_channels: int = 32,
        hidden_channels: int = 128,
        initial_depth: float = 0.0,
        squeeze_padding: bool = False,
        gradient_loss_weight: float = 0.0,
        normal_loss_weight: float = 0.0,
    ) -> None:
        """
        Args:
            in_features: names of the pyramid levels, the finest (stride 4) first.
            in_channels: of each level.
            level_channels: of each level after its up-projection; the depth features have as many
                times the number of levels.
            hidden_channels: of the layers that turn depth features into depth.
            initial_depth: metres, about which the depth of all pixels starts in training.
            squeeze_padding: resize the padded pyramid onto the size of the image without padding,
                as the published weights need it. It displaces features by up to the width of the
                padding; all images of a batch must have one size, divisible by 4. Both ways are
                the same for images without padding.
            gradient_loss_weight: factor of ``loss_grad_x`` and ``loss_grad_y``; 0 leaves them out.
            normal_loss_weight: factor of ``loss_normal``; 0 leaves it out.
        """
        super().__init__()
        self.in_features = tuple(in_features)
        self.squeeze_padding = squeeze_padding
        self.gradient_loss_weight = gradient_loss_weight
        self.normal_loss_weight = normal_loss_weight
        self.out_channels = len(self.in_features) * level_channels
        self.fpn_depth_features = PyramidFeatures(
            len(self.in_features), in_channels, level_channels
        )
        self.fpn_depth_output = DepthOutput(self.out_channels, hidden_channels)
        self.fpn_depth_output.output[0].bias.data.add_(initial_depth)

    def forward(
        self,
        features: Mapping[str, torch.Tensor],
        image_sizes: Sequence[tuple[int, int]],
        padded_size: tuple[int, int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            features: pyramid levels (B, C, h, w) of the padded batch by name.
            image_sizes: (height, width) of each image without padding, pixels.
            padded_size: (height, width) of the batch, pixels, divisible by 4.

        Returns:
            depth_features: (B, F, H / 4, W / 4).
            depth: (B, 1, H, W) float32, metres; any value where the image is padded. H, W are the
                padded size, or with ``squeeze_padding`` the size of the images.

        Raises:
            ValueError: a size is not divisible by 4, or the images differ in size with
                ``squeeze_padding``.
        """
        size = tuple(padded_size)
        if self.squeeze_padding and len(image_sizes):
            sizes = {(int(height), int(width)) for height, width in image_sizes}
            if len(sizes) > 1:
                raise ValueError(
                    f"squeeze_padding needs images of one size in a batch, got {sorted(sizes)}: "
                    "use batches of one image, or squeeze_padding=False"
                )
            size = sizes.pop()
        if any(length % STRIDE for length in size):
            raise ValueError(
                f"depth is predicted on blocks of {STRIDE} x {STRIDE} pixels, the size {size} is "
                "not divisible"
            )
        height, width = (length // STRIDE for length in size)
        levels = [features[name] for name in self.in_features]
        depth_features = self.fpn_depth_features(levels, (height, width))
        return depth_features, self.fpn_depth_output(depth_features)

    def losses(self, depth: torch.Tensor, gt_depth: torch.Tensor) -> dict[str, torch.Tensor]:
        """Losses over the pixels with known depth; 0 if there are none.

        Images without any such pixel add neither to the sums nor to the numbers of pixels.

        Args:
            depth: (B, 1, H, W), metres.
            gt_depth: (B, 1, H, W), metres, 0 = unknown.

        Returns:
            ``loss_image_depth``, inverse Huber; with their weights ``loss_grad_x`` and
            ``loss_grad_y``, the same of the Sobel derivatives, and ``loss_normal``, five times the
            mean of 1 - cosine between the normals (-g_x, -g_y, 1).
        """
        gt_depth = gt_depth.float()
        mask = gt_depth > MIN_DEPTH
        depth, gt_depth = depth.float() * mask, gt_depth * mask
        losses = {"loss_image_depth": inverse_huber(depth, gt_depth, mask)}
        if self.gradient_loss_weight == 0 and self.normal_loss_weight == 0:
            return losses
        pred_gradient, gt_gradient = _sobel(depth), _sobel(gt_depth)
        if self.gradient_loss_weight != 0:
            # Derivatives of masked depth reach one pixel beyond the mask, and count there
            # (published code), but the divisor is the number of pixels of the mask.
            everywhere = torch.ones_like(mask)
            factor = self.gradient_loss_weight * mask.numel() / mask.sum().clamp(min=1)
            for axis, name in enumerate("xy"):
                pred, gt = (each[:, axis : axis + 1] for each in (pred_gradient, gt_gradient))
                losses[f"loss_grad_{name}"] = factor * inverse_huber(pred, gt, everywhere)
        if self.normal_loss_weight != 0:
            distance = masked_cosine_distance(_normals(pred_gradient), _normals(gt_gradient), mask)
            losses["loss_normal"] = self.normal_loss_weight * NORMAL_LOSS_FACTOR * distance
        return losses


def _sobel(maps: torch.Tensor) -> torch.Tensor:
    """Derivatives along x and y (times 8), zero padding: (B, 1, H, W) -> (B, 2, H, W)."""
    along_x = maps.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    return F.conv2d(maps, torch.stack([along_x, along_x.T])[:, None], padding=1)


def _normals(gradient: torch.Tensor) -> torch.Tensor:
    """(B, 2, H, W) -> (B, 3, H, W), not normalised."""
    return torch.cat([-gradient, torch.ones_like(gradient[:, :1])], dim=1)
