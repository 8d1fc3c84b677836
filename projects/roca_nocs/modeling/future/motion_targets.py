"""Where the annotated objects of the present go: what a rigid future is trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from roca_nocs.geometry.yaw_bins import wrap_angle
from roca_nocs.modeling.criteria.clip_matching import FrameTargets


@dataclass(frozen=True)
class MotionTargets:
    """Motions of the M objects of the present of all clips.

    Attributes:
        moved: (F, M, 3) float32, from the present to each future step: displacement along columns
            and rows in cells, turn in radians from columns towards rows; NaN where it is not known.
        reach: (M,) float32, half the diagonal of the box of the present, in cells.
        sides: (2,) float32, columns and rows of the raster.
    """

    moved: torch.Tensor
    reach: torch.Tensor
    sides: torch.Tensor

    @staticmethod
    def of(
        samples: Sequence[Mapping[str, Any]], present: FrameTargets, num_future: int
    ) -> MotionTargets:
        """From ``agents`` of the samples: ``ids`` (N,) and ``poses`` (at least F + 1, N, 3).

        Poses are (x, y, yaw) in metres and radians in the present frame, the present first, NaN
        where an agent is not known.

        Args:
            samples: of the batch.
            present: their objects.
            num_future: F.

        Raises:
            KeyError: a sample lacks them.
            ValueError: a sample has poses of fewer steps.
        """
        device, grid = present.boxes.device, samples[0]["grid"]
        ids, poses_of = present.ids.cpu().numpy(), []
        clip = present.clip.cpu().numpy()
        for number, sample in enumerate(samples):
            if "poses" not in sample.get("agents", ()):
                raise KeyError(
                    f"clip {sample.get('clip_id')!r} lacks the poses of 'agents', which a rigid "
                    "future is trained with"
                )
            listed = np.asarray(sample["agents"]["ids"])
            poses = np.asarray(sample["agents"]["poses"], np.float64)
            if len(poses) <= num_future:
                raise ValueError(
                    f"clip {sample.get('clip_id')!r} has poses of {len(poses) - 1} future steps, "
                    f"num_future is {num_future}"
                )
            target, agent = np.nonzero(ids[clip == number][:, None] == listed)
            found = np.full((num_future + 1, np.count_nonzero(clip == number), 3), np.nan)
            found[:, target] = poses[: num_future + 1, agent]
            poses_of.append(found)
        now, later = torch.from_numpy(np.concatenate(poses_of, axis=1)).split([1, num_future])
        shift = grid.metres_to_cells(later[..., :2]) - grid.metres_to_cells(now[..., :2])
        # Yaw grows from x, along the rows, to y, along the columns.
        turn = -wrap_angle(later[..., 2:] - now[..., 2:])
        sides = torch.tensor([grid.width, grid.height], dtype=torch.float32, device=device)
        return MotionTargets(
            moved=torch.cat([shift.flip(-1), turn], dim=-1).float().to(device),
            reach=0.5 * (present.boxes[:, 2:] * sides).norm(dim=1),
            sides=sides,
        )
