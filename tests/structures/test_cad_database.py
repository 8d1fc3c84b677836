"""The data base of CAD models checks what it is given."""

from typing import Any

import pytest
import torch

from roca_nocs.structures import CadDatabase

VALID: dict[str, Any] = {
    "keys": (("chair", "a"), ("chair", "b")),
    "category_ids": torch.tensor([0, 1]),
    "symmetries": torch.tensor([0, 3]),
    "voxels": torch.zeros(2, 4, 4, 4, dtype=torch.bool),
    "points": torch.zeros(2, 5, 3),
    "scenes": {"scene": torch.tensor([1, 1])},
}


def test_moves_to_a_device() -> None:
    database = CadDatabase(**VALID)
    moved = database.to("meta")
    assert len(database) == len(moved) == 2
    assert database.device.type == "cpu"
    assert moved.device.type == moved.voxels.device.type == moved.points.device.type == "meta"
    assert moved.keys == database.keys


def test_arrays_are_optional_and_may_be_empty() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert len(CadDatabase(keys=(), category_ids=nothing, symmetries=nothing)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": (("chair", "a"), ("chair", "a"))}, "occur twice"),
        ({"category_ids": torch.tensor([0])}, r"category_ids .* \(2,\).*\(1,\)"),
        ({"category_ids": torch.tensor([0.0, 1.0])}, "category_ids must be torch.int64"),
        ({"category_ids": torch.tensor([0, -1])}, "category_ids must be >= 0, got -1"),
        ({"symmetries": torch.tensor([0, 4])}, r"symmetries must be in 0..3, got \[4\]"),
        ({"voxels": torch.zeros(2, 4, 4, 4)}, "voxels must be torch.bool"),
        ({"voxels": torch.zeros(2, 4, 4, 3, dtype=torch.bool)}, r"\(2, 3, 3, 3\)"),
        ({"voxels": torch.zeros((), dtype=torch.bool)}, "voxels"),
        ({"points": torch.zeros(2, 5, 2)}, r"points .*\(2, 5, 3\)"),
        ({"scenes": {"s": torch.tensor([2])}}, "scenes\\['s'\\] names rows 2..2"),
        ({"scenes": {"s": torch.tensor([0.5])}}, "scenes\\['s'\\] must be torch.int64"),
    ],
)
def test_rejects(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CadDatabase(**{**VALID, **change})
