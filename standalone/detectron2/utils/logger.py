"""Set-up of the loggers, and messages that are not repeated too often."""

import atexit
import copy
import functools
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import IO, Any

import torch
from detectron2.utils.file_io import PathManager
from tabulate import tabulate
from termcolor import colored

__all__ = [
    "create_small_table",
    "log_every_n",
    "log_every_n_seconds",
    "log_first_n",
    "setup_logger",
]

_DATE_FORMAT = "%m/%d %H:%M:%S"
_REMOTE_BUFFER_BYTES = 2**20
_CALL_COUNTS: Counter[Hashable] = Counter()
_LAST_LOGGED: dict[Hashable, float] = {}


class _ColorfulFormatter(logging.Formatter):
    """Colours the header and the level, and shortens the root of the logger's name."""

    def __init__(self, root_name: str, abbrev_name: str) -> None:
        super().__init__(
            colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s", datefmt=_DATE_FORMAT
        )
        self._root_name = root_name
        self._abbrev_name = abbrev_name

    def _short_name(self, name: str) -> str:
        prefix = self._root_name + "."
        if not name.startswith(prefix):
            return name
        return ".".join(part for part in (self._abbrev_name, name[len(prefix) :]) if part)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)  # other handlers get the same record, with the full name
        record.name = self._short_name(record.name)
        text = super().formatMessage(record)
        if record.levelno == logging.WARNING:
            return colored("WARNING", "red", attrs=["blink"]) + " " + text
        if record.levelno >= logging.ERROR:
            return colored("ERROR", "red", attrs=["blink", "underline"]) + " " + text
        return text


@functools.lru_cache
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Give a logger its handlers and the level DEBUG. A repeated identical call adds nothing.

    Args:
        output: a file (``.txt`` or ``.log``) or a folder for ``log.txt``; None writes no file.
            Ranks above 0 write to ``<file>.rank<n>``.
        distributed_rank: only rank 0 writes to the standard output.
        color: whether the standard output is coloured.
        name: of the logger, the root of the modules it covers.
        abbrev_name: replaces ``name`` in coloured output; "" drops it. By default ``d2`` for
            detectron2 and ``name`` for others.
        enable_propagation: whether records also reach the handlers of the parent logger.
        configure_stdout: whether to write to the standard output at all.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name
    plain = logging.Formatter(
        "[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_DATE_FORMAT
    )
    if configure_stdout and distributed_rank == 0:
        formatter = _ColorfulFormatter(name, abbrev_name) if color else plain
        _add_stream(logger, sys.stdout, formatter)
    if output is not None:
        _add_stream(logger, _open_log(_log_file_name(output, distributed_rank)), plain)
    return logger


def _add_stream(logger: logging.Logger, stream: IO[str], formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(formatter)
    logger.addHandler(handler)


def _log_file_name(output: str, rank: int) -> str:
    output = os.fspath(output)
    file_name = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    return f"{file_name}.rank{rank}" if rank > 0 else file_name


@functools.cache  # loggers that share a file must share the stream as well
def _open_log(file_name: str) -> IO[str]:
    folder = os.path.dirname(file_name)
    if folder:
        PathManager.mkdirs(folder)
    # Each record is flushed, which is expensive on remote storage without a large buffer.
    buffering = _REMOTE_BUFFER_BYTES if "://" in file_name else -1
    stream = PathManager.open(file_name, "a", buffering=buffering)
    atexit.register(stream.close)
    return stream


def _find_caller() -> tuple[str, tuple[str, int, str]]:
    """Module name, and (file, line, function), of the first frame outside this module."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    module = frame.f_globals.get("__name__", "detectron2")
    if module == "__main__":
        module = "detectron2"
    return module, (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def log_first_n(
    lvl: int,
    msg: str,
    n: int = 1,
    *,
    name: str | None = None,
    key: str | Sequence[str] = "caller",
) -> None:
    """Log a message only the first ``n`` times.

    Args:
        lvl: level, such as ``logging.INFO``.
        msg: the message.
        n: how often.
        name: of the logger, by default the caller's module.
        key: what counts as a repetition: the same ``"caller"`` (line of code), the same
            ``"message"``, or, with both names in a sequence, the two together.
    """
    keys = (key,) if isinstance(key, str) else tuple(key)
    unknown = set(keys) - {"caller", "message"}
    if unknown or not keys:
        raise ValueError(f"key must be 'caller', 'message' or both, got {key!r}.")
    module, caller = _find_caller()
    identity = (caller if "caller" in keys else None, msg if "message" in keys else None)
    _CALL_COUNTS[identity] += 1
    if _CALL_COUNTS[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log the first of every ``n`` calls from the same line; arguments as in log_first_n."""
    module, caller = _find_caller()
    if _CALL_COUNTS[caller] % n == 0:
        logging.getLogger(name or module).log(lvl, msg)
    _CALL_COUNTS[caller] += 1


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log at most once in ``n`` seconds from the same line; arguments as in log_first_n."""
    module, caller = _find_caller()
    now = time.monotonic()
    if caller not in _LAST_LOGGED or now - _LAST_LOGGED[caller] >= n:
        logging.getLogger(name or module).log(lvl, msg)
        _LAST_LOGGED[caller] = now


def create_small_table(small_dict: Mapping[str, Any]) -> str:
    """A text table with the keys as header and the values as its only row."""
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )


def _log_api_usage(identifier: str) -> None:
    """Tell torch's usage counter, once a process, that a component is used."""
    torch._C._log_api_usage_once("detectron2." + identifier)
