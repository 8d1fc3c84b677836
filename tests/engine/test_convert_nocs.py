"""Published NOCS weights compute in our model what they compute in theirs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d

from roca_nocs.engine.config import load_config
from roca_nocs.engine.convert import CONVERSIONS, ConversionError, convert
from roca_nocs.engine.convert_nocs import rename_ganocs, rename_official
from roca_nocs.engine.published_files import read_arrays
from roca_nocs.modeling.roi_heads.nocs_head import NocsHead

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location(
    "convert_checkpoint_nocs", ROOT / "tools/convert_checkpoint.py"
)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

LABELS = 7  # with the background


class Ganocs(MaskRCNN):
    """torchvision's detector on a ResNet-18, with a NOCS head that counts the background."""

    def __init__(self) -> None:
        body = resnet18(weights=None, norm_layer=FrozenBatchNorm2d)
        layers = {f"layer{k}": str(k - 1) for k in range(1, 5)}
        super().__init__(BackboneWithFPN(body, layers, [64, 128, 256, 512], 256), LABELS)
        self.roi_heads.nocs_heads = NocsHead(in_channels=256, num_classes=LABELS, num_bins=4)
        self.roi_heads.nocs_loss = nn.Linear(2, 2)  # discriminators live there


def test_ganocs() -> None:
    torch.manual_seed(0)
    theirs = Ganocs().eval()
    for name, buffer in theirs.named_buffers():
        if name.endswith(("running_mean", "running_var", "weight", "bias")):
            buffer.uniform_(0.3, 0.9)
    config = load_config(ROOT / CONVERSIONS["ganocs"].config)
    stages = config.model.backbone.bottom_up.stages
    stages.depth = 18
    del stages.stride_in_1x1
    config.model.roi_heads.nocs_head.num_bins = 4
    ours = instantiate(config.model).eval()
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    ours.load_state_dict(convert(rename_ganocs(theirs.state_dict()), shapes), strict=True)

    with torch.no_grad():
        images = torch.randn(1, 3, 64, 96)
        found, expected = ours.backbone(images), theirs.backbone(images)
        for ours_name, their_name in zip(found, expected, strict=True):
            torch.testing.assert_close(found[ours_name], expected[their_name], rtol=1e-4, atol=1e-4)
        features = [*expected.values()]
        found, expected = ours.proposal_generator.rpn_head(features), theirs.rpn.head(features)
        torch.testing.assert_close(found, tuple(map(list, expected)), rtol=1e-4, atol=1e-4)

        pooled = torch.randn(3, 256, 7, 7)
        heads, their_heads = ours.roi_heads, theirs.roi_heads
        scores, deltas = heads.box_predictor(heads.box_head(pooled))
        their_scores, their_deltas = their_heads.box_predictor(their_heads.box_head(pooled))
        # Background first there, last here, where its box is left out.
        torch.testing.assert_close(scores[:, :-1], their_scores[:, 1:])
        torch.testing.assert_close(scores[:, -1], their_scores[:, 0])
        torch.testing.assert_close(deltas, their_deltas[:, 4:])

        pooled = torch.randn(3, 256, 14, 14)
        masks = their_heads.mask_predictor(their_heads.mask_head(pooled))
        torch.testing.assert_close(heads.mask_head.layers(pooled), masks[:, 1:])
        for label in range(1, LABELS):
            classes = torch.full((3,), label - 1)
            torch.testing.assert_close(
                heads.nocs_head(pooled, classes), their_heads.nocs_heads(pooled, classes)
            )


def test_towers_of_the_last_label_are_left_out() -> None:
    head = NocsHead(in_channels=4, num_classes=3, num_bins=2, conv_dims=(4, 4), head_per_class=True)
    state = {f"roi_heads.nocs_heads.{name}": x for name, x in head.state_dict().items()}
    state["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(3, 8)
    renamed = rename_ganocs(state)
    rest = {name for name in head.state_dict() if not name.startswith("head.2.")}
    assert {name for name in renamed if "nocs" in name} == {
        f"roi_heads.nocs_head.{name}" for name in rest
    }


def keras_weights(regression: bool = False) -> dict[str, np.ndarray]:
    """Official layers with few channels: kernels (h, w, in, out)."""
    random = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    arrays: dict[str, np.ndarray] = {}

    def branch(conv: str, outputs: int) -> None:
        """``conv`` is the name of a layer with a place for what it is."""
        for number in range(1, 5):
            arrays[conv.format(f"conv{number}") + "/kernel"] = 0.3 * draw(3, 3, 6, 6)
            arrays[conv.format(f"conv{number}") + "/bias"] = draw(6)
            norm = conv.format(f"bn{number}")
            for kind in ("gamma", "beta", "moving_mean"):
                arrays[f"{norm}/{kind}"] = draw(6)
            arrays[f"{norm}/moving_variance"] = 0.5 + random.random(6).astype(np.float32)
        arrays[conv.format("deconv") + "/kernel"] = draw(2, 2, 6, 6)
        arrays[conv.format("deconv") + "/bias"] = draw(6)
        last = conv.format("last")
        if last.startswith("mrcnn_coord"):
            last = last.replace("last", "conv_bins")
        else:
            last = last.replace("_last", "")
        arrays[f"{last}/kernel"] = draw(1, 1, 6, outputs)
        arrays[f"{last}/bias"] = draw(outputs)

    for axis in "xyz":
        if regression:
            branch(f"mrcnn_mask_{{}}_coord_{axis}", LABELS)
        else:
            branch(f"mrcnn_coord_{axis}_{{}}", LABELS * 5)
    branch("mrcnn_mask_{}", LABELS)
    return arrays


def official_branch(arrays: dict[str, np.ndarray], conv: str, last: str) -> torch.Tensor:
    """What the Keras layers compute of ``FEATURES``, before the last activation."""
    x = FEATURES

    def get(layer: str, kind: str) -> torch.Tensor:
        return torch.from_numpy(arrays[f"{layer}/{kind}"])

    for number in range(1, 5):
        layer, norm = conv.format(f"conv{number}"), conv.format(f"bn{number}")
        x = F.conv2d(x, get(layer, "kernel").permute(3, 2, 0, 1), get(layer, "bias"), padding=1)
        mean, variance = get(norm, "moving_mean"), get(norm, "moving_variance")
        scale = get(norm, "gamma") / (variance + 1e-3).sqrt()
        x = ((x.movedim(1, -1) - mean) * scale + get(norm, "beta")).movedim(-1, 1).relu()
    # Every pixel becomes 2 x 2 of its own.
    blocks = torch.einsum("ncij,aboc->noiajb", x, get(conv.format("deconv"), "kernel"))
    x = blocks.flatten(4, 5).flatten(2, 3) + get(conv.format("deconv"), "bias")[:, None, None]
    return F.conv2d(x.relu(), get(last, "kernel").permute(3, 2, 0, 1), get(last, "bias"))


FEATURES = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("regression", [False, True])
def test_official_branches(regression: bool) -> None:
    arrays = keras_weights(regression)
    renamed = rename_official({name: torch.from_numpy(array) for name, array in arrays.items()})
    head = NocsHead(
        in_channels=6, num_classes=6, num_bins=1 if regression else 5, conv_dims=[6] * 5
    ).eval()
    masks = MaskRCNNConvUpsampleHead(ShapeSpec(channels=6), num_classes=6, conv_dims=[6] * 5)
    for prefix, module in (("nocs_head", head), ("mask_head", masks)):
        prefix = f"roi_heads.{prefix}."
        own = {n.removeprefix(prefix): x for n, x in renamed.items() if n.startswith(prefix)}
        module.load_state_dict(own, strict=True)
    with torch.no_grad():
        expected = official_branch(arrays, "mrcnn_mask_{}", "mrcnn_mask")[:, 1:]
        torch.testing.assert_close(masks.layers(FEATURES), expected, rtol=1e-3, atol=1e-3)
        for row, axis in enumerate("xyz"):
            conv = f"mrcnn_mask_{{}}_coord_{axis}" if regression else f"mrcnn_coord_{axis}_{{}}"
            last = f"mrcnn_mask_coord_{axis}" if regression else f"mrcnn_coord_{axis}_conv_bins"
            expected = official_branch(arrays, conv, last)
            if regression:
                expected = expected.sigmoid()
            else:
                expected = expected.unflatten(1, (LABELS, 5))
            for label in range(1, LABELS):
                outputs = head(FEATURES, torch.full((2,), label - 1))
                torch.testing.assert_close(
                    outputs[:, row], expected[:, label], rtol=1e-3, atol=1e-3
                )


def test_a_part_of_the_model_is_converted(tmp_path: Path) -> None:
    source, target, config = tmp_path / "nocs.npz", tmp_path / "nocs.pth", tmp_path / "model.py"
    # Keras repeats the layer's name and numbers its tensors.
    arrays = {f"{n.split('/')[0]}/{n}:0": array for n, array in keras_weights().items()}
    np.savez(source, **arrays)
    renamed = rename_official(read_arrays(source))
    shapes = {name: tuple(tensor.shape) for name, tensor in renamed.items()}
    config.write_text(
        "from detectron2.config import LazyCall as L\n"
        "from named_tensors import NamedTensors\n"
        f"model = L(NamedTensors)(shapes={shapes | {'backbone.stem.weight': (2, 2)}!r})\n"
    )
    tool.main(["nocs", str(source), str(target), "--config", str(config)])
    assert torch.load(target, weights_only=True)["model"].keys() == renamed.keys()


def test_files_that_are_not_the_official_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.h5"):
        read_arrays(tmp_path / "nothing.h5")
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ConversionError, match=r"text\.npz cannot be read"):
        read_arrays(tmp_path / "text.npz")
    arrays = {name: torch.from_numpy(array) for name, array in keras_weights().items()}
    del arrays["mrcnn_coord_y_bn2/gamma"]
    with pytest.raises(ConversionError, match="lacks 'mrcnn_coord_y_bn2/gamma'"):
        rename_official(arrays)
    if importlib.util.find_spec("h5py") is None:
        (tmp_path / "weights.h5").write_bytes(b"")
        with pytest.raises(ConversionError, match=r"pip install h5py"):
            read_arrays(tmp_path / "weights.h5")
