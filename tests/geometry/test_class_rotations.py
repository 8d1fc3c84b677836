"""Symmetry groups of classes: any axis and order, padding, and wrong descriptions."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.data import MetadataCatalog

from roca_nocs.data.class_symmetries import class_symmetries
from roca_nocs.geometry.symmetry import axis_rotations, class_rotations


@pytest.mark.parametrize("axis", ["x", "y", "z", (1.0, 2.0, -3.0)])
def test_a_group_turns_about_its_axis(axis: str | tuple[float, ...]) -> None:
    group = axis_rotations(axis, 5)
    numbers = {"x": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1)}.get(axis, axis)
    direction = torch.tensor(numbers, dtype=torch.float64)
    torch.testing.assert_close(group @ direction, direction.expand(5, 3))
    torch.testing.assert_close(group[1] @ group[3], group[4])
    torch.testing.assert_close(group[2] @ group[3], torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(group.det(), torch.ones(5, dtype=torch.float64))


def test_y_axis_turns_z_towards_x() -> None:
    quarter = axis_rotations("y", 4)[1].float()
    torch.testing.assert_close(quarter @ torch.tensor([0.0, 0, 1]), torch.tensor([1.0, 0, 0]))


def test_classes_are_padded_with_the_identity() -> None:
    table = class_rotations(
        ["phone", "cup", "jar", "dice"],
        {
            "phone": {"axis": "y", "order": 2},
            "jar": {"axis": "y", "order": math.inf, "samples": 5},
            "cup": {"axis": [0, 0, 2], "order": "inf"},
        },
        samples=3,
    )
    assert table.shape == (4, 5, 3, 3) and table.dtype == torch.float32
    identity = torch.eye(3)
    torch.testing.assert_close(table[0, 1], torch.diag(torch.tensor([-1.0, 1, -1])))
    torch.testing.assert_close(table[1, :3], axis_rotations("z", 3).float())
    for row, filled in enumerate((2, 3, 5, 1)):
        torch.testing.assert_close(table[row, filled:], identity.expand(5 - filled, 3, 3))
        torch.testing.assert_close(table[row, 0], identity)


@pytest.mark.parametrize(
    ("symmetries", "message"),
    [
        ({"cups": {"axis": "y", "order": 2}}, r"\['cups'\], which are no classes .* \['cup'\]"),
        ({"cup": {"axis": "w", "order": 2}}, "symmetry of 'cup': axis is 'w'"),
        ({"cup": {"axis": (0, 0, 0), "order": 2}}, "'cup': axis is .*not all 0"),
        ({"cup": {"axis": "y", "order": 0}}, "'cup': the number of rotations .* is 0"),
        ({"cup": {"axis": "y", "order": 1.5}}, r"'cup': order is 1\.5"),
        ({"cup": {"axis": "y"}}, r"'cup': it has the fields \['axis'\]"),
        ({"cup": {"axis": "y", "order": 2, "sample": 3}}, "'cup': it has the fields"),
        ({"cup": {"axis": "y", "order": "many"}}, "'cup': .*many"),
    ],
)
def test_wrong_symmetries(symmetries: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_rotations(["cup"], symmetries)


def test_symmetries_come_from_the_metadata() -> None:
    names = ["nocs_camera_train", "nocs_real_train", "nocs_coco_train"]
    table = class_symmetries(names, samples=4)
    classes = MetadataCatalog.get(names[0]).thing_classes
    turning = [c for c, group in zip(classes, table, strict=True) if (group[1] != group[0]).any()]
    assert turning == ["bottle", "bowl", "can"]
    torch.testing.assert_close(table[0], axis_rotations("y", 4).float())
    assert class_symmetries(names[0], {}).shape == (6, 1, 3, 3)


def test_datasets_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="dataset rooms_train has no 'symmetries'"):
        class_symmetries("rooms_train")
    with pytest.raises(ValueError, match=r"dataset tabletop_train: symmetries .*\['cup'\]"):
        class_symmetries("tabletop_train", {"cup": {"axis": "y", "order": 2}})
    with pytest.raises(ValueError, match="tabletop_train and rooms_train have different classes"):
        class_symmetries(["tabletop_train", "rooms_train"], {})
