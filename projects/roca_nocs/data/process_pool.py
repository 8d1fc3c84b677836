"""Many tasks in worker processes that end with their parent."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from .coco_json import DatasetError

Task = TypeVar("Task")
Result = TypeVar("Result")


Map = Callable[[Callable[[Task], Result], Iterable[Task]], Iterable[Result]]
"""Like ``map``: a function of one task and the tasks, to their results in order."""


@contextmanager
def worker_pool(workers: int, folder: Path) -> Iterator[Map]:
    """A ``map`` that works in other processes; functions, tasks and results are pickled.

    Args:
        workers: number of processes; 1 works in this one.
        folder: that the work is for, to be named in errors.

    Raises:
        RuntimeError: a worker process died.
        ValueError: ``workers`` is below 1.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one is needed.")
    if workers == 1:
        yield map
        return
    # Spawned, not forked: the parent may hold threads and locks of torch and OpenMP.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        yield executor.map
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"A worker process of {folder} died (out of memory?). Run the same command again, "
            "with fewer --workers: what is finished is kept."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """The parent alone reacts to Ctrl-C; a worker ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers to stop, and they would wait for tasks forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def locked(folder: Path, action: str = "writing to") -> Iterator[None]:
    """One process at a time; the lock on the folder goes with the process, however it ends.

    Args:
        folder: must exist.
        action: what the error says that the other process does with it.

    Raises:
        DatasetError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise DatasetError(f"Another process is {action} {folder}; wait for it.") from None
    finally:
        os.close(descriptor)
