"""Paired timings: every speed figure of the project is a ratio measured by `compare`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable

import torch
from torch.utils.benchmark import Timer

WARM_UPS = 2
REPEATS = 7


def compare(
    name: str,
    baseline: Callable[[], object],
    ours: Callable[[], object],
    *,
    device: str = "cpu",
    threads: int = 1,
) -> dict[str, object]:
    """Time two functions in turn in this process and print one JSON object.

    Args:
        name: what was timed, with its size and its baseline.
        baseline: the known way; called without arguments on the same inputs as ``ours``.
        ours: our way.
        device: ``"cpu"`` or ``"cuda"``; on the latter every run is synchronised.
        threads: number of PyTorch threads while timing.

    Returns:
        The printed object: medians in milliseconds of at least five runs after two warm-ups, and
        ``ratio`` = baseline / ours (above one: ours is faster).
    """
    timers = [
        Timer("function()", globals={"function": function}, num_threads=threads)
        for function in (baseline, ours)
    ]
    times: list[list[float]] = [[], []]
    for repeat in range(WARM_UPS + REPEATS):
        for timer, record in zip(timers, times, strict=True):
            elapsed = timer.timeit(1).mean
            if repeat >= WARM_UPS:
                record.append(elapsed)
    baseline_ms, ours_ms = (1e3 * statistics.median(record) for record in times)
    result: dict[str, object] = {
        "name": name,
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "threads": threads,
        "baseline_ms": round(baseline_ms, 4),
        "ours_ms": round(ours_ms, 4),
        "ratio": round(baseline_ms / ours_ms, 2),
    }
    print(json.dumps(result), flush=True)
    return result
