"""Conversion of published checkpoints: what fits, what is reported, what is refused."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from named_tensors import NamedTensors
from roca_nocs.engine.checkpoint import Checkpointer
from roca_nocs.engine.convert import CONVERSIONS, ConversionError, convert, read_state

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location(
    "convert_checkpoint", ROOT / "tools/convert_checkpoint.py"
)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def table(golden_dir: Path) -> tuple[Shapes, Shapes]:
    """Shapes of the published model, and of the buffers that its file has besides."""
    with np.load(golden_dir / "roca" / "checkpoint_keys.npz") as file:
        rows = list(
            zip(
                file["names"].tolist(),
                file["shapes"].tolist(),
                file["origin"].tolist(),
                strict=True,
            )
        )
    shapes = {name: tuple(map(int, shape.split(","))) for name, shape, _ in rows}
    legacy = {name for name, _, origin in rows if origin == "legacy_buffer"}
    assert legacy == CONVERSIONS["roca"].dropped
    model = {name: shape for name, shape in shapes.items() if name not in legacy}
    return model, {name: shapes[name] for name in legacy}


@pytest.fixture(scope="module")
def published(table: tuple[Shapes, Shapes]) -> dict[str, torch.Tensor]:
    """A state as the published file holds it; large tensors repeat one random number."""
    torch.manual_seed(0)
    return {
        name: torch.randn(shape) if len(shape) < 3 else torch.randn(1).expand(shape)
        for name, shape in {**table[0], **table[1]}.items()
    }


def save(path: Path, model: object) -> Path:
    torch.save({"model": model, "iteration": 79999, "optimizer": {"state": {}}}, path)
    return path


def test_conversion_loads_strictly(
    table: tuple[Shapes, Shapes], published: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    source = save(tmp_path / "published.pth", published)
    config = tmp_path / "model.py"
    config.write_text(
        "from detectron2.config import LazyCall as L\n"
        "from named_tensors import NamedTensors\n"
        f"model = L(NamedTensors)(shapes={table[0]!r})\n"
    )
    target = tmp_path / "converted.pth"
    tool.main(["roca", str(source), str(target), "--config", str(config)])

    assert set(torch.load(target, weights_only=True)["model"]) == set(table[0])
    model = NamedTensors(table[0])
    Checkpointer(model, str(tmp_path)).load(str(target))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, published[name]), name


def test_newer_files_without_the_legacy_buffers(
    table: tuple[Shapes, Shapes], published: dict[str, torch.Tensor]
) -> None:
    state = {name: published[name] for name in table[0]}
    assert list(convert(state, table[0], CONVERSIONS["roca"].dropped)) == list(table[0])


def test_everything_that_does_not_fit_is_named(
    table: tuple[Shapes, Shapes], published: dict[str, torch.Tensor]
) -> None:
    state = dict(published)
    del state["roi_heads.class_weights"]
    state["roi_heads.mesh_head.weight"] = torch.zeros(1)
    state["roi_heads.box_predictor.cls_score.bias"] = torch.zeros(81)
    with pytest.raises(ConversionError) as error:
        convert(state, table[0], CONVERSIONS["roca"].dropped)
    message = str(error.value)
    assert f"which has {len(table[0])} tensors" in message
    assert "1 missing: roi_heads.class_weights" in message
    assert "1 unexpected: roi_heads.mesh_head.weight" in message
    assert "1 of another shape: roi_heads.box_predictor.cls_score.bias (81,) instead of (10,)" in (
        message
    )
    with pytest.raises(ConversionError, match=rf"{len(table[0])} missing: .* and \d+ more"):
        convert({}, table[0])


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "published.pth", {"weight": Malicious(tmp_path / "broken_in")})
    with pytest.raises(ConversionError, match=r"published.pth is refused: .*"):
        read_state(source)
    assert not (tmp_path / "broken_in").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, r"no entry 'model' .* \['state_dict'\]"),
        ({"model": {"weight": 3}}, "no entry 'model' with named tensors"),
        (torch.zeros(3), "no entry 'model' .*Tensor"),
    ],
)
def test_files_without_a_model(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ConversionError, match=message):
        read_state(tmp_path / "file.pth")


def test_damaged_files(tmp_path: Path, published: dict[str, torch.Tensor]) -> None:
    path = save(tmp_path / "file.pth", published)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ConversionError, match=r"file\.pth"):
        read_state(path)
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ConversionError, match=r"text\.pth"):
        read_state(tmp_path / "text.pth")


def test_errors_on_the_command_line(tmp_path: Path) -> None:
    source, target = tmp_path / "nowhere.pth", tmp_path / "out.pth"
    with pytest.raises(SystemExit, match=r"error: .*nowhere\.pth"):
        tool.main(["roca", str(source), str(target)])
    save(source, {"weight": torch.zeros(2)})
    config = tmp_path / "model.py"
    config.write_text(
        "from detectron2.config import LazyCall as L\nfrom torch import nn\n"
        "model = L(nn.Linear)(in_features=2, out_features=1, bias=False)\n"
    )
    with pytest.raises(SystemExit, match=r"error: .* weight \(2,\) instead of \(1, 2\)"):
        tool.main(["roca", str(source), str(target), "--config", str(config)])
    assert not target.exists()
