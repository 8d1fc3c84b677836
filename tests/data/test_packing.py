"""Batches that travel as one block of shared memory."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from hypothesis import given
from hypothesis import strategies as st

from roca_nocs.data.packing import pack, unpack

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


def through(batch: list[Any]) -> list[Any]:
    """Packed, sent as other processes receive it, and unpacked."""
    return unpack(pickle.loads(pickle.dumps(pack(batch))))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(DTYPES),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=6,
    )
)
def test_tensors_of_all_types_and_shapes_arrive(kinds: list) -> None:
    tensors = [(torch.rand(shape) * 9).to(dtype) for dtype, shape in kinds]
    received = through([{"a": tensors}, "text", None])
    assert received[1:] == ["text", None]
    assert len(received[0]["a"]) == len(tensors)
    for tensor, arrived in zip(tensors, received[0]["a"], strict=True):
        assert arrived.dtype == tensor.dtype
        assert torch.equal(arrived, tensor)


def test_structures_arrays_and_parts_of_tensors_arrive() -> None:
    whole = torch.arange(24.0).view(4, 6)
    instances = Instances((4, 6))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 1.0, 2.0, 3.0]]))
    instances.gt_masks = BitMasks(torch.ones(1, 4, 6, dtype=torch.bool))
    sample = {
        "part": whole[:, ::2],
        "turned": whole.T,
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "instances": instances,
    }
    ((received, attempts),) = through([(sample, 2)])
    assert attempts == 2
    assert torch.equal(received["part"], whole[:, ::2])
    assert torch.equal(received["turned"], whole.T)
    np.testing.assert_array_equal(received["array"], sample["array"])
    assert torch.equal(received["instances"].gt_boxes.tensor, instances.gt_boxes.tensor)
    assert torch.equal(received["instances"].gt_masks.tensor, instances.gt_masks.tensor)


def test_received_tensors_can_be_changed_one_by_one() -> None:
    first, second = through([torch.zeros(3), torch.zeros(3)])
    first += 1
    assert first.tolist() == [1, 1, 1]
    assert second.tolist() == [0, 0, 0]


def test_contents_lie_in_one_aligned_shared_block() -> None:
    packed = pack([torch.zeros(3), torch.zeros(5, dtype=torch.uint8)])
    assert packed.contents.is_shared()
    assert packed.spans == ((0, 12), (64, 5))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in unpack(packed))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_parameters_keep_what_they_are(requires_grad: bool) -> None:
    parameter = torch.nn.Parameter(torch.ones(2), requires_grad)
    (received,) = through([parameter])
    assert isinstance(received, torch.nn.Parameter)
    assert received.requires_grad == requires_grad
    assert torch.equal(received, parameter)
