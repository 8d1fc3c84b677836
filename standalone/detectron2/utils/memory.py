"""Second and third chances for functions that run out of GPU memory."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["retry_if_cuda_oom"]

logger = logging.getLogger(__name__)


def _is_cuda_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "CUDA out of memory. " in str(error)


def _to_cpu(value: Any) -> Any:
    """Move anything tensor-like (``.device`` and ``.to``) from a GPU to the CPU."""
    on_gpu = getattr(getattr(value, "device", None), "type", None) == "cuda"
    return value.to(device="cpu") if on_gpu and hasattr(value, "to") else value


def retry_if_cuda_oom(func: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a stateless function so that CUDA out-of-memory errors make it try again.

    The second attempt runs after the CUDA cache was emptied, the third one on the CPU (then the
    results are on the CPU too). Only direct arguments are moved, not tensors nested in containers.
    Any other error is passed on.
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        for _ in range(2):
            try:
                return func(*args, **kwargs)
            except RuntimeError as error:
                if not _is_cuda_out_of_memory(error):
                    raise
            # Outside the handler: the traceback held there would keep the tensors alive.
            torch.cuda.empty_cache()
        logger.info("CUDA out of memory twice: moving the inputs of %s to the CPU.", func)
        args = tuple(_to_cpu(value) for value in args)
        return func(*args, **{name: _to_cpu(value) for name, value in kwargs.items()})

    return wrapped
