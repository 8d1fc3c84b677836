"""Reading pickles that other people published, without running what they contain.

A pickle may name any importable function and call it. The published CAD databases and pose files
hold numpy arrays, numbers, strings and builtin containers only, so that is all this reader builds.
"""

from __future__ import annotations

import collections
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray, numeric


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """Byte strings of protocol 2 are stored as a call of ``_codecs.encode``."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"refused text encoding {encoding!r}")
    return text.encode("latin1")


def _allowed() -> dict[tuple[str, str], Callable[..., Any]]:
    allowed: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("_codecs", "encode"): _encode_latin1,
    }
    # numpy 2 renamed numpy.core to numpy._core; files carry the name of the writer's version.
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = multiarray._reconstruct
        allowed[f"{core}.multiarray", "scalar"] = multiarray.scalar
        allowed[f"{core}.numeric", "_frombuffer"] = numeric._frombuffer
    for builtin in (set, frozenset, complex, bytearray, slice, range):
        for module in ("builtins", "__builtin__"):
            allowed[module, builtin.__name__] = builtin
    return allowed


_ALLOWED = _allowed()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"refused the global '{module}.{name}': only numpy arrays, numbers, strings and "
                "builtin containers are read"
            ) from None


def load_restricted_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle that holds numpy arrays, numbers, strings and builtin containers.

    Args:
        path: the file. Strings written by Python 2 are decoded as Latin-1.

    Returns:
        What the file holds.

    Raises:
        FileNotFoundError: there is no such file.
        pickle.UnpicklingError: the file names any other global, is damaged or is no pickle; the
            message names the file (and the global).
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            return _Unpickler(file, encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(f"{path}: {error}") from error
        except Exception as error:
            # A damaged stream makes the unpickler fail in any of a dozen ways.
            raise pickle.UnpicklingError(
                f"{path}: damaged, truncated or not a pickle ({type(error).__name__}: {error})"
            ) from error
