"""Conversion of checkpoints of DETR and Deformable DETR: values, other sizes, other variants."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from roca_nocs.engine.checkpoint import Checkpointer
from roca_nocs.engine.convert import ConversionError, read_state
from roca_nocs.engine.convert_detr import (
    fit_detector,
    rename_deformable_detr,
    rename_detr_masks,
    rename_detr_panoptic,
)

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location(
    "convert_detr_tool", ROOT / "tools/convert_checkpoint.py"
)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

State = dict[str, torch.Tensor]

CONFIG = """
from detectron2.config import LazyCall as L
from roca_nocs.modeling.backbone.raster_resnet import build_raster_resnet
from roca_nocs.modeling.transformer.future_detector import FutureDetector
from torch import nn

class Model(nn.Module):
    def __init__(self, detector):
        super().__init__()
        self.detector = detector

model = L(Model)(
    detector=L(FutureDetector)(
        backbone=L(build_raster_resnet)(depth=18),
        num_classes={classes}, num_queries={queries}, hidden_dim=128, nheads=8, enc_layers=1,
        dec_layers=2, dim_feedforward=16, gn_groups="auto", enc_n_points=2, dec_n_points=2,
        mask_type={mask_type!r},
    )
)
"""

_TO_PUBLISHED = [
    ("stem.conv1.norm.", "bn1."),
    ("stem.conv1.", "conv1."),
    *((f"res{number + 1}.", f"layer{number}.") for number in range(1, 5)),
    ("shortcut.norm.", "downsample.1."),
    ("shortcut.", "downsample.0."),
    ("conv1.norm.", "bn1."),
    ("conv2.norm.", "bn2."),
    ("level_embeds", "level_embed"),
    ("neck.convs.", "input_proj."),
    ("neck.extra_convs.0.", "input_proj.3."),
    ("ffns.0.layers.0.0.", "linear1."),
    ("ffns.0.layers.1.", "linear2."),
]


def published_name(name: str) -> str:
    """The inverse of the renaming, written down by itself."""
    for ours, theirs in _TO_PUBLISHED:
        if ours == "level_embeds" or name.startswith(("backbone.", "neck.")) or "ffns" in ours:
            name = name.replace(ours, theirs)
    if name.startswith("input_proj."):
        return name.replace(".conv.", ".0.").replace(".norm.", ".1.")
    if name.startswith("backbone."):
        return name.replace("backbone.", "backbone.0.body.", 1)
    if ".encoder." in name:
        order = {"attentions.0.": "self_attn.", "norms.0.": "norm1.", "norms.1.": "norm2."}
    else:
        order = {
            "attentions.0.attn.": "self_attn.",
            "attentions.1.": "cross_attn.",
            "norms.0.": "norm2.",
            "norms.1.": "norm1.",
            "norms.2.": "norm3.",
        }
    for ours, theirs in order.items():
        name = name.replace(ours, theirs)
    return name


def write_config(path: Path, classes: int, queries: int = 4, mask_type: str | None = None) -> Path:
    path.write_text(CONFIG.format(classes=classes, queries=queries, mask_type=mask_type))
    return path


def build(config: Path) -> torch.nn.Module:
    return instantiate(LazyConfig.load(str(config)).model)


def published(config: Path) -> State:
    """A checkpoint as it would be published, of random weights."""
    torch.manual_seed(3)
    state = build(config).detector.state_dict()
    return {published_name(name): tensor for name, tensor in state.items()}


def save(path: Path, state: State) -> str:
    # The published files of Deformable DETR hold the arguments of the training too.
    torch.save({"model": state, "epoch": 49, "args": argparse.Namespace(lr=2e-4)}, path)
    return str(path)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Boxes from a file with other queries and classes; the mask head is new, and named."""
    source = write_config(tmp_path / "source.py", classes=91)
    config = write_config(tmp_path / "model.py", classes=80, queries=6, mask_type="conv")
    state = published(source)
    file, target = save(tmp_path / "in.pth", state), tmp_path / "out.pth"
    tool.main(["deformable_detr", file, str(target), "--config", str(config)])
    printed = capsys.readouterr().out
    assert "fitted: detector.query_embed.weight: the first 4 of 4 rows of the file" in printed
    assert "fitted: detector.class_embed.1.bias: the rows of COCO's 80 classes" in printed
    assert "detector.bbox_attention, detector.mask_head" in printed
    assert "left out" not in printed

    torch.manual_seed(9)
    model = build(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Checkpointer(model, str(tmp_path)).load(str(target))
    after = model.detector.state_dict()
    assert torch.equal(after["query_embed.weight"][:4], state["query_embed.weight"])
    used = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13])
    assert torch.equal(after["class_embed.0.weight"][:12], state["class_embed.0.weight"][used])
    assert torch.equal(after["class_embed.0.bias"][-1], state["class_embed.0.bias"][90])
    for name, tensor in after.items():
        if name.startswith(("bbox_attention.", "mask_head.")):
            assert torch.equal(tensor, before[f"detector.{name}"]), name
        elif not name.startswith(("query_embed.", "class_embed.")):
            assert torch.equal(tensor, state[published_name(name)]), name


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path / "model.py", classes=91)
    state = published(config)
    del state["transformer.encoder.layers.0.norm1.weight"]
    state["transformer.pos_trans.weight"] = torch.zeros(2)
    state["input_proj.0.0.bias"] = torch.zeros(3)
    file = save(tmp_path / "in.pth", state)
    with pytest.raises(SystemExit) as error:
        tool.main(["deformable_detr", file, str(tmp_path / "out.pth"), "--config", str(config)])
    message = str(error.value)
    assert "1 missing: detector.transformer.encoder.layers.0.norms.0.weight" in message
    assert "1 unexpected: detector.transformer.pos_trans.weight" in message
    assert "detector.neck.convs.0.conv.bias (3,) instead of (128,)" in message
    assert not (tmp_path / "out.pth").exists()


def test_other_classes_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_config(tmp_path / "source.py", classes=91)
    config = write_config(tmp_path / "model.py", classes=3)
    file, target = save(tmp_path / "in.pth", published(source)), tmp_path / "out.pth"
    tool.main(["deformable_detr", file, str(target), "--config", str(config)])
    printed = capsys.readouterr().out
    assert "left out: detector.class_embed.0.weight (91, 128), the model has (3, 128)" in printed
    assert not any("class_embed" in name for name in torch.load(target)["model"])


def test_two_values_of_one_tensor(tmp_path: Path) -> None:
    state = published(write_config(tmp_path / "model.py", classes=5))
    assert "transformer.decoder.bbox_embed.1.layers.0.bias" in state
    state["bbox_embed.1.layers.0.bias"] = torch.ones(128)
    with pytest.raises(ConversionError, match=r"bbox_embed\.1\.layers\.0\.bias .* they differ"):
        rename_deformable_detr(state)


@pytest.mark.parametrize(("ours", "expected"), [(2, 2), (4, 4), (7, 4)])
def test_rows_of_queries(ours: int, expected: int) -> None:
    name = "detector.query_embed.weight"
    file, model = {name: torch.randn(4, 6)}, {name: torch.randn(ours, 6)}
    fitted, lines = fit_detector(file, model)
    assert torch.equal(fitted[name][:expected], file[name][:expected])
    assert torch.equal(fitted[name][expected:], model[name][expected:])
    assert len(fitted[name]) == ours
    assert len(lines) == (ours != 4)


def mask_head_state(config: Path) -> State:
    torch.manual_seed(5)
    state = build(config).detector.state_dict()
    names = [n for n in state if n.startswith(("bbox_attention.", "mask_head."))]
    return {name: state[name] for name in names}


def test_mask_head_of_detr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Adapters of another backbone are left out; the rest must be complete."""
    config = write_config(tmp_path / "model.py", classes=3, mask_type="conv")
    state = mask_head_state(config)
    state["mask_head.adapter1.weight"] = torch.zeros(64, 1024, 1, 1)
    file = save(tmp_path / "in.pth", {**state, "detr.class_embed.bias": torch.zeros(251)})
    target = tmp_path / "out.pth"
    tool.main(["detr_segm_masks", file, str(target), "--config", str(config)])
    printed = capsys.readouterr().out
    assert "left out: detector.mask_head.adapter1.weight (64, 1024, 1, 1), the model" in printed
    assert "detector.backbone, detector.neck, detector.transformer" in printed
    written = torch.load(target)["model"]
    assert len(written) == len(state) - 1
    assert torch.equal(written["detector.mask_head.lay1.weight"], state["mask_head.lay1.weight"])

    del state["mask_head.gn3.bias"]
    file = save(tmp_path / "in.pth", state)
    with pytest.raises(SystemExit, match=r"1 missing: detector\.mask_head\.gn3\.bias"):
        tool.main(["detr_segm_masks", file, str(target), "--config", str(config)])


def test_names_of_detr() -> None:
    names = {
        "detr.transformer.encoder.layers.3.self_attn.in_proj_weight": (
            "transformer.encoder.layers.3.attentions.0.attn.in_proj_weight"
        ),
        "detr.transformer.decoder.layers.0.multihead_attn.out_proj.bias": (
            "transformer.decoder.layers.0.attentions.1.attn.out_proj.bias"
        ),
        "detr.transformer.decoder.layers.0.norm2.weight": (
            "transformer.decoder.layers.0.norms.1.weight"
        ),
        "detr.transformer.decoder.norm.weight": "transformer.decoder.norm.weight",
        "detr.transformer.decoder.layers.5.linear2.bias": (
            "transformer.decoder.layers.5.ffns.0.layers.1.bias"
        ),
        "detr.backbone.0.body.layer1.0.downsample.1.running_var": (
            "backbone.res2.0.shortcut.norm.running_var"
        ),
        "detr.input_proj.weight": "input_proj.weight",
        "mask_head.gn1.bias": "mask_head.gn1.bias",
    }
    state = {name: torch.zeros(1) for name in names}
    assert list(rename_detr_panoptic(state)) == [
        *sorted(names.values(), key=lambda name: not name.startswith("backbone."))
    ]
    assert list(rename_detr_masks(state)) == ["detector.mask_head.gn1.bias"]


def test_arguments_beside_the_tensors_are_plain_data(tmp_path: Path) -> None:
    file = save(tmp_path / "in.pth", {"weight": torch.ones(2)})
    assert torch.equal(read_state(file)["weight"], torch.ones(2))


def motr_state() -> State:
    """The published names and shapes of the module, and something else of the file."""
    shapes = {"self_attn.in_proj_weight": (768, 256), "self_attn.in_proj_bias": (768,)}
    shapes |= {"self_attn.out_proj.weight": (256, 256), "self_attn.out_proj.bias": (256,)}
    for part in ("linear", "linear_pos", "linear_feat"):
        shapes |= {f"{part}1.weight": (1024, 256), f"{part}1.bias": (1024,)}
        shapes |= {f"{part}2.weight": (256, 1024), f"{part}2.bias": (256,)}
    for norm in ("norm_pos", "norm_feat", "norm1", "norm2", "norm3"):
        shapes |= {f"{norm}.weight": (256,), f"{norm}.bias": (256,)}
    state = {f"track_embed.{name}": torch.randn(shape) for name, shape in shapes.items()}
    assert sum(tensor.numel() for tensor in state.values()) == 1_842_432
    return {**state, "class_embed.0.bias": torch.zeros(1)}


def test_interaction_of_motr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = motr_state()
    file, target = save(tmp_path / "in.pth", state), tmp_path / "out.pth"
    tool.main(["motr_qim", file, str(target)])
    assert "detector.backbone" in capsys.readouterr().out
    written = torch.load(target)["model"]
    assert {name.replace("propagation.", "", 1) for name in written} == {
        name for name in state if name.startswith("track_embed.")
    }
    for name, tensor in written.items():
        assert torch.equal(tensor, state[name.removeprefix("propagation.")]), name

    del state["track_embed.norm3.weight"]
    with pytest.raises(SystemExit, match=r"1 missing: propagation\.track_embed\.norm3\.weight"):
        tool.main(["motr_qim", save(tmp_path / "in.pth", state), str(target)])
    with pytest.raises(SystemExit, match="no tensor whose name starts with track_embed"):
        tool.main(["motr_qim", save(tmp_path / "in.pth", {"a": torch.zeros(1)}), str(target)])
