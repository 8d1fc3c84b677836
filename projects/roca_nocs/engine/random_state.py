"""The states of all random generators of a process, as plain data that a checkpoint can hold."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

__all__ = ["capture", "preserved", "restore", "resume"]

logger = logging.getLogger(__name__)


def capture() -> dict[str, Any]:
    """States of python's, numpy's, torch's and (where CUDA is in use) the GPU's generators."""
    version, words, gauss = random.getstate()
    _, numpy_words, *numpy_rest = np.random.get_state()
    in_use = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": [version, list(words), gauss],
        "numpy": [numpy_words.tolist(), *numpy_rest],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if in_use else [],
    }


def restore(state: dict[str, Any]) -> None:
    """Set the generators to a state that `capture` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    words, *rest = state["numpy"]
    np.random.set_state(("MT19937", np.array(words, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for cuda_state in state["cuda"]:
            torch.cuda.set_rng_state(cuda_state)


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Whatever is drawn inside the context has no effect on what is drawn behind it."""
    state = capture()
    try:
        yield
    finally:
        restore(state)


def resume(states: list[dict[str, Any]] | None, iteration: int) -> None:
    """Continue the random sequences of this process behind a checkpoint.

    Args:
        states: those of all ranks when the checkpoint was written; `None` if it holds none.
        iteration: of the checkpoint. It seeds the generators, deterministically and differently
            on each rank, if the states do not fit the number of processes.
    """
    rank, world_size = comm.get_rank(), comm.get_world_size()
    if states is not None and len(states) == world_size:
        restore(states[rank])
        return
    logger.warning(
        "The checkpoint holds the random states of %d processes, there are %d now: seeding anew, "
        "the result will differ from that of an uninterrupted run.",
        *(len(states or []), world_size),
    )
    seed_all_rng(int(np.random.SeedSequence([iteration, rank]).generate_state(1)[0]))
