"""Published weights of Cube R-CNN (Brazil et al., CVPR 2023) under our names.

Its parts are detectron2's, so that most names are ours already. The head has a layer for the
projected centre, one for the depth and one for the dimensions, where ours has one for all three.
Classes stay in the published order, which our datasets have too: by their ids in Omni3D's files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from .published_files import ConversionError
from .resnet_weights import rename_torchvision

__all__ = ["rename_cube_rcnn"]

_BODY = "backbone.bottom_up."
_HEAD = "roi_heads.cube_head."
_RESNET = re.compile(r"(conv1|bn1|layer[1-4])\.")
# Outputs per class of the layers that become one, in the order of its outputs.
_BOX_LAYERS = {"bbox_3D_center_deltas": 2, "bbox_3D_center_depth": 1, "bbox_3D_dims": 3}
_RENAMED = {"bbox_3D_pose": "pose6d", "bbox_3D_uncertainty": "uncertainty"}
_PRIORS = "roi_heads.priors_dims_per_cat"
# Statistics of depth, which the published models, whose depth is regressed directly, do not use.
_UNUSED = re.compile(r"roi_heads\.priors_z_\w+|pixel_(mean|std)|.*\.cell_anchors\.\d+")


def rename_cube_rcnn(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of Cube R-CNN as one of ``configs/mono3d/omni3d_indoor_cube_rcnn_r34.py``.

    Args:
        state: published tensors by name.

    Returns:
        Tensors by our names; those that are not recognised keep theirs.

    Raises:
        ConversionError: the backbone is not a ResNet, or the head lacks one of its layers.
    """
    body = {name.removeprefix(_BODY): x for name, x in state.items() if name.startswith(_BODY)}
    if foreign := [name for name in body if not _RESNET.match(name)]:
        raise ConversionError(
            f"the backbone is not torchvision's ResNet ({_BODY}{foreign[0]}): of the published "
            "files only those named cubercnn_Res34_FPN can be converted"
        )
    renamed = {_BODY + name: tensor for name, tensor in rename_torchvision(body).items()}
    for name, tensor in state.items():
        layer, _, kind = name.removeprefix(_HEAD).partition(".")
        if name.startswith(_BODY) or _UNUSED.fullmatch(name) or layer in _BOX_LAYERS:
            continue
        if name == _PRIORS:
            renamed |= _priors(tensor)
        elif name.startswith(_HEAD) and layer in _RENAMED:
            renamed[f"{_HEAD}{_RENAMED[layer]}.{kind}"] = tensor
        else:
            renamed[name] = tensor
    for kind in ("weight", "bias"):
        renamed[f"{_HEAD}bbox3d.{kind}"] = _box_layer(state, kind)
    return renamed


def _box_layer(state: Mapping[str, torch.Tensor], kind: str) -> torch.Tensor:
    """Weight (6 C, F) or bias (6 C) of the layer for centre, depth and dimensions."""
    try:
        parts = [
            state[f"{_HEAD}{layer}.{kind}"].unflatten(0, (-1, size))
            for layer, size in _BOX_LAYERS.items()
        ]
        return torch.cat(parts, dim=1).flatten(0, 1)
    except KeyError as error:
        raise ConversionError(f"the file has no {error}: it is no Cube R-CNN") from error
    except RuntimeError as error:
        raise ConversionError(f"layers of {_HEAD} do not fit each other: {error}") from error


def _priors(table: torch.Tensor) -> dict[str, torch.Tensor]:
    """Priors of our heads from (1, C, 2, 3), mean and standard deviation of W, H, L."""
    mean, std = table[0].unbind(dim=1)
    ones = mean.new_ones(len(mean))
    return {
        "roi_heads.priors.dimensions": mean,
        "roi_heads.priors.dimensions_std": std,
        "roi_heads.priors.depth": ones,
        "roi_heads.priors.cluster_scales": ones[:, None],
        "roi_heads.priors.cluster_depth": ones[:, None],
        "roi_heads.priors.cluster_depth_std": ones[:, None],
    }
