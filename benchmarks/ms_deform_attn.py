"""Multi-scale deformable attention against its formulation with grid_sample.

Sizes of a 4-scale detector on an image of 800x1333: the encoder asks for every token, the decoder
for 900 queries.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import compare

from roca_nocs.layers.ms_deform_attn import ms_deform_attn, ms_deform_attn_reference

SHAPES = [(100, 167), (50, 84), (25, 42), (13, 21)]
TOKENS = sum(height * width for height, width in SHAPES)
HEADS, CHANNELS, POINTS = 8, 32, 4
ENCODER, DECODER = f"encoder (Q = {TOKENS})", "decoder (Q = 900)"
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Function = Callable[..., torch.Tensor]


def inputs(size: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Tensors:
    """Values, locations and weights of one image.

    The encoder's points lie around the query's own pixel, with a spread of two pixels of the
    sampled level; the decoder's anywhere.
    """
    generator = torch.Generator().manual_seed(0)
    per_query = (HEADS, len(SHAPES), POINTS)
    if size == ENCODER:
        centres = torch.cat([pixel_centres(*shape) for shape in SHAPES])
        noise = torch.randn(1, TOKENS, *per_query, 2, generator=generator)
        sizes = torch.tensor([(width, height) for height, width in SHAPES])
        locations = centres[:, None, None, None] + 2 * noise / sizes[:, None]
    else:
        locations = torch.rand(1, 900, *per_query, 2, generator=generator)
    value = torch.randn(1, TOKENS, HEADS, CHANNELS, generator=generator)
    logits = torch.randn(*locations.shape[:3], len(SHAPES) * POINTS, generator=generator)
    weights = logits.softmax(-1).view(locations.shape[:-1])
    return value.to(device, dtype), locations.to(device), weights.to(device)


def pixel_centres(height: int, width: int) -> torch.Tensor:
    """(height * width, 2) normalised (x, y), row by row."""
    rows, columns = (torch.arange(0.5, size) / size for size in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((x, y), dim=-1).flatten(0, 1)


def stacked_grid_sample(
    value: torch.Tensor, shapes: list, locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The known formulation: samples of all levels are stacked, then weighted and added."""
    batch, _, heads, channels = value.shape
    samples = []
    tokens = [height * width for height, width in shapes]
    for level, (shape, tokens_of_level) in enumerate(
        zip(shapes, value.split(tokens, dim=1), strict=True)
    ):
        maps = tokens_of_level.flatten(2).mT.reshape(batch * heads, channels, *shape)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(maps, grid, align_corners=False))
    flat = weights.transpose(1, 2).flatten(3).flatten(0, 1)[:, None]
    output = (torch.stack(samples, dim=-2).flatten(-2) * flat).sum(-1)
    return output.view(batch, heads * channels, -1).mT.contiguous()


def forward(function: Function, tensors: Tensors) -> Callable[[], object]:
    @torch.no_grad()
    def call() -> object:
        return function(tensors[0], SHAPES, *tensors[1:])

    return call


def forward_and_backward(function: Function, tensors: Tensors) -> Callable[[], object]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]

    def call() -> object:
        output = function(leaves[0], SHAPES, *leaves[1:])
        return torch.autograd.grad(output.sum(), leaves)

    return call


def peak_growth(function: Function) -> float:
    """Megabytes by which resident memory grows at most during one forward call of the encoder.

    Runs in a process of its own. Linux only.
    """
    torch.set_num_threads(1)
    forward(function, inputs(DECODER))()
    call = forward(function, inputs(ENCODER))
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = peak_resident()
    result = call()
    growth = peak_resident() - before
    del result
    return growth


def peak_resident() -> float:
    """Megabytes that were resident at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kilobytes) / 1024


def compare_memory() -> None:
    figures = []
    for function in (stacked_grid_sample, ms_deform_attn):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures.append(pool.apply(peak_growth, (function,)))
    baseline, ours = figures
    row = {
        "name": f"ms_deform_attn {ENCODER}, forward, peak memory of the call, vs grid_sample",
        "device": "cpu",
        "threads": 1,
        "baseline_mb": round(baseline, 1),
        "ours_mb": round(ours, 1),
        "ratio": round(baseline / ours, 2),
    }
    print(json.dumps(row), flush=True)


def compare_times(device: str, threads: int) -> None:
    for size in (ENCODER, DECODER):
        tensors = inputs(size, device)
        for what, run in (("forward", forward), ("forward + backward", forward_and_backward)):
            compare(
                f"ms_deform_attn {size}, {what}, vs grid_sample",
                run(stacked_grid_sample, tensors),
                run(ms_deform_attn, tensors),
                device=device,
                threads=threads,
            )


def compare_on_gpu() -> None:
    """Also bfloat16 against float32, and the share of the bandwidth of a copy."""
    compare_times("cuda", 1)
    single, half = inputs(ENCODER, "cuda"), inputs(ENCODER, "cuda", torch.bfloat16)
    source = torch.empty(2**28, device="cuda")
    target = torch.empty_like(source)
    for what, run in (("forward", forward), ("forward + backward", forward_and_backward)):
        compare(
            f"ms_deform_attn {ENCODER}, {what}, bfloat16 values vs float32",
            run(ms_deform_attn, single),
            run(ms_deform_attn, half),
            device="cuda",
        )
    row = compare(
        f"ms_deform_attn {ENCODER}, forward, vs a copy of 1 GiB",
        lambda: target.copy_(source),
        forward(ms_deform_attn, single),
        device="cuda",
    )
    # Values, locations and weights are read and the output, as large as the values, is written.
    least = sum(4 * tensor.numel() for tensor in (single[0], *single))
    copied = 2 * 4 * source.numel()
    share = least / row["ours_ms"] / (copied / row["baseline_ms"])
    print(f"share of the copy bandwidth: {share:.2f}")


def compare_on_cpu() -> None:
    """Times with one and two threads, and memory."""
    print(f"vector path: {torch.backends.cpu.get_cpu_capability()}")
    for threads in (1, 2):
        compare_times("cpu", threads)
    compare(
        f"ms_deform_attn_reference {ENCODER}, forward, vs grid_sample",
        forward(stacked_grid_sample, inputs(ENCODER)),
        forward(ms_deform_attn_reference, inputs(ENCODER)),
    )
    compare_memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: all there are")
    device = parser.parse_args().device
    if device != "cuda":
        compare_on_cpu()
    if device == "cuda" or (device is None and torch.cuda.is_available()):
        compare_on_gpu()


if __name__ == "__main__":
    main()
