"""Helpers for tests of detection code."""

import os
import tempfile
from typing import Any

import torch
from detectron2.config import LazyConfig
from omegaconf import DictConfig

__all__ = ["assert_instances_allclose", "random_boxes", "reload_lazy_config"]


def random_boxes(
    num_boxes: int, max_coord: float = 100, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Valid random boxes, float32 ``(num_boxes, 4)`` in XYXY.

    Corners and sides are uniform in ``[0, max_coord / 2]``, raised to at least 1: tiny boxes make
    box regression ill-conditioned.
    """
    corners_and_sides = torch.rand(num_boxes, 4, device=device) * (max_coord * 0.5)
    corners, sides = corners_and_sides.clamp(min=1.0).split(2, dim=1)
    return torch.cat([corners, corners + sides], dim=1)


def _assert_field_allclose(name: str, first: Any, second: Any, rtol: float, msg: str) -> None:
    absolute = 0.0
    if hasattr(first, "tensor") and hasattr(second, "tensor"):
        first, second = first.tensor, second.tensor
        absolute = 100 * rtol  # coordinates are of order 100
    if not isinstance(first, torch.Tensor):
        raise ValueError(f"Don't know how to compare type {type(first)} of field {name}")
    assert first.shape == second.shape, (
        f"{msg}Field {name} has shapes {tuple(first.shape)} and {tuple(second.shape)}!"
    )
    if not first.dtype.is_floating_point:
        assert torch.equal(first, second), f"{msg}Field {name} is different!"
        return
    if first.numel():
        absolute = max(absolute, first.abs().max().item() * rtol)
    assert torch.allclose(first, second, rtol=rtol, atol=absolute), (
        f"{msg}Field {name} differs too much!"
    )


def assert_instances_allclose(input: Any, other: Any, *, rtol: float = 1e-5, msg: str = "") -> None:
    """Assert that two ``Instances`` have equal sizes and fields, and nearly equal values.

    Args:
        input: with fields that are tensors, or hold one as ``.tensor`` (such as Boxes).
        other: likewise.
        rtol: tolerance, relative to the largest value of a field.
        msg: start of the message when they differ.
    """
    msg = (msg.rstrip() or "Two Instances are different!") + " "
    assert input.image_size == other.image_size, (
        f"{msg}image_size is {input.image_size} vs. {other.image_size}!"
    )
    fields, other_fields = input.get_fields(), other.get_fields()
    assert sorted(fields) == sorted(other_fields), (
        f"{msg}Fields are {sorted(fields)} vs {sorted(other_fields)}!"
    )
    for name, value in fields.items():
        _assert_field_allclose(name, value, other_fields[name], rtol, msg)


def reload_lazy_config(cfg: DictConfig) -> DictConfig:
    """The config after a round trip through a yaml file."""
    with tempfile.TemporaryDirectory(prefix="detectron2") as folder:
        file_name = os.path.join(folder, "config.yaml")
        LazyConfig.save(cfg, file_name)
        return LazyConfig.load(file_name)
