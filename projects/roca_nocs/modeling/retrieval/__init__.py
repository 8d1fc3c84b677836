"""Networks that embed CAD models and predicted object coordinates in one space."""

from roca_nocs.modeling.retrieval.noc_encoder import NocEncoder
from roca_nocs.modeling.retrieval.point_encoder import PointEncoder
from roca_nocs.modeling.retrieval.voxel_networks import VoxelDecoder, VoxelEncoder

__all__ = ["NocEncoder", "PointEncoder", "VoxelDecoder", "VoxelEncoder"]
