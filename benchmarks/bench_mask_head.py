"""Masks of many queries: the first convolution shared within an image, and rows in chunks."""

import json
import multiprocessing
import resource

import torch
import torch.nn.functional as F
from timing import compare

from roca_nocs.modeling.transformer.mask_heads import ConvMaskHead

HIDDEN_DIM, HEADS, SKIPS = 256, 8, (256, 128, 64)  # of a ResNet-18
QUERIES, CHUNK = 300, 32
# A raster of 800x1600 cells: memory at stride 32, masks at stride 4.
SIZES = ((25, 50), (50, 100), (100, 200), (200, 400))


def inputs(queries: int) -> tuple[ConvMaskHead, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Head, coarse map, attention maps and skips of one image."""
    torch.manual_seed(0)
    head = ConvMaskHead(HIDDEN_DIM, HEADS, SKIPS)
    x = torch.randn(1, HIDDEN_DIM, *SIZES[0])
    maps = torch.rand(queries, HEADS, *SIZES[0])
    skips = [torch.randn(1, c, *size) for c, size in zip(SKIPS, SIZES[1:], strict=True)]
    return head, x, maps, skips


def masks(queries: int, chunk: int) -> torch.Tensor:
    head, x, maps, skips = inputs(queries)
    with torch.no_grad():
        shared = head.prepare(x, skips, SIZES[1:])
        images = torch.zeros(queries, dtype=torch.int64)
        return torch.cat(
            [
                head(part, shared, rows)
                for part, rows in zip(maps.split(chunk), images.split(chunk), strict=True)
            ]
        )


def peak_of(queries: int, chunk: int, results: "multiprocessing.Queue[float]") -> None:
    """Peak memory in MB that the masks take beyond what a single one takes."""
    torch.set_num_threads(1)
    masks(1, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    masks(queries, chunk)
    results.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def compare_memory() -> None:
    context = multiprocessing.get_context("spawn")
    peaks = []
    for chunk in (QUERIES, CHUNK):
        results = context.Queue()
        process = context.Process(target=peak_of, args=(QUERIES, chunk, results))
        process.start()
        peaks.append(results.get())
        process.join()
    baseline, ours = peaks
    row = {
        "name": f"masks of {QUERIES} queries at {SIZES[-1][0]}x{SIZES[-1][1]}, chunks of {CHUNK} "
        "vs all at once, peak memory",
        "device": "cpu",
        "threads": 1,
        "baseline_mb": round(baseline),
        "ours_mb": round(ours),
        "ratio": round(baseline / ours, 2),
    }
    print(json.dumps(row), flush=True)


def compare_first_convolution(queries: int = 4) -> None:
    """The usual form repeats the coarse map for every query before the first convolution."""
    head, x, maps, skips = inputs(queries)
    shared = head.prepare(x, skips, SIZES[1:])
    images = torch.zeros(queries, dtype=torch.int64)

    def repeated() -> torch.Tensor:
        rows = torch.cat([x.expand(queries, -1, -1, -1), maps], dim=1)
        return F.relu(head.gn1(head.lay1(rows)))

    def split() -> torch.Tensor:
        start = head.prepare(x, skips, SIZES[1:]).start
        return F.relu(head.gn1(F.conv2d(maps, head.lay1.weight[:, HIDDEN_DIM:], padding=1) + start))

    with torch.no_grad():
        torch.testing.assert_close(split(), repeated(), atol=1e-4, rtol=1e-3)
        assert head(maps, shared, images).shape == (queries, *SIZES[-1])
        compare(
            f"first convolution of the mask head, {queries} queries at "
            f"{SIZES[0][0]}x{SIZES[0][1]}, vs the map repeated for every query",
            repeated,
            split,
        )


def main() -> None:
    compare_first_convolution()
    compare_memory()


if __name__ == "__main__":
    main()
