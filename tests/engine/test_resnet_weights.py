"""ImageNet weights: both layouts give the same backbone, and the wrong kind is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from detectron2.modeling import ResNet
from detectron2.modeling.backbone.resnet import BasicStem
from torch import nn

from roca_nocs.engine.checkpoint import Checkpointer
from roca_nocs.engine.resnet_weights import rename_torchvision
from roca_nocs.engine.weights_file import WeightsError

RGB = {"input_format": "RGB", "std": [58.395, 57.12, 57.375]}
BGR = {"input_format": "BGR", "std": [1.0, 1.0, 1.0]}


class Detector(nn.Module):
    """A backbone and what tells of the images that it expects."""

    def __init__(self, depth: int, input_format: str, std: list[float], **stages: Any) -> None:
        super().__init__()
        self.backbone = ResNet(
            BasicStem(norm="FrozenBN"),
            ResNet.make_default_stages(depth, norm="FrozenBN", **stages),
            out_features=["res5"],
        )
        self.input_format = input_format
        self.register_buffer("pixel_std", torch.tensor(std), False)


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    """A ResNet of torchvision whose normalisation does something."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return network.eval()


def write_pickle(path: Path, state: dict[str, torch.Tensor], author: str | None) -> str:
    """A file as in detectron2's model zoo; without author one of Caffe2."""
    arrays = {name: np.asarray(tensor) for name, tensor in state.items()}
    content: Any = arrays
    if author is not None:
        content = {"model": arrays, "__author__": author, "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content))
    return str(path)


def test_both_layouts_compute_what_torchvision_does(resnet18: nn.Module, tmp_path: Path) -> None:
    torch.save(resnet18.state_dict(), tmp_path / "resnet18.pth")
    converted = rename_torchvision(resnet18.state_dict())
    files = [
        str(tmp_path / "resnet18.pth"),
        write_pickle(tmp_path / "R-18.pkl", converted, "torchvision"),
    ]
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        x = resnet18.maxpool(resnet18.relu(resnet18.bn1(resnet18.conv1(image))))
        for layer in (resnet18.layer1, resnet18.layer2, resnet18.layer3, resnet18.layer4):
            x = layer(x)
        for file in files:
            model = Detector(18, **RGB)
            Checkpointer(model, "").load(file)
            torch.testing.assert_close(model.backbone(image)["res5"], x, rtol=1e-4, atol=1e-4)


def bottleneck_names(layout: str) -> list[str]:
    if layout == "torchvision":
        return ["conv1.weight", "layer1.0.conv1.weight"]
    if layout == "detectron2":
        return ["stem.conv1.weight", "res2.0.conv1.weight"]
    return ["conv1_w", "res2_0_branch2a_w"]


def bottleneck_state(layout: str) -> dict[str, torch.Tensor]:
    """Two tensors of a ResNet-50."""
    shapes = [(64, 3, 7, 7), (64, 64, 1, 1)]
    names = bottleneck_names(layout)
    return {name: torch.ones(shape) for name, shape in zip(names, shapes, strict=True)}


@pytest.fixture(scope="module")
def detectors() -> dict[str, Detector]:
    return {
        "torchvision": Detector(50, **RGB, stride_in_1x1=False),
        "Caffe2": Detector(50, **BGR, stride_in_1x1=True),
    }


@pytest.mark.parametrize("layout", ["torchvision", "detectron2", "Caffe2"])
def test_kind_is_detected(layout: str, detectors: dict[str, Detector], tmp_path: Path) -> None:
    state = bottleneck_state(layout)
    if layout == "torchvision":
        file = str(tmp_path / "resnet50.pth")
        torch.save(state, file)
    else:
        author = "torchvision" if layout == "detectron2" else None
        file = write_pickle(tmp_path / "R-50.pkl", state, author)
    for kind, model in detectors.items():
        with torch.no_grad():
            model.backbone.res2[0].conv1.weight.zero_()
        if kind == ("Caffe2" if layout == "Caffe2" else "torchvision"):
            Checkpointer(model, "").load(file)
            assert (model.backbone.res2[0].conv1.weight == 1).all()
            continue
        with pytest.raises(WeightsError) as error:
            Checkpointer(model, "").load(file)
        for word in ("input_format=", "pixel_std=", "stride_in_1x1="):
            assert word in str(error.value)
        assert (model.backbone.res2[0].conv1.weight == 0).all()


@pytest.mark.parametrize(
    ("kind", "input_format", "std", "word"),
    [
        ("torchvision", "BGR", RGB["std"], "input_format=BGR"),
        ("torchvision", "RGB", BGR["std"], r"pixel_std=\[1.0, 1.0, 1.0\]"),
        ("Caffe2", "RGB", RGB["std"], "stride_in_1x1=True"),
    ],
)
def test_each_contradiction_is_named(
    kind: str,
    input_format: str,
    std: list[float],
    word: str,
    detectors: dict[str, Detector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = write_pickle(tmp_path / "R-50.pkl", bottleneck_state("detectron2"), "torchvision")
    model = detectors[kind]
    monkeypatch.setattr(model, "input_format", input_format)
    monkeypatch.setitem(model._buffers, "pixel_std", torch.tensor(std))
    with pytest.raises(WeightsError, match=rf"torchvision, but the model has {word}: "):
        Checkpointer(model, "").load(file)


def test_mixed_layouts(detectors: dict[str, Detector], tmp_path: Path) -> None:
    state = {**bottleneck_state("torchvision"), **bottleneck_state("detectron2")}
    torch.save(state, tmp_path / "resnet50.pth")
    with pytest.raises(WeightsError, match=r"mixes torchvision's names .*stem\.conv1\.weight"):
        Checkpointer(detectors["torchvision"], "").load(str(tmp_path / "resnet50.pth"))


def test_other_weights_are_left_alone(detectors: dict[str, Detector], tmp_path: Path) -> None:
    """Checkpoints of detectors name their own images, in their configs."""
    model = detectors["Caffe2"]
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    Checkpointer(detectors["torchvision"], "").load(str(tmp_path / "model.pth"))
    state = {"model": {"backbone.stem.conv1.weight": np.zeros((64, 3, 7, 7))}, "__author__": "Zoo"}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(state))
    Checkpointer(model, "").load(str(tmp_path / "zoo.pkl"))
    assert (model.backbone.stem.conv1.weight == 0).all()
