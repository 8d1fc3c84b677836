"""Weights to share, and the description beside them."""

import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from engine.tiny_training import ROOT, TinyDetector, write_project
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.synthetic.manifest import Manifest, data_hash
from roca_nocs.data.synthetic.presets import preset_arguments
from roca_nocs.engine.checkpoint import Checkpointer
from roca_nocs.engine.config import load_config
from roca_nocs.engine.convert import convert
from roca_nocs.engine.ema import build_average
from roca_nocs.engine.weights_file import read_weights

_spec = importlib.util.spec_from_file_location(
    "export_weights", ROOT / "tools" / "export_weights.py"
)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

RESULTS = {"frame_box": {"AP50": 61.54}, "depth": {"mean": None}}
COMMAND = "tools/train_net.py --config-file config.py"


@pytest.fixture
def project(tmp_path: Path) -> tuple[Path, Path]:
    """A config and the folder of a training of 8 iterations that keeps averaged weights."""
    config = write_project(tmp_path)
    cfg = load_config(config, ["train.seed=5"])
    run = tmp_path / "output"
    run.mkdir()
    LazyConfig.save(cfg, str(run / "config.yaml"))
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    average = build_average(model, 0.9)
    with torch.no_grad():
        average.module.label.bias.fill_(0.75)
    Checkpointer(model, str(run), ema_state=average).save("model_0000007", iteration=7)
    (run / "results.json").write_text(json.dumps(RESULTS))
    return config, run


def export(project: tuple[Path, Path], output: Path, *options: str) -> dict[str, Any]:
    config, run = project
    arguments = ["--run", str(run), "--config", str(config), "--command", COMMAND]
    tool.main([*arguments, "--output", str(output), *options])
    return json.loads(output.with_suffix(".json").read_text())


def test_export(
    project: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "models" / "tiny.safetensors"
    info = export(project, output)
    content = output.read_bytes()
    parameters = sum(each.numel() for each in TinyDetector(batch_norm=True).parameters())
    description = {
        "config": str(project[0]),
        "command": COMMAND,
        "seed": 5,
        "iterations": 8,
        "averaged": True,
        "data": {},
    }
    assert info == {
        **description,
        "parameters": parameters,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "results": RESULTS,
    }
    tensors, inside = read_weights(output)
    assert inside == description
    assert tensors["label.bias"].tolist() == [0.75, 0.75]  # of the average
    assert tensors["norm.running_var"].dtype == torch.float16
    assert tensors["norm.num_batches_tracked"].dtype == torch.int64
    header, _, row = capsys.readouterr().out.splitlines()[-3:]
    cells = dict(zip(header.split("|"), row.split("|"), strict=True))
    cells = {key.strip(): value.strip() for key, value in cells.items()}
    assert cells["file"] == "`tiny.safetensors`" and cells["iterations"] == "8"
    assert cells["box AP50"] == "61.5" and cells["depth, cm"] == "-"

    again = tmp_path / "again.safetensors"
    export(project, again)
    assert again.read_bytes() == content
    assert sorted(os.listdir(output.parent)) == ["tiny.json", "tiny.safetensors"]


def test_subnormal_numbers_are_noted(
    project: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project[1] / "model_0000007.pth"
    content = torch.load(file, weights_only=True)
    content["ema_state"]["module.box.weight"].fill_(1e-6)
    torch.save(content, file)
    export(project, tmp_path / "tiny.safetensors")
    printed = capsys.readouterr().out
    assert "16 of " in printed and "most of them in box.weight" in printed


def test_mistakes(project: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = project
    output = tmp_path / "tiny.safetensors"
    with pytest.raises(SystemExit, match=r"must end in \.safetensors"):
        export(project, tmp_path / "tiny.pth")
    with pytest.raises(SystemExit) as stopped:  # whose results would those of the run be?
        export(project, output, "--checkpoint", str(run / "model_0000007.pth"))
    assert stopped.value.code == 2
    results = ["--results", str(run / "results.json")]
    with pytest.raises(SystemExit, match=r"nowhere\.pth does not exist"):
        export(project, output, "--checkpoint", "nowhere.pth", *results)

    file = run / "model_0000007.pth"
    content = torch.load(file, weights_only=True)
    changed = tmp_path / "changed.pth"
    chosen = ["--checkpoint", str(changed), *results]
    for message, change in {
        "tensor box.bias does not fit into half": {
            "ema_state": {"module.box.bias": torch.ones(4) * 7e4}
        },
        "1 of another shape: box.bias": {"ema_state": {"module.box.bias": torch.ones(3)}},
        "1 unexpected: extra": {"ema_state": {"module.extra": torch.ones(3)}},
    }.items():
        torch.save(
            {**content, "ema_state": {**content["ema_state"], **change["ema_state"]}}, changed
        )
        with pytest.raises(SystemExit, match=message):
            export(project, output, *chosen)
    torch.save({key: value for key, value in content.items() if key != "ema_state"}, changed)
    with pytest.raises(SystemExit, match="holds no averaged weights"):
        export(project, output, *chosen)
    changed.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SystemExit, match=r"changed\.pth is damaged"):
        export(project, output, *chosen)
    file.unlink()
    with pytest.raises(SystemExit, match="holds no checkpoint"):
        export(project, output)
    (run / "results.json").unlink()
    with pytest.raises(SystemExit, match=r"results\.json does not exist: evaluate"):
        export(project, output)
    assert not output.exists() and not output.with_suffix(".json").exists()


def test_version_of_the_data(
    project: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (tmp_path / "rooms_tiny").mkdir()
    arguments = preset_arguments("rooms", "tiny")
    Manifest(arguments, {"a.json": (3, "abc")}, "7", "source").save(tmp_path / "rooms_tiny")
    names = [f"dataloader.{part}.dataset.names" for part in ("train", "test")]
    overrides = [f"{names[0]}=[rooms_tiny_train]", f"{names[1]}=rooms_tiny_val"]
    versions = tool.data_versions(load_config(project[0], overrides))
    assert list(versions) == ["rooms_tiny"]
    assert versions["rooms_tiny"] == {
        "generator_version": "7",
        "hash": data_hash({"a.json": (3, "abc")}),
        "arguments": arguments.as_dict(),
    }
    (tmp_path / "rooms_tiny" / "manifest.json").unlink()
    with pytest.raises(DatasetError, match="rooms_tiny is incomplete"):
        tool.data_versions(load_config(project[0], overrides))


SHIPPED = sorted((ROOT / "models").glob("*.safetensors"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_weights(file: Path) -> None:
    """They are what their description says, fit the model of their config, and are small."""
    info = json.loads(file.with_suffix(".json").read_text())
    content = file.read_bytes()
    assert len(content) == info["bytes"] <= 25e6
    assert hashlib.sha256(content).hexdigest() == info["sha256"]
    tensors, description = read_weights(file)
    assert description == {key: info[key] for key in description} and description["config"]
    config = load_config(ROOT / info["config"])
    model = instantiate(config.model)
    convert(tensors, {name: tensor.shape for name, tensor in model.state_dict().items()})
    assert file.name in (file.parent / "README.md").read_text()
