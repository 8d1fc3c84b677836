"""Random changes of the ego frame of a clip: everything is turned, scaled and mirrored at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from .bev_clip import BevAgents


@dataclass(frozen=True)
class BevAugmentation:
    """Ranges of the random maps.

    Attributes:
        rotation: largest angle to either side, degrees.
        scale: smallest and largest factor.
        flip_x, flip_y: probabilities to mirror front and back, left and right.
    """

    rotation: float = 22.5
    scale: tuple[float, float] = (0.95, 1.05)
    flip_x: float = 0.5
    flip_y: float = 0.5

    def sample(self) -> EgoMap:
        """Draw a map from torch's global generator."""
        turn, size, *flips = torch.rand(4, dtype=torch.float64).tolist()
        low, high = self.scale
        return EgoMap.of(
            np.deg2rad(self.rotation * (2 * turn - 1)),
            low + (high - low) * size,
            flips[0] < self.flip_x,
            flips[1] < self.flip_y,
        )


@dataclass(frozen=True)
class EgoMap:
    """A similarity A of the plane that is applied to all ego frames of a clip and to the world.

    A pose P of a frame in the world becomes A P A^-1, so that whatever holds between the frames
    holds between the changed ones.

    Attributes:
        matrix: (2, 2) float64, rotation times scale times mirroring.
    """

    matrix: np.ndarray

    @classmethod
    def of(cls, angle: float, scale: float, flip_x: bool, flip_y: bool) -> EgoMap:
        """Mirror, then scale, then turn by an angle in radians."""
        cos, sin = np.cos(angle), np.sin(angle)
        signs = np.where([flip_x, flip_y], -1.0, 1.0)
        return cls(scale * np.array([[cos, -sin], [sin, cos]]) * signs)

    @property
    def scale(self) -> float:
        """Factor of all lengths."""
        return float(np.hypot(*self.matrix[:, 0]))

    def points(self, points: np.ndarray) -> np.ndarray:
        """Where points (..., 2) or vectors go."""
        return points @ self.matrix.T

    def sources(self, points: np.ndarray) -> np.ndarray:
        """Where points (..., 2) came from."""
        return points @ np.linalg.inv(self.matrix).T

    def ego_poses(self, poses: np.ndarray) -> np.ndarray:
        """Poses (..., 3) of ego frames in the world: A P A^-1."""
        turn = np.sign(np.linalg.det(self.matrix)) * poses[..., 2:]
        return np.concatenate([self.points(poses[..., :2]), turn], axis=-1)

    def agents(self, agents: BevAgents) -> BevAgents:
        """Agents of the world; a mirrored box has the mirrored heading."""
        yaw = agents.poses[..., 2]
        heading = self.points(np.stack([np.cos(yaw), np.sin(yaw)], axis=-1))
        turned = np.arctan2(heading[..., 1], heading[..., 0])
        position = self.points(agents.poses[..., :2])
        return replace(
            agents,
            sizes=agents.sizes * self.scale,
            poses=np.concatenate([position, turned[..., None]], axis=-1),
            velocities=self.points(agents.velocities),
        )


IDENTITY = EgoMap(np.eye(2))
