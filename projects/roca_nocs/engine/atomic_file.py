"""Files that are either the old version or the new one, whenever the process is killed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["remove_leftovers", "replace_file"]

_SUFFIX = ".incomplete"


@contextlib.contextmanager
def replace_file(path: str | Path) -> Iterator[BinaryIO]:
    """Write `path` through a temporary file in the same folder.

    Yields the file to write to. On leaving the context its content is on the disk and `path` is
    replaced in one step; if the context raises, `path` stays as it was.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(_SUFFIX, f".{path.name}.", path.parent)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _default_mode())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def remove_leftovers(folder: str | Path) -> int:
    """Delete the temporary files that killed processes left in `folder`; returns how many."""
    leftovers = list(Path(folder).glob(f".*{_SUFFIX}"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return len(leftovers)


def _default_mode() -> int:
    """Access rights that `open` would have given (`mkstemp` lets only the owner read)."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: it is an entry of the folder, not of the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
