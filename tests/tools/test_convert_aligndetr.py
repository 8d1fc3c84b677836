"""Conversion of checkpoints of AlignDETR: names, wrappers, other classes and queries."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from modeling.tiny_align_detr import tiny_config
from roca_nocs.engine.checkpoint import Checkpointer
from roca_nocs.engine.convert import (
    CONVERSIONS,
    ConversionError,
    convert,
    leave_out_replaceable,
    unify_names,
)

ALIGNDETR = CONVERSIONS["aligndetr"]
HEADS = ("class_embed.", "bbox_embed.")
ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location(
    "convert_aligndetr", ROOT / "tools/convert_checkpoint.py"
)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def shapes(golden_dir: Path) -> dict[str, tuple[int, ...]]:
    """Of the published model."""
    lines = (golden_dir / "aligndetr" / "checkpoint_keys.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return {name: tuple(map(int, shape.split("x"))) for name, shape, _ in rows}


@pytest.fixture(scope="module")
def published(shapes: dict[str, tuple[int, ...]]) -> State:
    """A state as a published file holds it; every tensor repeats one random number."""
    torch.manual_seed(0)
    state = {name: torch.randn(1).expand(shape) for name, shape in shapes.items()}
    for name in shapes:
        if name.startswith(HEADS):
            state[name] = state[f"transformer.decoder.{name}"]
    return state


def without(state: State, *beginnings: str) -> State:
    return {name: value for name, value in state.items() if not name.startswith(beginnings)}


def test_published_names(published: State, shapes: dict[str, tuple[int, ...]]) -> None:
    """Heads under both of their names or one, and with the prefix of a wrapped model."""
    in_decoder = tuple(f"transformer.decoder.{heads}" for heads in HEADS)
    variants = [published, without(published, *HEADS), without(published, *in_decoder)]
    variants.append({f"module.{name}": value for name, value in variants[1].items()})
    for variant in variants:
        converted = convert(unify_names(variant, ALIGNDETR.aliases), shapes, ALIGNDETR.dropped)
        assert list(converted) == list(shapes)
        assert all(torch.equal(value, published[name]) for name, value in converted.items())


def test_two_values_of_one_tensor(published: State) -> None:
    changed = {**published, "bbox_embed.3.layers.1.bias": torch.zeros(256)}
    with pytest.raises(ConversionError, match=r"bbox_embed\.3\.layers\.1\.bias .*differ"):
        unify_names(changed, ALIGNDETR.aliases)


def test_missing_heads(published: State, shapes: dict[str, tuple[int, ...]]) -> None:
    state = without(published, "class_embed.6.", "transformer.decoder.class_embed.6.")
    with pytest.raises(ConversionError, match=r"4 missing: .*class_embed\.6\.weight"):
        convert(unify_names(state, ALIGNDETR.aliases), shapes)


def test_other_classes_and_queries(published: State, shapes: dict[str, tuple[int, ...]]) -> None:
    """What depends on them is left out and named; any other difference is an error."""
    needed = dict(shapes)
    for name, shape in shapes.items():
        if "class_embed" in name or name == "label_enc.weight":
            needed[name] = (9, *shape[1:])
    needed["transformer.tgt_embed.weight"] = (300, 256)
    kept, left_out = leave_out_replaceable(published, needed, ALIGNDETR.replaceable)
    assert len(left_out) == 2 * 14 + 2
    assert "label_enc.weight (80, 256), the model has (9, 256)" in left_out
    assert set(kept) == {name for name in shapes if needed[name] == shapes[name]}

    needed = {**shapes, "transformer.enc_output.bias": (128,)}
    kept, left_out = leave_out_replaceable(published, needed, ALIGNDETR.replaceable)
    assert left_out == []
    with pytest.raises(ConversionError, match=r"enc_output\.bias \(256,\) instead of \(128,\)"):
        convert(kept, needed)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a file of a model with other classes to weights that our model starts from."""
    config = tmp_path / "model.py"
    config.write_text(
        "from modeling.tiny_align_detr import tiny_config\nmodel = tiny_config(num_classes=4)\n"
    )
    torch.manual_seed(0)
    source = instantiate(tiny_config(num_classes=5))
    state = {f"module.{name}": value for name, value in source.state_dict().items()}
    torch.save({"model": without(state, "module.class_embed.")}, tmp_path / "in.pth")
    target = tmp_path / "out.pth"
    tool.main(["aligndetr", str(tmp_path / "in.pth"), str(target), "--config", str(config)])

    printed = capsys.readouterr().out
    assert "left out: label_enc.weight (5, 16), the model has (4, 16)" in printed
    assert "left out: class_embed.0.bias (5,), the model has (4,)" in printed
    model = instantiate(LazyConfig.load(str(config)).model)
    untouched = {name: value.clone() for name, value in model.state_dict().items()}
    Checkpointer(model, str(tmp_path)).load(str(target))
    for name, value in model.state_dict().items():
        replaced = "class_embed" in name or name == "label_enc.weight"
        expected = untouched[name] if replaced else source.state_dict()[name]
        assert torch.equal(value, expected), name
