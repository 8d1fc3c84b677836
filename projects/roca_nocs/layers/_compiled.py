"""Loads the compiled operators, once; says clearly when they are missing."""

from __future__ import annotations

import importlib
import logging

logger = logging.getLogger(__name__)


def load_compiled_ops() -> bool:
    """Import ``roca_nocs._C``, which registers ``torch.ops.roca_nocs.*``.

    Returns:
        True if the operators are available. Otherwise False, after one warning in the log that
        names the reason; the callers then use their PyTorch formulation.
    """
    try:
        importlib.import_module("roca_nocs._C")
    except ImportError as error:
        logger.warning(
            "The compiled operators of roca_nocs are not available (%s): slower PyTorch code runs "
            "instead. Build them with `pip install -e . --no-build-isolation`.",
            error,
        )
        return False
    return True


HAS_COMPILED_OPS = load_compiled_ops()
