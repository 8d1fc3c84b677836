"""The compiled operator, its PyTorch formulation and hand-worked maps agree."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from roca_nocs.layers import instance_boxes, instance_boxes_reference
from roca_nocs.layers._compiled import HAS_COMPILED_OPS

IMPLEMENTATIONS = [instance_boxes, instance_boxes_reference]


def test_operators_are_compiled() -> None:
    """The suite runs on the compiled path; `make env` builds it."""
    assert HAS_COMPILED_OPS


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_hand_worked_map(function, dtype: torch.dtype) -> None:
    ids = torch.tensor(
        [
            [0, 1, 1, 0, 7],
            [0, 1, 0, 0, 0],
            [3, 0, 0, 0, 1],
        ],
        dtype=dtype,
    )
    boxes, areas = function(ids, 3)
    assert boxes.dtype == torch.float32
    assert boxes.tolist() == [[1, 0, 5, 3], [0, 0, 0, 0], [0, 2, 1, 3]]
    assert areas.dtype == torch.int64
    assert areas.tolist() == [4, 0, 1]


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (3, 4)])
def test_empty(function, shape: tuple[int, int]) -> None:
    boxes, areas = function(torch.ones(shape, dtype=torch.uint8), 0)
    assert boxes.shape == (0, 4) and areas.shape == (0,)
    boxes, areas = function(torch.zeros(shape, dtype=torch.uint8), 2)
    assert not boxes.any() and not areas.any()


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
def test_errors(function) -> None:
    with pytest.raises(ValueError, match=r"ids must have shape \(H, W\)"):
        function(torch.zeros(2, 3, 4, dtype=torch.uint8), 1)
    with pytest.raises(ValueError, match="num_instances must not be negative, got -1"):
        function(torch.zeros(2, 3, dtype=torch.uint8), -1)


@given(
    arrays(np.int64, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(-1, 6))
)
def test_implementations_agree(ids: np.ndarray) -> None:
    tensor = torch.from_numpy(ids)
    for ours, reference in zip(
        instance_boxes(tensor, 5), instance_boxes_reference(tensor, 5), strict=True
    ):
        assert torch.equal(ours, reference)


def test_strided_input() -> None:
    ids = torch.randint(0, 4, (9, 14), generator=torch.Generator().manual_seed(0))
    for ours, reference in zip(
        instance_boxes(ids.t()[::2], 3), instance_boxes_reference(ids.t()[::2], 3), strict=True
    ):
        assert torch.equal(ours, reference)


@pytest.mark.skipif(not HAS_COMPILED_OPS, reason="checks the registration of the compiled op")
def test_operator_contract() -> None:
    """Schema, fake kernel and dispatch are consistent (torch.compile and torch.export need it)."""
    torch.library.opcheck(
        torch.ops.roca_nocs.instance_boxes.default,
        (torch.randint(0, 4, (6, 5)), 3),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.gpu
def test_cuda_agrees_with_cpu() -> None:
    ids = torch.randint(-1, 40, (363, 481), generator=torch.Generator().manual_seed(0))
    for dtype in (torch.int32, torch.int64):
        on_cpu = instance_boxes(ids.to(dtype), 37)
        on_gpu = instance_boxes(ids.to(dtype).cuda(), 37)
        for a, b in zip(on_cpu, on_gpu, strict=True):
            assert torch.equal(a, b.cpu())
