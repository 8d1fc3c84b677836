"""Published checkpoints as checkpoints of our models.

The models keep the published parameter names where they can, so that a conversion mostly takes out
what is no parameter and checks that the rest fits to the last tensor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from .convert_cube_rcnn import rename_cube_rcnn
from .convert_detr import (
    DETECTOR,
    DETECTOR_PARTS,
    INTERACTION,
    fit_detector,
    rename_deformable_detr,
    rename_detr_masks,
    rename_detr_panoptic,
    rename_motr_interaction,
)
from .convert_nocs import rename_ganocs, rename_official
from .published_files import ConversionError, read_arrays, read_state

__all__ = [
    "CONVERSIONS",
    "Conversion",
    "ConversionError",
    "convert",
    "leave_out_replaceable",
    "read_state",
    "unify_names",
]

_LISTED = 8


def _as_it_is(
    state: Mapping[str, torch.Tensor], model: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    return dict(state), []


@dataclass(frozen=True)
class Conversion:
    """What there is to know of a published checkpoint.

    Attributes:
        description: which one.
        config: file of our model, relative to the checkout.
        dropped: entries that the model of today has no use for; they may be missing.
        aliases: pairs of beginnings of names under which the model has the same tensors twice; a
            file may have either or both.
        replaceable: beginnings of names whose tensors depend on the data set; those of another
            shape are left out instead of being an error.
        read: gives the tensors of a file.
        rename: gives them the names of our model.
        fit: changes tensors (first argument) that a new model (second argument) has in another
            size; returns them and a line for each change.
        parts: beginnings of the names that the file must have in full; what the model has besides
            may be missing, and training starts it anew.
    """

    description: str
    config: str
    dropped: frozenset[str] = frozenset()
    aliases: tuple[tuple[str, str], ...] = ()
    replaceable: tuple[str, ...] = ()
    read: Callable[[str | os.PathLike[str]], dict[str, torch.Tensor]] = read_state
    rename: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]] = dict
    fit: Callable[
        [Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]],
        tuple[dict[str, torch.Tensor], list[str]],
    ] = _as_it_is
    parts: tuple[str, ...] = ("",)


CONVERSIONS = {
    "roca": Conversion(
        description="model_best.pth of ROCA (Scan2CAD, resnet_resnet+image+comp)",
        config="configs/roca/roca_r50_fpn_scan2cad.py",
        # Buffers that detectron2 0.3 stored; since then they follow from the config.
        dropped=frozenset(
            ["pixel_mean", "pixel_std"]
            + [f"proposal_generator.anchor_generator.cell_anchors.{level}" for level in range(5)]
        ),
    ),
    "aligndetr": Conversion(
        description="a checkpoint of AlignDETR, or of detrex's DINO, R50 with 4 feature levels",
        config="configs/aligndetr/r50_24ep.py",
        aliases=tuple(
            (f"{heads}.", f"transformer.decoder.{heads}.")
            for heads in ("class_embed", "bbox_embed")
        ),
        replaceable=(
            "class_embed.",
            "transformer.decoder.class_embed.",
            "label_enc.",
            "transformer.tgt_embed.",  # depends on the number of queries
        ),
    ),
    "ganocs": Conversion(
        description="a checkpoint of the ganocs project (torchvision's Mask R-CNN with NOCS head)",
        config="configs/nocs/ganocs_r50_fpn.py",
        rename=rename_ganocs,
    ),
    "nocs": Conversion(
        description="official NOCS weights (Keras, .h5 or .npz): the NOCS and mask branches",
        config="configs/nocs/camera_real_r50_fpn.py",
        read=read_arrays,
        rename=rename_official,
        parts=(),
    ),
    "cube_rcnn": Conversion(
        description="cubercnn_Res34_FPN.pth of Cube R-CNN (Omni3D; --config sets the classes)",
        config="configs/mono3d/omni3d_indoor_cube_rcnn_r34.py",
        rename=rename_cube_rcnn,
    ),
    "deformable_detr": Conversion(
        description="a checkpoint of Deformable DETR, R50, any variant (--config must be like it)",
        config="configs/future_detr/image_r50.py",
        replaceable=tuple(
            f"{DETECTOR}{heads}" for heads in ("class_embed.", "transformer.decoder.class_embed.")
        ),
        rename=rename_deformable_detr,
        fit=fit_detector,
        parts=DETECTOR_PARTS,
    ),
    "detr_segm": Conversion(
        description="detr-r50-panoptic of DETR: the whole model, as DetrPanoptic",
        config="configs/common/models/detr_panoptic_r50.py",
        rename=rename_detr_panoptic,
    ),
    "detr_segm_masks": Conversion(
        description="detr-r50-panoptic of DETR: mask head and attention maps, for FutureDETR",
        config="configs/future_detr/image_r50.py",
        # The adapters depend on the backbone.
        replaceable=(f"{DETECTOR}mask_head.adapter",),
        rename=rename_detr_masks,
        parts=(f"{DETECTOR}bbox_attention.", f"{DETECTOR}mask_head."),
    ),
    "motr_qim": Conversion(
        description="the query interaction module of a checkpoint of MOTR, for FutureDETR",
        config="configs/future_detr/bev_clips.py",
        rename=rename_motr_interaction,
        parts=(INTERACTION,),
    ),
}


def unify_names(
    state: Mapping[str, torch.Tensor], aliases: Sequence[tuple[str, str]] = ()
) -> dict[str, torch.Tensor]:
    """Tensors without the prefix of a data-parallel wrapper, and under all names that they have.

    Args:
        state: published tensors by name.
        aliases: see :class:`Conversion`.

    Raises:
        ConversionError: two names of one tensor have different values.
    """
    wrapped = bool(state) and all(name.startswith("module.") for name in state)
    state = {name.removeprefix("module.") if wrapped else name: t for name, t in state.items()}
    unified = dict(state)
    for pair in aliases:
        for prefix, other in (pair, pair[::-1]):
            for name, tensor in state.items():
                if not name.startswith(prefix):
                    continue
                alias = other + name.removeprefix(prefix)
                if not torch.equal(unified.setdefault(alias, tensor), tensor):
                    raise ConversionError(
                        f"{name} and {alias} are the same tensor in the model, but they differ in "
                        "the checkpoint"
                    )
    return unified


def leave_out_replaceable(
    state: Mapping[str, torch.Tensor],
    shapes: Mapping[str, Sequence[int]],
    replaceable: tuple[str, ...],
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Separate what depends on the data set and has another shape than the model needs.

    Args:
        state: tensors by name.
        shapes: what the model needs, by name.
        replaceable: see :class:`Conversion`.

    Returns:
        The other tensors, and a line for each that was left out.
    """
    left_out = {
        name: f"{name} {tuple(tensor.shape)}, the model has {tuple(shapes[name])}"
        for name, tensor in state.items()
        if name.startswith(replaceable)
        and name in shapes
        and tuple(tensor.shape) != tuple(shapes[name])
    }
    kept = {name: tensor for name, tensor in state.items() if name not in left_out}
    return kept, [*left_out.values()]


def convert(
    state: Mapping[str, torch.Tensor],
    shapes: Mapping[str, Sequence[int]],
    dropped: Collection[str] = (),
) -> dict[str, torch.Tensor]:
    """The tensors of a model, all of them and no others.

    Args:
        state: published tensors by name.
        shapes: what the model needs, by name.
        dropped: names to leave out of ``state``.

    Returns:
        The tensors in the order of ``shapes``.

    Raises:
        ConversionError: tensors are missing, unexpected or of another shape; all are named.
    """
    kept = {name: tensor for name, tensor in state.items() if name not in dropped}
    wrong = [
        f"{name} {tuple(kept[name].shape)} instead of {tuple(shape)}"
        for name, shape in shapes.items()
        if name in kept and tuple(kept[name].shape) != tuple(shape)
    ]
    problems = {
        "missing": [name for name in shapes if name not in kept],
        "unexpected": [name for name in kept if name not in shapes],
        "of another shape": wrong,
    }
    if any(problems.values()):
        found = [
            f"{len(names)} {kind}: {_some(names)}" for kind, names in problems.items() if names
        ]
        raise ConversionError(
            f"the checkpoint does not fit the model, which has {len(shapes)} tensors. "
            + "; ".join(found)
        )
    return {name: kept[name] for name in shapes}


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
