"""Random seeds and library versions."""

import logging
import os
import random

import numpy as np
import torch

__all__ = ["TORCH_VERSION", "seed_all_rng"]

TORCH_VERSION: tuple[int, int] = tuple(int(x) for x in torch.__version__.split(".")[:2])
"""(major, minor) of the installed torch, for comparisons."""

logger = logging.getLogger(__name__)


def seed_all_rng(seed: int | None = None) -> None:
    """Seed the global generators of numpy, torch (CPU and CUDA) and ``random``.

    ``PYTHONHASHSEED`` is set as well, for processes started later.

    Args:
        seed: in ``[0, 2**32)``, numpy's limit. None takes one from the operating system, logged.
    """
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big") >> 1
        logger.info("Using a generated random seed %d", seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
