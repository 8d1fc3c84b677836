"""ImageNet weights of ResNets: which kind a file holds, and whether the model expects that kind.

torchvision's are for RGB images with its statistics and have the stride of a bottleneck in the 3x3
convolution; those of MSRA are for BGR images without scaling (`pixel_std` of 1) and have it in the
first 1x1 convolution. Each loads into a model for the other without a complaint of detectron2, and
costs several AP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .weights_file import WeightsError

__all__ = ["adapt_stem", "recognise_resnet", "rename_torchvision"]

_TORCHVISION = re.compile(r"layer[1-4]\.\d+\.conv\d\.weight")
_DETECTRON2 = re.compile(r"(?:.*\.)?(?:stem\.conv1|res[2-5]\.\d+\.conv\d)\.weight")


def recognise_resnet(checkpoint: dict[str, Any], model: nn.Module, file: str) -> dict[str, Any]:
    """Rename a torchvision state dict, and refuse weights of a kind that the model is not for.

    Args:
        checkpoint: as `DetectionCheckpointer` reads it: ``model``, and for files of the model zoo
            ``__author__``.
        model: that loads it.
        file: for messages.

    Returns:
        The checkpoint; others than those of a bare ResNet as they are.

    Raises:
        WeightsError: names of two layouts in one file, or the wrong kind of weights.
    """
    names = checkpoint["model"]
    author = checkpoint.get("__author__")
    if any(_TORCHVISION.fullmatch(name) for name in names):
        if mixed := [name for name in names if _DETECTRON2.fullmatch(name)]:
            raise WeightsError(
                f"{file} mixes torchvision's names of ResNet weights with detectron2's "
                f"({mixed[0]}): give a file of one kind"
            )
        checkpoint = {
            "model": rename_torchvision(names),
            "__author__": "torchvision",
            "matching_heuristics": True,
        }
    elif author not in ("torchvision", "Caffe2"):
        return checkpoint
    problems = _contradictions(model, checkpoint["__author__"])
    if problems:
        raise WeightsError(
            f"{file} holds ResNet weights of {checkpoint['__author__']}, but the model has "
            f"{', '.join(problems)}: change the config or take the other weights"
        )
    return _with_stem_of(model, checkpoint)


def adapt_stem(weight: torch.Tensor, in_channels: int) -> torch.Tensor:
    """First convolution of a network for images as one for rasters.

    Each channel gets the mean over the input channels, scaled so that an image of equal channels
    gives the same result.

    Args:
        weight: (channels, inputs, h, w).
        in_channels: C, inputs of the result.

    Returns:
        (channels, C, h, w).
    """
    mean = weight.mean(dim=1, keepdim=True)
    return mean.expand(-1, in_channels, -1, -1) * (weight.shape[1] / in_channels)


def _with_stem_of(model: nn.Module, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of a ResNet, its first convolution with as many inputs as the model's."""
    name = "stem.conv1.weight"
    weight = checkpoint["model"].get(name)
    inputs = {p.shape[1] for key, p in model.named_parameters() if key.endswith(name)}
    if weight is None or len(inputs) != 1 or weight.shape[1] in inputs:
        return checkpoint
    adapted = adapt_stem(torch.as_tensor(weight), *inputs)
    return {**checkpoint, "model": {**checkpoint["model"], name: adapted}}


def rename_torchvision(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of a torchvision ResNet with detectron2's names, without the classifier."""
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("fc."):
            continue
        new = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
        new = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", new)
        new = new.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        renamed[new if name.startswith("layer") else f"stem.{new}"] = tensor
    return renamed


def _contradictions(model: nn.Module, author: str) -> list[str]:
    """What of a model does not fit the weights of this author, in the words of its config."""
    torchvision = author == "torchvision"
    problems = []
    image_format = getattr(model, "input_format", None)
    if image_format not in (None, "RGB" if torchvision else "BGR"):
        problems.append(f"input_format={image_format}")
    blocks = [m for name, m in model.named_modules() if re.search(r"(^|\.)res3\.0$", name)]
    if any(getattr(block, "conv2", None) is None or block.conv2.groups > 1 for block in blocks):
        return problems  # of ResNeXt there are Caffe2 weights with other statistics
    if (std := getattr(model, "pixel_std", None)) is not None:
        if bool((std == 1).all()) == torchvision:
            problems.append(f"pixel_std={[round(value, 3) for value in std.flatten().tolist()]}")
    for block in blocks:
        in_1x1 = hasattr(block, "conv3") and tuple(block.conv1.stride) != (1, 1)
        if hasattr(block, "conv3") and in_1x1 == torchvision:
            problems.append(f"stride_in_1x1={in_1x1}")
    return problems
