"""Loads the compiled operators, once; says clearly when they are missing."""

from __future__ import annotations

import importlib
import logging

import torch

logger = logging.getLogger(__name__)


def load_compiled_ops() -> frozenset[str]:
    """Import ``roca_nocs._C``, which registers ``torch.ops.roca_nocs.*``.

    Returns:
        Types of the devices whose operators are available: none after one warning in the log that
        names the reason; the callers then use their PyTorch formulation.
    """
    try:
        extension = importlib.import_module("roca_nocs._C")
    except ImportError as error:
        logger.warning(
            "The compiled operators of roca_nocs are not available (%s): slower PyTorch code runs "
            "instead. Build them with `pip install -e . --no-build-isolation`.",
            error,
        )
        return frozenset()
    if not extension.WITH_CUDA and torch.cuda.is_available():
        logger.warning(
            "The compiled operators of roca_nocs were built without CUDA: slower PyTorch code runs "
            "on the GPU. Build them with `FORCE_CUDA=1 pip install -e . --no-build-isolation`."
        )
    return frozenset(("cpu", "cuda") if extension.WITH_CUDA else ("cpu",))


COMPILED_DEVICES = load_compiled_ops()
HAS_COMPILED_OPS = bool(COMPILED_DEVICES)
