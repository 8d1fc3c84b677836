"""Deformable attention: both implementations, all vector paths, gradients, dtypes and edges."""

import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.layers import _compiled
from roca_nocs.layers._compiled import COMPILED_DEVICES, HAS_COMPILED_OPS
from roca_nocs.layers.ms_deform_attn import (
    MultiScaleDeformableAttention,
    ms_deform_attn,
    ms_deform_attn_reference,
)

IMPLEMENTATIONS = [ms_deform_attn, ms_deform_attn_reference]
SHAPES = [(4, 6), (2, 3)]
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

compiled_only = pytest.mark.skipif(not HAS_COMPILED_OPS, reason="checks the compiled operator")


def example(
    batch: int = 2,
    queries: int = 3,
    heads: int = 2,
    channels: int = 5,
    points: int = 2,
    shapes: list[tuple[int, int]] = SHAPES,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Tensors:
    """Values, locations inside and outside of the maps, and weights.

    No coordinate lies closer than a tenth of a pixel to a line of pixel centres, where the
    interpolation has a kink and its gradient is one-sided.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> torch.Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64)

    sizes = torch.tensor([(width, height) for height, width in shapes])[:, None]
    pixels = (1.6 * draw(batch, queries, heads, len(shapes), points, 2) - 0.3) * sizes
    pixels = pixels.floor() + 0.1 + 0.8 * (pixels - pixels.floor())
    tokens = sum(height * width for height, width in shapes)
    tensors = (
        draw(batch, tokens, heads, channels) - 0.5,
        (pixels + 0.5) / sizes,
        draw(batch, queries, heads, len(shapes), points),
    )
    return tuple(tensor.to(dtype) for tensor in tensors)


def gradients(function, tensors: Tensors, shapes=SHAPES, seed: int = 1) -> list[torch.Tensor]:
    """Output and the gradients of the three tensors for a random cotangent."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    output = function(leaves[0], shapes, *leaves[1:])
    generator = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    output.backward(cotangent.to(output))
    return [output.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
def test_hand_worked_sample(function) -> None:
    """A quarter of the way from one pixel to the next, and half of a pixel outside."""
    value = torch.tensor([1.0, 5.0, 9.0, 13.0]).view(1, 4, 1, 1)
    locations = torch.tensor([[0.3125, 0.25], [0.0, 0.25]]).view(1, 1, 1, 1, 2, 2)
    weights = torch.tensor([2.0, 1.0]).view(1, 1, 1, 1, 2)
    output = function(value, [(2, 2)], locations, weights)
    # First sample: x = 0.125, y = 0; second: x = -0.5, y = 0.
    assert output.item() == 2 * (0.875 * 1 + 0.125 * 5) + 0.5 * 1


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
def test_gradcheck(function) -> None:
    tensors = tuple(tensor.requires_grad_() for tensor in example())
    assert torch.autograd.gradcheck(lambda v, loc, w: function(v, SHAPES, loc, w), tensors)


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
def test_on_pixel_centres(function) -> None:
    """Values and weights have ordinary gradients there; the location's is one-sided.

    The numerical two-sided difference is no oracle for it. It must be the difference towards the
    next pixel.
    """
    value = torch.rand(1, 8, 1, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(1, 1, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    centres = torch.tensor([[0.375, 0.25], [0.625, 0.25]], dtype=torch.float64)
    locations = centres.view(1, 1, 1, 1, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, w: function(v, [(2, 4)], locations.detach(), w), (value, weights)
    )
    function(value, [(2, 4)], locations, weights).sum().backward()
    rows = value.detach().view(2, 4, 3).sum(-1)
    for point, column in ((0, 1), (1, 2)):
        right = 4 * (rows[0, column + 1] - rows[0, column])
        down = 2 * (rows[1, column] - rows[0, column])
        expected = weights[0, 0, 0, 0, point].detach() * torch.stack((right, down))
        torch.testing.assert_close(locations.grad[0, 0, 0, 0, point], expected)


@given(
    batch=st.integers(1, 2),
    queries=st.integers(1, 4),
    heads=st.integers(1, 3),
    channels=st.integers(1, 70),
    points=st.integers(1, 5),
    shapes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25)
def test_implementations_agree(shapes, **sizes) -> None:
    tensors = example(shapes=shapes, **sizes)
    for ours, reference in zip(
        gradients(ms_deform_attn, tensors, shapes),
        gradients(ms_deform_attn_reference, tensors, shapes),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("channels", [1, 16, 32, 40, 64])
def test_float32(channels: int) -> None:
    tensors = example(channels=channels, dtype=torch.float32)
    for ours, exact in zip(
        gradients(ms_deform_attn, tensors),
        gradients(ms_deform_attn_reference, tuple(t.double() for t in tensors)),
        strict=True,
    ):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), exact, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("float_positions", [False, True])
def test_half(function, dtype: torch.dtype, float_positions: bool) -> None:
    """Accumulated in float32: nothing but the inputs and the results is rounded."""
    halves = example(channels=20, dtype=dtype)
    if float_positions:
        halves = (halves[0], *example(channels=20, dtype=torch.float32)[1:])
    found = gradients(function, halves)
    # A rounded location may lie on a pixel centre: its gradient is compared without rounding only.
    checked = found if float_positions else [found[0], found[1], found[3]]
    exact = gradients(ms_deform_attn_reference, tuple(t.double() for t in halves))
    exact = exact if float_positions else [exact[0], exact[1], exact[3]]
    epsilon = torch.finfo(dtype).eps
    for ours, expected in zip(checked, exact, strict=True):
        # The cotangent is rounded as well: one more epsilon, of sums of some 20 products.
        torch.testing.assert_close(ours.double(), expected, atol=8 * epsilon, rtol=epsilon)
    assert [t.dtype for t in found] == [dtype, *(t.dtype for t in halves)]


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
@pytest.mark.parametrize("empty", [{"batch": 0}, {"queries": 0}, {"points": 0}])
def test_empty(function, empty: dict[str, int]) -> None:
    tensors = example(**empty)
    output, *of_inputs = gradients(function, tensors)
    assert output.shape == (tensors[0].shape[0], tensors[1].shape[1], 10)
    assert not output.any()
    for gradient, tensor in zip(of_inputs, tensors, strict=True):
        assert gradient.shape == tensor.shape and not gradient.any()


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
def test_far_outside(function) -> None:
    """Samples outside give and get nothing, even where the map holds infinities."""
    value, locations, weights = example()
    value = torch.full_like(value, math.inf)
    far = torch.tensor([-1e30, -3.0, 4.0, 1e30], dtype=locations.dtype)
    locations[...] = far.repeat(locations.numel() // 4).view_as(locations)
    for found in gradients(function, (value, locations, weights)):
        assert not found.any()


@compiled_only
@pytest.mark.parametrize("coordinate", [math.nan, math.inf, -math.inf])
def test_locations_that_are_not_finite_lie_outside(coordinate: float) -> None:
    value, locations, weights = example()
    for found in gradients(ms_deform_attn, (value, locations.fill_(coordinate), weights)):
        assert not found.any()


@pytest.mark.parametrize("heads", [1, 3])
def test_threads_do_not_change_results(heads: int) -> None:
    """One head and two threads: its queries are shared out."""
    tensors = example(queries=37, heads=heads, batch=1, channels=32, dtype=torch.float32)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(gradients(ms_deform_attn, tensors))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_strided_inputs() -> None:
    value, locations, weights = example()
    strided = (
        value.transpose(0, 1).contiguous().transpose(0, 1),
        locations.transpose(1, 2).contiguous().transpose(1, 2),
        weights.expand(2, *weights.shape)[0],
    )
    for ours, expected in zip(
        gradients(ms_deform_attn, strided),
        gradients(ms_deform_attn, (value, locations, weights)),
        strict=True,
    ):
        assert torch.equal(ours, expected)


@compiled_only
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_lesser_vector_paths(capability: str, tmp_path: Path) -> None:
    """What another processor would run: the choice is made once, so in a process of its own."""
    order = ["DEFAULT", "AVX2", "AVX512"]
    present = torch.backends.cpu.get_cpu_capability()
    if present not in order or order.index(capability.upper()) >= order.index(present):
        pytest.skip(f"the other tests run {present}")
    script = f"""
import torch
from roca_nocs.layers.ms_deform_attn import ms_deform_attn
assert torch.backends.cpu.get_cpu_capability() == {capability.upper()!r}
torch.set_num_threads(1)
results = []
for shapes, tensors in torch.load({str(tmp_path / "inputs.pt")!r}):
    leaves = [tensor.requires_grad_() for tensor in tensors]
    output = ms_deform_attn(leaves[0], shapes, *leaves[1:])
    output.sum().backward()
    results.append([output.detach(), *(leaf.grad for leaf in leaves)])
torch.save(results, {str(tmp_path / "results.pt")!r})
"""
    inputs = [
        (SHAPES, example(channels=channels, dtype=dtype))
        for channels in (3, 32, 40)
        for dtype in (torch.float32, torch.float64)
    ]
    torch.save(inputs, tmp_path / "inputs.pt")
    environment = {
        **os.environ,
        "ATEN_CPU_CAPABILITY": capability,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    for (shapes, tensors), results in zip(inputs, torch.load(tmp_path / "results.pt"), strict=True):
        leaves = [tensor.requires_grad_() for tensor in tensors]
        output = ms_deform_attn_reference(leaves[0], shapes, *leaves[1:])
        output.sum().backward()
        tolerance = 3e-5 if output.dtype == torch.float32 else 1e-12
        for found, expected in zip(results, [output, *(t.grad for t in leaves)], strict=True):
            torch.testing.assert_close(found, expected.detach(), atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("function", IMPLEMENTATIONS)
def test_errors(function) -> None:
    value, locations, weights = example()
    for arguments, message in (
        ((value[0], SHAPES, locations, weights), r"value must have shape \(B, S, H, D\)"),
        ((value, [], locations, weights), "at least one level"),
        ((value, [(0, 6), (5, 6)], locations, weights), "spatial_shapes must be positive"),
        ((value, SHAPES[:1], locations[:, :, :, :1], weights[:, :, :, :1]), "tokens of spatial_sh"),
        ((value, SHAPES, locations[..., :1], weights), r"sampling_locations must have shape \(2, "),
        ((value, SHAPES, locations[:1], weights), r"sampling_locations must have shape \(2, Q, 2"),
        ((value, SHAPES, locations, weights[..., :1]), r"attention_weights must have shape"),
        ((value, SHAPES, locations.float(), weights), "must have the dtype of value"),
        ((value, SHAPES, locations, weights.half()), "must have the dtype of value"),
    ):
        with pytest.raises(ValueError, match=message):
            function(*arguments)


@compiled_only
def test_gradient_is_checked() -> None:
    value, locations, weights = example()
    with pytest.raises(ValueError, match="grad_output must have shape"):
        torch.ops.roca_nocs.ms_deform_attn_backward(
            value.new_zeros(2, 3, 4), value, [4, 6, 2, 3], locations, weights
        )


@compiled_only
def test_operator_contract() -> None:
    """Schema, fake kernels, autograd and dispatch are consistent."""
    value, locations, weights = example()
    sizes = [4, 6, 2, 3]
    leaves = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    torch.library.opcheck(
        torch.ops.roca_nocs.ms_deform_attn.default, (leaves[0], sizes, *leaves[1:])
    )
    torch.library.opcheck(
        torch.ops.roca_nocs.ms_deform_attn_backward.default,
        (torch.rand(2, 3, 10, dtype=torch.float64), value, sizes, locations, weights),
    )


@compiled_only
def test_torch_compile() -> None:
    compiled = torch.compile(ms_deform_attn, backend="aot_eager", fullgraph=True)
    tensors = example(dtype=torch.float32)
    for ours, eager in zip(
        gradients(compiled, tensors), gradients(ms_deform_attn, tensors), strict=True
    ):
        torch.testing.assert_close(ours, eager)


@compiled_only
def test_torch_export() -> None:
    module, arguments = attention_example()
    program = torch.export.export(module, (), arguments)
    assert "roca_nocs.ms_deform_attn.default" in str(program.graph)
    torch.testing.assert_close(program.module()(**arguments), module(**arguments))


def attention_example() -> tuple[MultiScaleDeformableAttention, dict]:
    generator = torch.Generator().manual_seed(0)
    module = MultiScaleDeformableAttention(embed_dim=16, num_heads=2, num_levels=2, num_points=3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module, {
        "query": torch.randn(2, 5, 16, generator=generator),
        "value": torch.randn(2, 30, 16, generator=generator),
        "query_pos": torch.randn(2, 5, 16, generator=generator),
        "key_padding_mask": torch.rand(2, 30, generator=generator) < 0.3,
        "reference_points": torch.rand(2, 5, 2, 4, generator=generator),
        "spatial_shapes": SHAPES,
    }


@pytest.mark.parametrize("devices", [COMPILED_DEVICES, frozenset()])
def test_autocast(devices: frozenset[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Values stay bfloat16, locations and weights are read in float32."""
    monkeypatch.setattr("roca_nocs.layers.ms_deform_attn.COMPILED_DEVICES", devices)
    value, locations, weights = example(channels=8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = ms_deform_attn(value.bfloat16(), SHAPES, locations, weights.bfloat16())
        kept = ms_deform_attn(value, SHAPES, locations, weights.bfloat16())
    assert output.dtype == torch.bfloat16 and kept.dtype == torch.float32
    expected = ms_deform_attn_reference(value, SHAPES, locations, weights.bfloat16().float())
    torch.testing.assert_close(kept, expected)
    torch.testing.assert_close(output.float(), expected, atol=0.02, rtol=0.02)

    module, arguments = attention_example()
    exact = module(**arguments)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = module(**arguments)
    rounded.sum().backward()
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)
    for parameter in module.parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()


def test_module_ignores_padding() -> None:
    """Neither the values of padded tokens nor the bias of their projection reach the output."""
    module, arguments = attention_example()
    output = module(**arguments)
    arguments["value"] = arguments["value"].masked_fill(
        arguments["key_padding_mask"][..., None], 100.0
    )
    assert torch.equal(module(**arguments), output)
    arguments["key_padding_mask"] = torch.ones(2, 30, dtype=torch.bool)
    only_bias = arguments["query"] + module.output_proj.bias
    torch.testing.assert_close(module(**arguments), only_bias)


def test_module_paths_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of parameters and inputs, in float64, for both kinds of reference points."""
    module, arguments = attention_example()
    module = module.double()
    floats = {k: v for k, v in arguments.items() if getattr(v, "is_floating_point", bool)()}
    for size in (4, 2):
        leaves = {k: v.double().clone() for k, v in floats.items()}
        leaves["reference_points"] = leaves["reference_points"][..., :size].clone()
        for leaf in leaves.values():
            leaf.requires_grad_()
        inputs = [*leaves.values(), *module.parameters()]
        found = torch.autograd.grad(module(**{**arguments, **leaves}).square().sum(), inputs)
        with monkeypatch.context() as patch:
            patch.setattr("roca_nocs.layers.ms_deform_attn.COMPILED_DEVICES", frozenset())
            expected = torch.autograd.grad(module(**{**arguments, **leaves}).square().sum(), inputs)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_module_errors() -> None:
    with pytest.raises(ValueError, match="embed_dim 10 is not a multiple of num_heads 4"):
        MultiScaleDeformableAttention(embed_dim=10, num_heads=4)
    module, arguments = attention_example()
    arguments["reference_points"] = arguments["reference_points"][:, :, :1]
    with pytest.raises(ValueError, match=r"reference_points must have shape \(2, 5, 2, 2 or 4\)"):
        module(**arguments)


def test_missing_extension_gives_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(name: str) -> None:
        raise ImportError(f"no {name}")

    monkeypatch.setattr(_compiled.importlib, "import_module", fail)
    with caplog.at_level(logging.WARNING):
        assert _compiled.load_compiled_ops() == frozenset()
    (record,) = caplog.records
    assert "no roca_nocs._C" in record.getMessage() and "pip install" in record.getMessage()


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [3, 32, 160])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_cuda_agrees_with_cpu(channels: int, dtype: torch.dtype) -> None:
    assert "cuda" in COMPILED_DEVICES, "build with FORCE_CUDA=1"
    value, locations, weights = example(queries=50, channels=channels, points=9)
    positions = torch.promote_types(dtype, torch.float32)
    tensors = (value.to(dtype), locations.to(positions), weights.to(positions))
    exact = gradients(ms_deform_attn, tuple(t.double() for t in tensors))
    tolerance = max(1e-12, 40 * torch.finfo(dtype).eps)
    for found, expected in zip(
        gradients(ms_deform_attn, tuple(tensor.cuda() for tensor in tensors)),
        exact,
        strict=True,
    ):
        scale = expected.abs().max().clamp(min=1)
        torch.testing.assert_close(
            found.double().cpu() / scale, expected / scale, atol=tolerance, rtol=0
        )
