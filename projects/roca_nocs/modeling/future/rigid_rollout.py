"""Future steps as rigid motions: each query sees its surroundings once and moves its mask."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from detectron2.layers import ROIAlign
from torch import nn

from roca_nocs.modeling.future.rollout import Step
from roca_nocs.modeling.tracking.track_state import PaddedLayout
from roca_nocs.modeling.transformer.future_detector import FutureDetector

# What an output of 1 means: cells of displacement, radians, logarithms of the size.
_CELLS, _RADIANS, _LOG_SIZE = 5.0, 0.3, 0.3
# Outside of the raster there is no mask.
_NOWHERE = -10.0


class RigidRollout(nn.Module):
    """Where objects will be, from crops of the rasters around them.

    Vehicles keep their shape, so a future mask is the mask of the present, moved and turned. What
    the motion of an object depends on, its own past and the lanes and neighbours around it, lies
    within some metres: a few convolutions of a crop of the aligned rasters of all observed frames,
    centred on the object, learn it from far fewer clips than a flow of the whole memory. Nothing is
    encoded or decoded for a future step, which has no semantic map and no births.

    For the N queries of a batch and F steps a head gives displacement, turn, change of the box's
    sides, and change of the existence logit since the present. Crops by which to move boxes are
    as in R-CNN (Girshick et al., CVPR 2014), transforms that have a gradient as in spatial
    transformers (Jaderberg et al., NeurIPS 2015).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        embed_dim: int = 256,
        max_steps: int = 4,
        crop: int = 48,
        width: int = 32,
        hidden: int = 256,
    ) -> None:
        """
        Args:
            in_channels: of the rasters that the detector encodes, all frames stacked.
            embed_dim: C of the detector.
            max_steps: F, at most.
            crop: side of a crop, cells, a multiple of 8.
            width: channels of the first of three convolutions, of which each halves the crop and
                the later ones have twice and four times as many.
            hidden: numbers that describe a crop.

        Raises:
            ValueError: ``crop`` is not a multiple of 8.
        """
        super().__init__()
        if crop % 8:
            raise ValueError(f"crop must be a multiple of 8, got {crop}")
        self.max_steps = max_steps
        self.crop = ROIAlign((crop, crop), spatial_scale=1.0, sampling_ratio=1, aligned=True)
        widths = (in_channels, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for kernel, before, after in zip((5, 3, 3), widths, widths[1:], strict=False):
            conv = nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2, bias=False)
            layers += [conv, nn.GroupNorm(math.gcd(8, after), after), nn.ReLU()]
        self.convs = nn.Sequential(*layers, nn.Flatten())
        self.of_crop = nn.Linear(widths[-1] * (crop // 8) ** 2, hidden)
        self.of_query = nn.Linear(embed_dim, hidden)
        self.motion = nn.Linear(hidden, 6 * max_steps)
        # A rollout that has been trained alone has seen no queries.
        nn.init.zeros_(self.of_query.weight)
        nn.init.zeros_(self.motion.weight)
        nn.init.zeros_(self.motion.bias)

    def forward(
        self,
        detector: FutureDetector,
        present: Step,
        query: torch.Tensor,
        layout: PaddedLayout,
        num_steps: int,
    ) -> Iterator[Step]:
        """The steps 1 to ``num_steps``; arguments as of
        :class:`~roca_nocs.modeling.future.rollout.FutureRollout`, ``query`` is not read.

        Raises:
            ValueError: more steps than ``max_steps``.
        """
        assert present.encoded is not None
        return self.move(present, present.encoded.images, layout.clip, num_steps)

    def move(
        self, present: Step, images: torch.Tensor, clip: torch.Tensor, num_steps: int
    ) -> Iterator[Step]:
        """The steps of a present that need not have been encoded.

        Args:
            present: boxes, states and logits of N rows.
            images: (B, channels, H, W), the rasters around them.
            clip: (N,) int64, of each row.
            num_steps: F.

        Raises:
            ValueError: more steps than ``max_steps``.
        """
        if num_steps > self.max_steps:
            raise ValueError(
                f"{num_steps} future steps, the rollout has max_steps={self.max_steps}"
            )
        sides = images.new_tensor([images.shape[-1], images.shape[-2]])
        boxes = present.boxes[-1].detach()
        hidden = self.of_crop(self._crops(images, boxes[:, :2] * sides, clip))
        hidden = F.relu(hidden + self.of_query(present.hs[-1]))
        changes = self.motion(hidden).float().unflatten(1, (self.max_steps, 6))
        for change in changes[:, :num_steps].unbind(dim=1):
            shift, turn, growth, logit = change.split((2, 1, 2, 1), dim=1)
            shift = shift * _CELLS / sides
            size = boxes[:, 2:] * (growth * _LOG_SIZE).clamp(-2, 2).exp()
            moved = torch.cat([boxes[:, :2] + shift, size], dim=1)
            yield Step(
                encoded=None,
                hs=present.hs[-1:],
                logits=present.logits[-1:] + logit,
                boxes=moved[None],
                motion=torch.cat([shift, turn * _RADIANS], dim=1),
            )

    def _crops(
        self, images: torch.Tensor, centres: torch.Tensor, clip: torch.Tensor
    ) -> torch.Tensor:
        """(N, numbers) of the convolutions of the crops around (N, 2) centres in cells."""
        half = 0.5 * self.crop.output_size[0]
        corners = torch.cat([centres - half, centres + half], dim=1).to(images.dtype)
        return self.convs(self.crop(images, torch.cat([clip[:, None].to(corners), corners], dim=1)))


def move_rigidly(logits: torch.Tensor, centres: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """Masks that are moved, and turned about their centres.

    Args:
        logits: (n, h, w) float32, on square cells.
        centres: (n, 2) x and y in [0, 1] of the map, before.
        motion: (n, 3) displacement in x and y, shares of the map, and angle in radians, from x
            (columns) towards y (rows).

    Returns:
        (n, h, w); -10 where the map has nothing to bring.
    """
    height, width = logits.shape[-2:]
    x, y = (
        torch.arange(count, device=logits.device, dtype=logits.dtype) + 0.5
        for count in (width, height)
    )
    sides = logits.new_tensor([width, height])
    to = ((centres + motion[:, :2]) * sides)[:, :, None, None]
    x, y = x[None, None] - to[:, 0], y[None, :, None] - to[:, 1]
    cos, sin = motion[:, 2, None, None].cos(), motion[:, 2, None, None].sin()
    centre = centres * sides
    source = torch.stack(
        [
            (cos * x + sin * y + centre[:, 0, None, None]) * (2 / width) - 1,
            (cos * y - sin * x + centre[:, 1, None, None]) * (2 / height) - 1,
        ],
        dim=-1,
    )
    # Zero, what is sampled outside, stands for nowhere.
    moved = F.grid_sample((logits - _NOWHERE)[:, None], source, align_corners=False)
    return moved[:, 0] + _NOWHERE


def check_rigid(rollout: object, *, births: bool, alone: bool) -> None:
    """Whether a model's other parts fit its rollout.

    Args:
        rollout: of any kind, or None.
        births: the model finds objects that appear in the future.
        alone: only the motion is trained.

    Raises:
        ValueError: they do not.
    """
    rigid = isinstance(rollout, RigidRollout)
    if rigid and births:
        raise ValueError(
            "a rigid rollout moves masks of the present, nothing appears: use future_births=False"
        )
    if alone and not rigid:
        raise ValueError("train_motion_only=True needs a RigidRollout")
