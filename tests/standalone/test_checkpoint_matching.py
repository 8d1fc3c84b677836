"""Matching of checkpoint names to model names by their ends."""

import numpy as np
import pytest
import torch
from detectron2.checkpoint.c2_model_loading import (
    _longest_common_prefix_str,
    align_and_update_state_dicts,
)
from torch import nn


class Nested(nn.Module):
    """``body.first``, ``body.second`` and ``second``: two parameters with the same end of name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.first = nn.Linear(2, 3)
        self.body.second = nn.Linear(3, 2)
        self.second = nn.Linear(3, 2)


def numbered(*shape: int, start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + int(np.prod(shape)), dtype=torch.float32).view(shape)


def align(model_shapes: dict[str, tuple], ckpt_shapes: dict[str, tuple]) -> dict[str, torch.Tensor]:
    return align_and_update_state_dicts(
        {name: torch.zeros(shape) for name, shape in model_shapes.items()},
        {name: torch.ones(shape) for name, shape in ckpt_shapes.items()},
        c2_conversion=False,
    )


def test_longest_end_wins():
    state = Nested().state_dict()
    checkpoint = {
        "first.weight": numbered(3, 2),
        "second.weight": numbered(2, 3),
        "body.second.weight": numbered(2, 3, start=100),
    }
    result = align_and_update_state_dicts(state, checkpoint, c2_conversion=False)
    assert result["body.first.weight"] is checkpoint["first.weight"]
    assert result["second.weight"] is checkpoint["second.weight"]
    assert result["body.second.weight"] is checkpoint["body.second.weight"]
    assert len(result) == 3


def test_an_end_must_begin_after_a_dot():
    result = align({"head.my_conv.w": (1,), "conv.w": (1,)}, {"conv.w": (1,)})
    assert set(result) == {"conv.w"}


def test_unmatched_keys_are_kept():
    result = align({"a.w": (1,)}, {"w": (1,), "other": (2,)})
    assert set(result) == {"a.w", "other"}


def test_no_match_at_all(caplog):
    with caplog.at_level("WARNING"):
        assert set(align({"a": (1,)}, {"b": (1,)})) == {"b"}
    assert "No weights in checkpoint matched with model." in caplog.text


@pytest.mark.standalone_only
def test_empty_sides(caplog):
    with caplog.at_level("WARNING"):
        assert align({"a": (1,)}, {}) == {}
        assert set(align({}, {"a": (1,)})) == {"a"}
    assert caplog.text.count("No weights in checkpoint matched with model.") == 2


def test_shape_mismatch_is_skipped_with_a_warning(caplog):
    with caplog.at_level("WARNING"):
        result = align({"a.w": (2,), "a.b": (1,)}, {"w": (3,), "b": (1,)})
    assert set(result) == {"a.b", "w"}
    assert "Shape of w in checkpoint is" in caplog.text
    assert "a.w in model is" in caplog.text


def test_ambiguous_key_is_an_error():
    with pytest.raises(ValueError, match="Cannot match one checkpoint key to multiple keys"):
        align({"a.w": (1,), "b.w": (1,)}, {"w": (1,)})


def test_a_mismatched_key_is_free_for_another_parameter():
    assert set(align({"a.w": (2,), "b.w": (1,)}, {"w": (1,)})) == {"b.w"}


def test_match_is_logged_with_a_count(caplog):
    with caplog.at_level("INFO"):
        align({"net.a.w": (2, 3), "net.a.b": (2,)}, {"a.w": (2, 3), "a.b": (2,)})
    assert "Following weights matched with" in caplog.text


@pytest.mark.standalone_only
def test_match_table_has_a_row_for_each_module(caplog):
    with caplog.at_level("INFO"):
        align(
            {"net.a.w": (2, 3), "net.a.b": (2,), "net.c.w": (1,)},
            {"a.w": (2, 3), "a.b": (2,), "c.w": (1,)},
        )
    message = caplog.records[-1].getMessage()
    assert "submodule net - Total num: 3" in message
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in message.splitlines()[3:]]
    assert rows == [["a.{b,w}", "a.{b,w}", "(2,) (2,3)"], ["c.w", "c.w", "(1,)"]]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["class", "dlaps_model"], ""),
        (["classA", "classB"], "class"),
        (["classA", "classB", "clab"], "cla"),
        (["same", "same"], "same"),
        (["single"], "single"),
        (["a", ""], ""),
    ],
)
def test_longest_common_prefix(names, expected):
    assert _longest_common_prefix_str(names) == expected
