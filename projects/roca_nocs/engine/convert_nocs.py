"""Published NOCS weights under our names: those of the ganocs project, and the official ones.

Both count the background as class 0 where we leave it out or, in the box branch, have it last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from .published_files import ConversionError
from .resnet_weights import rename_torchvision

__all__ = ["rename_ganocs", "rename_official"]

State = dict[str, torch.Tensor]

_BODY = "backbone.body."
_HEAD = "roi_heads.nocs_heads."
# torchvision's Mask R-CNN; "(?:\.0)" is what its later versions put between.
_TORCHVISION = [
    (r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?\.", r"backbone.fpn_lateral{}."),
    (r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?\.", r"backbone.fpn_output{}."),
    (r"rpn\.head\.conv(?:\.0\.0)?\.", "proposal_generator.rpn_head.conv."),
    (r"rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"roi_heads\.box_head\.fc6\.", "roi_heads.box_head.fc1."),
    (r"roi_heads\.box_head\.fc7\.", "roi_heads.box_head.fc2."),
    (r"roi_heads\.mask_predictor\.conv5_mask\.", "roi_heads.mask_head.deconv."),
]

# Epsilon of the batch normalisation of Keras and of PyTorch.
_KERAS_EPSILON, _EPSILON = 1e-3, 1e-5
_TOWER = re.compile(r"mrcnn_coord_([xyz])_(conv|bn)(\d)$")


def rename_ganocs(state: Mapping[str, torch.Tensor]) -> State:
    """A state dict of the ganocs model as one of ``configs/nocs/ganocs_r50_fpn.py``.

    The head has a channel for label l at l - 1, so that its last class is never used. Losses with
    parameters (discriminators) and counters are left out.

    Args:
        state: published tensors by name.

    Returns:
        Tensors by our names; those that are not recognised keep theirs.
    """
    scores = state.get("roi_heads.box_predictor.cls_score.weight")
    labels = 0 if scores is None else len(scores)  # with the background
    body = {name.removeprefix(_BODY): x for name, x in state.items() if name.startswith(_BODY)}
    renamed = {f"backbone.bottom_up.{name}": x for name, x in rename_torchvision(body).items()}
    for name, tensor in state.items():
        if name.startswith((_BODY, "roi_heads.nocs_loss.")):
            continue
        if name.startswith(_HEAD):
            own = re.match(r"head\.(\d+)\.[xyz]\.", name.removeprefix(_HEAD))
            if own and int(own[1]) == labels - 1:
                continue
            if not own and labels and _is_predictor(name, state):
                tensor = tensor.unflatten(0, (labels, -1))[:-1].flatten(0, 1)
            renamed[name.replace("nocs_heads", "nocs_head")] = tensor
        elif name.startswith("roi_heads.box_predictor.cls_score."):
            renamed[name] = tensor.roll(-1, dims=0)
        elif name.startswith("roi_heads.box_predictor.bbox_pred."):
            renamed[name] = tensor[4:]
        elif name.startswith("roi_heads.mask_predictor.mask_fcn_logits."):
            kind = name.rpartition(".")[2]
            renamed[f"roi_heads.mask_head.predictor.{kind}"] = tensor[1:]
        else:
            renamed[_rename_torchvision_detector(name)] = tensor
    # Frozen normalisation does not count batches.
    counters = [k for k in renamed if k.startswith("backbone.") and "num_batches" in k]
    return {name: tensor for name, tensor in renamed.items() if name not in counters}


def _is_predictor(name: str, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a tensor of the NOCS head belongs to its only layer of 1x1 convolutions."""
    weight = state.get(f"{name.rpartition('.')[0]}.weight")
    return weight is not None and weight.dim() == 4 and weight.shape[2:] == (1, 1)


def _rename_torchvision_detector(name: str) -> str:
    for pattern, replacement in _TORCHVISION:
        if match := re.match(pattern, name):
            level = int(match[1]) + 2 if match.groups() else 0
            return replacement.format(level) + name[match.end() :]
    if match := re.match(r"roi_heads\.mask_head\.(\d)\.0\.", name):
        return f"roi_heads.mask_head.mask_fcn{int(match[1]) + 1}.{name[match.end() :]}"
    return name


def rename_official(state: Mapping[str, torch.Tensor]) -> State:
    """NOCS and mask branch of the official Keras weights; the rest of that detector is another.

    Our convolutions of the NOCS head have no bias and another epsilon in the normalisation: mean
    and variance make up for both. In the mask branch the normalisation becomes part of the
    convolution.

    Args:
        state: from ``published_files.read_arrays``.

    Returns:
        Tensors by our names; of regression heads the predictor is halved, for ours is followed by
        (tanh x + 1) / 2 = sigmoid(2 x).

    Raises:
        ConversionError: a layer lacks one of its arrays.
    """
    # Heads that regress are called after the mask branch.
    state = {
        re.sub(r"^mrcnn_mask_(.*)_coord_([xyz])/", r"mrcnn_coord_\2_\1/", name): tensor
        for name, tensor in state.items()
    }
    state = {
        re.sub(r"^mrcnn_mask_coord_([xyz])/", r"mrcnn_coord_\1_regression/", name): tensor
        for name, tensor in state.items()
    }
    renamed: State = {}
    layers = {name.rpartition("/")[0] for name in state}
    try:
        for axis in "xyz":
            renamed |= _official_tower(state, layers, axis)
        return renamed | _official_masks(state)
    except KeyError as error:
        raise ConversionError(
            f"the file lacks {error} of the official NOCS weights; it has {len(state)} arrays"
        ) from error


def _official_tower(state: Mapping[str, torch.Tensor], layers: set[str], axis: str) -> State:
    ours, theirs = f"roi_heads.nocs_head.head.{axis}", f"mrcnn_coord_{axis}"
    renamed: State = {}
    for layer in sorted(layers):
        match = _TOWER.match(layer)
        if match is None or match[1] != axis or match[2] != "conv":
            continue
        number = int(match[3])
        prefix = f"{ours}.0.{number - 1}"
        norm = f"{theirs}_bn{number}"
        renamed[f"{prefix}.0.weight"] = _kernel(state[f"{layer}/kernel"])
        bias = state.get(f"{layer}/bias", 0)
        renamed[f"{prefix}.1.weight"] = state[f"{norm}/gamma"]
        renamed[f"{prefix}.1.bias"] = state[f"{norm}/beta"]
        renamed[f"{prefix}.1.running_mean"] = state[f"{norm}/moving_mean"] - bias
        renamed[f"{prefix}.1.running_var"] = (
            state[f"{norm}/moving_variance"] + _KERAS_EPSILON - _EPSILON
        )
        renamed[f"{prefix}.1.num_batches_tracked"] = torch.tensor(0)
    if f"{theirs}_deconv" in layers:
        renamed[f"{ours}.1.0.weight"] = _kernel(state[f"{theirs}_deconv/kernel"])
        renamed[f"{ours}.1.0.bias"] = state[f"{theirs}_deconv/bias"]
    for name, factor in (("conv_bins", 1.0), ("regression", 0.5)):
        if f"{theirs}_{name}" in layers:
            labels = _labels(state)
            for kind, convert in (("weight", _kernel), ("bias", torch.clone)):
                source = state[f"{theirs}_{name}/{'kernel' if kind == 'weight' else 'bias'}"]
                outputs = convert(source).unflatten(0, (labels, -1))[1:].flatten(0, 1)
                renamed[f"{ours}.1.2.{kind}"] = factor * outputs
    return renamed


def _official_masks(state: Mapping[str, torch.Tensor]) -> State:
    ours, theirs = "roi_heads.mask_head", "mrcnn_mask"
    renamed: State = {}
    number = 1
    while f"{theirs}_conv{number}/kernel" in state:
        norm = f"{theirs}_bn{number}"
        scale = state[f"{norm}/gamma"] / (state[f"{norm}/moving_variance"] + _KERAS_EPSILON).sqrt()
        kernel = _kernel(state[f"{theirs}_conv{number}/kernel"])
        shift = state[f"{theirs}_conv{number}/bias"] - state[f"{norm}/moving_mean"]
        renamed[f"{ours}.mask_fcn{number}.weight"] = kernel * scale[:, None, None, None]
        renamed[f"{ours}.mask_fcn{number}.bias"] = shift * scale + state[f"{norm}/beta"]
        number += 1
    renamed[f"{ours}.deconv.weight"] = _kernel(state[f"{theirs}_deconv/kernel"])
    renamed[f"{ours}.deconv.bias"] = state[f"{theirs}_deconv/bias"]
    renamed[f"{ours}.predictor.weight"] = _kernel(state[f"{theirs}/kernel"])[1:]
    renamed[f"{ours}.predictor.bias"] = state[f"{theirs}/bias"][1:]
    return renamed


def _kernel(kernel: torch.Tensor) -> torch.Tensor:
    """(out, in, h, w) of (h, w, in, out); of a transposed convolution (in, out, h, w) likewise."""
    return kernel.permute(3, 2, 0, 1).contiguous()


def _labels(state: Mapping[str, torch.Tensor]) -> int:
    """Number of classes with the background."""
    return len(state["mrcnn_mask/bias"])
