"""Weights in half precision: rounding, overflow, damage, names, the same bytes."""

import logging
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from roca_nocs.engine.checkpoint import Checkpointer
from roca_nocs.engine.weights_file import WeightsError, read_weights, to_half, write_weights


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    model(torch.randn(2, 3, 3, 3))  # moves the running statistics and their counter
    return model.eval()


def write(path: Path, model: nn.Module) -> dict[str, torch.Tensor]:
    tensors, _ = to_half(model.state_dict())
    write_weights(path, tensors, {"seed": 1})
    return tensors


def load(path: Path, model: nn.Module, query: str = "") -> nn.Module:
    Checkpointer(model, "", save_to_disk=False).load(f"{path}{query}")
    return model


def test_round_trip_into_single_precision(tmp_path: Path) -> None:
    path, model = tmp_path / "weights.safetensors", network(0)
    write(path, model)
    assert read_weights(path)[1] == {"seed": 1}
    assert path.stat().st_size < 4 * sum(t.numel() for t in model.state_dict().values()) + 2000
    loaded = load(path, network(1)).state_dict()
    for name, expected in model.state_dict().items():
        assert loaded[name].dtype == expected.dtype
        torch.testing.assert_close(loaded[name], expected, rtol=1e-3, atol=1e-7)
    assert loaded["1.num_batches_tracked"] == 1


def test_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    tensors = write(first, network(0))
    write_weights(second, dict(reversed(tensors.items())), {"seed": 1})
    assert first.read_bytes() == second.read_bytes()


@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False))
@settings(max_examples=80, deadline=None)
def test_every_value_is_kept_or_refused(value: float) -> None:
    state = {"other": torch.zeros(2), "weight": torch.tensor([1.0, value])}
    if abs(value) >= 65520:  # rounds up to infinity
        with pytest.raises(WeightsError, match="the tensor weight does not fit"):
            to_half(state)
        return
    tensors, subnormals = to_half(state)
    error = abs(tensors["weight"][1].double().item() - value)
    assert error <= max(2**-11 * abs(value), 2**-25)
    assert subnormals == ({"weight": 1} if 0 < abs(value) < 2**-14 else {})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(WeightsError, match=rf"tensor bias .* is {value}"):
        to_half({"weight": torch.zeros(1), "bias": torch.tensor([0.0, value])})


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "header", "flipped bit"])
def test_damaged_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.safetensors"
    write(path, network(0))
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        del content[-10:]
    elif kind == "empty":
        content.clear()
    elif kind == "text":
        content = bytearray(b"no weights at all")
    elif kind == "header":
        content[20] ^= 0xFF
    else:
        content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.safetensors is damaged"):
        load(path, network(1))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        read_weights(tmp_path / "nowhere.safetensors")


def test_names_that_do_not_fit_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As with any other checkpoint: a warning names them, what fits is loaded."""
    path, model = tmp_path / "weights.safetensors", network(0)
    tensors, _ = to_half(model.state_dict())
    tensors["head.weight"] = tensors.pop("3.weight")
    tensors["3.bias"] = torch.zeros(5, dtype=torch.float16)
    write_weights(path, tensors, {})
    other = network(1)
    before = other[3].weight.clone()
    with caplog.at_level(logging.WARNING, "fvcore"):
        load(path, other)
    text = caplog.text
    assert "3.weight" in text or "3.{bias, weight}" in text
    assert "head.weight" in text and "(5,)" in text
    torch.testing.assert_close(other[3].weight, before, rtol=0, atol=0)
    torch.testing.assert_close(other[0].weight, model[0].weight, rtol=1e-3, atol=1e-7)


def test_queries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write(path, network(0))
    with pytest.raises(WeightsError, match="matching_heuristics"):
        load(path, network(1), "?matching_heuristics=True")


def test_files_of_others(tmp_path: Path) -> None:
    """Any precision, no checksum, other metadata."""
    path, model = tmp_path / "weights.safetensors", network(0)
    state = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(state, path, {"format": "pt"})
    assert read_weights(path)[1] == {}
    loaded = load(path, network(1))
    torch.testing.assert_close(loaded[0].weight, model[0].weight, rtol=1e-2, atol=1e-5)


def test_reading_leaves_the_folder_alone(tmp_path: Path) -> None:
    """A training may be writing there."""
    unfinished = tmp_path / ".model_0000001.pth.abc.incomplete"
    unfinished.write_bytes(b"half")
    Checkpointer(network(0), str(tmp_path), save_to_disk=False)
    assert unfinished.exists()
    Checkpointer(network(0), str(tmp_path))
    assert not unfinished.exists()
