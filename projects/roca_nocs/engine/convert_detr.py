"""Published weights of DETR and Deformable DETR under our names.

Deformable DETR (Zhu et al., ICLR 2021) becomes the ``detector`` of FutureDETR, in any of its five
published variants; DETR for panoptic segmentation (Carion et al., ECCV 2020) becomes
``DetrPanoptic``, or gives FutureDETR its mask head; MOTR (Zeng et al., ECCV 2022) gives it the
query interaction module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from .published_files import ConversionError
from .resnet_weights import rename_torchvision

__all__ = [
    "DETECTOR",
    "DETECTOR_PARTS",
    "INTERACTION",
    "fit_detector",
    "rename_deformable_detr",
    "rename_detr_masks",
    "rename_detr_panoptic",
    "rename_motr_interaction",
]

State = dict[str, torch.Tensor]

DETECTOR = "detector."
"""Where FutureDETR has the network of Deformable DETR."""

DETECTOR_PARTS = tuple(
    f"{DETECTOR}{part}."
    for part in ("backbone", "neck", "transformer", "class_embed", "bbox_embed", "query_embed")
)
"""What a checkpoint of Deformable DETR has in full."""

INTERACTION = "propagation.track_embed."
"""Where FutureDETR has the query interaction module of MOTR."""

_BODY = "backbone.0.body."
_LAYER = re.compile(r"transformer\.(encoder|decoder)\.layers\.\d+\.")
_ENCODER = {"self_attn": "attentions.0", "norm1": "norms.0", "norm2": "norms.1"}
# The norms of Deformable DETR's decoder are not numbered in the order of their use.
_DEFORMABLE_DECODER = {
    "self_attn": "attentions.0.attn",
    "cross_attn": "attentions.1",
    "norm2": "norms.0",
    "norm1": "norms.1",
    "norm3": "norms.2",
}
_DETR_ENCODER = {**_ENCODER, "self_attn": "attentions.0.attn"}
_DETR_DECODER = {
    "self_attn": "attentions.0.attn",
    "multihead_attn": "attentions.1.attn",
    "norm1": "norms.0",
    "norm2": "norms.1",
    "norm3": "norms.2",
}
_PERCEPTRON = {"linear1": "ffns.0.layers.0.0", "linear2": "ffns.0.layers.1"}
# Category ids of COCO's 80 detection classes; the published heads have an output for each id.
_UNUSED_IDS = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_IDS = [number for number in range(91) if number not in _UNUSED_IDS]


def rename_deformable_detr(state: Mapping[str, torch.Tensor]) -> State:
    """A state dict of Deformable DETR as the ``detector`` of FutureDETR.

    Args:
        state: published tensors by name.

    Returns:
        Tensors by our names; those that are not recognised keep theirs, after the prefix.

    Raises:
        ConversionError: heads that the model has once differ between their two names.
    """
    _check_aliases(state)
    renamed = _rename_body(state)
    num_features = sum(
        tensor.shape[-1] == 1
        for name, tensor in state.items()
        if re.fullmatch(r"input_proj\.\d+\.0\.weight", name)
    )
    for name, tensor in state.items():
        if name.startswith(_BODY):
            continue
        if match := re.fullmatch(r"input_proj\.(\d+)\.([01])\.(\w+)", name):
            level, part = int(match[1]), "norm" if match[2] == "1" else "conv"
            extra = level - num_features
            place = f"convs.{level}" if extra < 0 else f"extra_convs.{extra}"
            renamed[f"neck.{place}.{part}.{match[3]}"] = tensor
        elif name == "transformer.level_embed":
            renamed["transformer.level_embeds"] = tensor
        else:
            renamed[_rename_layer(name, _ENCODER, _DEFORMABLE_DECODER)] = tensor
    return {DETECTOR + name: tensor for name, tensor in renamed.items()}


def rename_detr_panoptic(state: Mapping[str, torch.Tensor]) -> State:
    """A state dict of DETR for panoptic segmentation as one of ``DetrPanoptic``.

    Args:
        state: published tensors by name.

    Returns:
        Tensors by our names; those that are not recognised keep theirs.
    """
    plain = {name.removeprefix("detr."): tensor for name, tensor in state.items()}
    renamed = _rename_body(plain)
    for name, tensor in plain.items():
        if not name.startswith(_BODY):
            renamed[_rename_layer(name, _DETR_ENCODER, _DETR_DECODER)] = tensor
    return renamed


def rename_detr_masks(state: Mapping[str, torch.Tensor]) -> State:
    """The mask head and attention maps alone, as those of FutureDETR."""
    return {
        DETECTOR + name: tensor
        for name, tensor in state.items()
        if name.startswith(("bbox_attention.", "mask_head."))
    }


def rename_motr_interaction(state: Mapping[str, torch.Tensor]) -> State:
    """The query interaction module alone, as that of FutureDETR's propagation.

    Raises:
        ConversionError: there is none.
    """
    published = "track_embed."
    renamed = {
        INTERACTION + name.removeprefix(published): tensor
        for name, tensor in state.items()
        if name.startswith(published)
    }
    if not renamed:
        raise ConversionError(f"the file has no tensor whose name starts with {published}")
    return renamed


def fit_detector(
    state: Mapping[str, torch.Tensor], model: Mapping[str, torch.Tensor]
) -> tuple[State, list[str]]:
    """Fit what depends on the number of queries and on COCO's numbering of classes.

    Of the query embedding the first rows are taken, as many as file and model both have; further
    rows of the model stay as it was made. Class heads with an output for each of COCO's 91 category
    ids lose those of the 11 that are unused, if the model has 80 classes.

    Args:
        state: tensors by our names.
        model: those of a new model.

    Returns:
        The tensors, and a line about each change.
    """
    fitted, lines = dict(state), []
    name = f"{DETECTOR}query_embed.weight"
    if name in state and name in model and _differ_in_rows(state[name], model[name]):
        count = min(len(state[name]), len(model[name]))
        fitted[name] = torch.cat([state[name][:count], model[name][count:]])
        lines.append(f"{name}: the first {count} of {len(state[name])} rows of the file")
    for name, tensor in state.items():
        if "class_embed." not in name or name not in model:
            continue
        if len(tensor) == 91 and len(model[name]) == 80:
            fitted[name] = tensor[_COCO_IDS]
            lines.append(f"{name}: the rows of COCO's 80 classes")
    return fitted, lines


def _rename_body(state: Mapping[str, torch.Tensor]) -> State:
    body = {name.removeprefix(_BODY): x for name, x in state.items() if name.startswith(_BODY)}
    return {f"backbone.{name}": tensor for name, tensor in rename_torchvision(body).items()}


def _rename_layer(name: str, encoder: dict[str, str], decoder: dict[str, str]) -> str:
    if (match := _LAYER.match(name)) is None:
        return name
    names = {**(encoder if match[1] == "encoder" else decoder), **_PERCEPTRON}
    part, dot, rest = name[match.end() :].partition(".")
    return match[0] + names.get(part, part) + dot + rest


def _check_aliases(state: Mapping[str, torch.Tensor]) -> None:
    beginning = "transformer.decoder."
    for name, tensor in state.items():
        other = name.removeprefix(beginning)
        if "_embed." in other and other != name and other in state:
            if not torch.equal(tensor, state[other]):
                raise ConversionError(
                    f"{name} and {other} are the same tensor in the model, but they differ in the "
                    "checkpoint"
                )


def _differ_in_rows(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    return len(tensor) != len(other) and tensor.shape[1:] == other.shape[1:]
