"""The deformable-attention operator against the published PyTorch function, gradients included."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from parity.aligndetr_arrays import cases, load
from roca_nocs.layers.ms_deform_attn import ms_deform_attn, ms_deform_attn_reference

INPUTS = ("value", "sampling_locations", "attention_weights")
# Sample on a pixel centre, where float32 may fall on either side of the kink: (b, q, h, l, p).
KINK = (0, 3, 0, 0, 0)


@pytest.mark.parametrize("function", [ms_deform_attn, ms_deform_attn_reference])
@pytest.mark.parametrize(
    ("dtype", "tolerance", "location_tolerance"),
    [(torch.float64, 1e-10, 1e-10), (torch.float32, 1e-5, 1e-4)],
)
def test_operator(
    golden_dir: Path,
    function: Callable[..., torch.Tensor],
    dtype: torch.dtype,
    tolerance: float,
    location_tolerance: float,
) -> None:
    for _, case in cases(load(golden_dir / "aligndetr" / "msda_op.npz")):
        value, locations, weights = (case[name].to(dtype).requires_grad_() for name in INPUTS)
        shapes = [(height, width) for height, width in case["spatial_shapes"].tolist()]
        output = function(value, shapes, locations, weights)
        gradients = torch.autograd.grad(
            output, (value, locations, weights), case["grad_output"].to(dtype)
        )
        torch.testing.assert_close(output.double(), case["output"], atol=tolerance, rtol=0)
        for name, gradient in zip(INPUTS, gradients, strict=True):
            found, expected = gradient.double(), case[f"grad_{name}"].clone()
            atol = tolerance
            if name == "sampling_locations":
                atol = location_tolerance
                if dtype == torch.float32:
                    found[KINK] = expected[KINK] = 0
            torch.testing.assert_close(found, expected, atol=atol, rtol=0)
