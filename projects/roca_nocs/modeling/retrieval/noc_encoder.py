"""Embedding of what the image shows of an object, in the space of the CAD models."""

from __future__ import annotations

import torch
from torch import nn

from roca_nocs.geometry.voxels import splat_to_voxels
from roca_nocs.modeling.retrieval.point_encoder import PointEncoder
from roca_nocs.modeling.retrieval.voxel_networks import GRID_SIZE, VoxelDecoder, VoxelEncoder


def build_image_branch(embedding_size: int, shape_code_size: int = 512) -> nn.Sequential:
    """The part of a `NocEncoder` that reads the shape code: two layers with ReLU."""
    return nn.Sequential(
        nn.Linear(shape_code_size, 1024), nn.ReLU(), nn.Linear(1024, embedding_size), nn.ReLU()
    )


class NocEncoder(nn.Module):
    """The sum of the embeddings of predicted object coordinates and of the shape code.

    N regions with G x G pixels each, E numbers per embedding.
    """

    def __init__(
        self,
        *,
        resnet: VoxelEncoder | None = None,
        pointnet: PointEncoder | None = None,
        image: nn.Module | None = None,
        comp: VoxelDecoder | None = None,
        complete_sum: bool = False,
    ) -> None:
        """
        Args:
            resnet: reads the coordinates as occupancy grid.
            pointnet: reads the coordinates as points; instead of ``resnet``.
            image: maps the shape code to (N, E).
            comp: completes the occupancy grid, an auxiliary task in training.
            complete_sum: complete from the sum of embeddings, not from that of the grid.

        Raises:
            ValueError: the parts do not go together.
        """
        super().__init__()
        if resnet is not None and pointnet is not None:
            raise ValueError("give a voxel or a point encoder of the coordinates, not both")
        if resnet is None and pointnet is None and image is None:
            raise ValueError("give an encoder of the coordinates or of the shape code")
        if comp is not None and resnet is None:
            raise ValueError("completion needs the voxel encoder (resnet)")
        if complete_sum and (comp is None or image is None):
            raise ValueError("complete_sum needs a decoder (comp) and an image branch")
        self.resnet = resnet
        self.pointnet = pointnet
        self.image = image
        self.comp = comp
        self.complete_sum = complete_sum

    def forward(
        self, nocs: torch.Tensor, masks: torch.Tensor, shape_code: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            nocs: (N, 3, G, G) object coordinates.
            masks: (N, 1, G, G), pixels above 0.5 belong to the object.
            shape_code: (N, D).

        Returns:
            embeddings: (N, E).
            to_complete: (N, E), what ``comp`` completes; None without it.
        """
        points, valid = nocs.flatten(2), masks.flatten(1) > 0.5
        geometric = 0
        if self.resnet is not None:
            grids = splat_to_voxels(points.transpose(1, 2), valid, GRID_SIZE)
            geometric = self.resnet(grids[:, None])
        elif self.pointnet is not None:
            geometric = self.pointnet(points, valid)
        embeddings = geometric if self.image is None else geometric + self.image(shape_code)
        if self.comp is None:
            return embeddings, None
        return embeddings, embeddings if self.complete_sum else geometric
