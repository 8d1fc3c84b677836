"""The retrieval modes by their names."""

from __future__ import annotations

from roca_nocs.modeling.retrieval import NocEncoder, PointEncoder, VoxelDecoder, VoxelEncoder
from roca_nocs.modeling.retrieval.noc_encoder import build_image_branch
from roca_nocs.modeling.roi_heads.retrieval_head import (
    EmbeddingRetrieval,
    FirstRetrieval,
    NearestPointRetrieval,
    RandomRetrieval,
    RetrievalHead,
)
from roca_nocs.modeling.roi_heads.silhouette_retrieval import SilhouetteRetrieval

__all__ = ["build_retrieval_head"]

_NOC_PARTS = (
    "pointnet",
    "image",
    "pointnet+image",
    "resnet",
    "resnet+image",
    "resnet+image+comp",
    "resnet+image+fullcomp",
)


def build_retrieval_head(
    mode: str, *, wild: bool = False, shape_code_size: int = 512
) -> RetrievalHead:
    """The retrieval head of a mode of the published code, or of ``silhouette``.

    Args:
        mode: ``random``, ``first``, ``nearest``, ``silhouette``, or ``<cad>_<noc>`` with cad in
            pointnet, resnet and noc in pointnet, image, pointnet+image, resnet, resnet+image,
            resnet+image+comp, resnet+image+fullcomp; one name stands for both, e.g. ``resnet``.
        wild: see `RetrievalHead`.
        shape_code_size: D.

    Raises:
        ValueError: there is no such mode.
    """
    unlearned = {
        "random": RandomRetrieval,
        "first": FirstRetrieval,
        "nearest": NearestPointRetrieval,
        "silhouette": SilhouetteRetrieval,
    }
    if mode in unlearned:
        return unlearned[mode](wild=wild)
    cad, _, noc = mode.partition("_")
    noc = noc or cad
    parts = noc.split("+")
    # Both sides read the same form of a model, so that their embeddings have one size.
    if cad not in ("pointnet", "resnet") or noc not in _NOC_PARTS or parts[0] not in (cad, "image"):
        raise ValueError(
            f"there is no retrieval mode {mode!r}: use {', '.join(unlearned)}, or <cad>_<noc> "
            f"with cad pointnet or resnet and noc one of {', '.join(_NOC_PARTS)}, where noc reads "
            "the same form of CAD model as cad"
        )
    encoder = VoxelEncoder if cad == "resnet" else PointEncoder
    image = build_image_branch(encoder.embedding_size, shape_code_size)
    decoder = VoxelDecoder() if parts[-1].endswith("comp") else None
    noc_net = NocEncoder(
        resnet=VoxelEncoder() if "resnet" in parts else None,
        pointnet=PointEncoder() if "pointnet" in parts else None,
        image=image if "image" in parts else None,
        comp=decoder,
        complete_sum="fullcomp" in parts,
    )
    return EmbeddingRetrieval(cad_net=encoder(), noc_net=noc_net, wild=wild)
