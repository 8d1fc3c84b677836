"""Python-like text of configs, for people to read."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.utils.registry import _convert_target_to_string


def to_source_code(content: Any, prefix: str = "cfg.") -> str:
    """One assignment per value, and one call per mapping with ``_target_``, keys sorted.

    The text is formatted by black where that is installed and the text is valid Python.

    Args:
        content: nested dicts, lists and plain values; targets are callables, dotted paths or calls.
        prefix: what the assigned names start with, usually with a dot at the end.
    """
    text = "\n".join(_assignments(content, prefix))
    try:
        import black
    except ImportError:
        return text + "\n"
    try:
        return black.format_str(text, mode=black.Mode())
    except black.InvalidInput:
        return text + "\n"


def _assignments(value: Any, prefix: str) -> Iterator[str]:
    if isinstance(value, Mapping) and value and "_target_" not in value:
        for key in sorted(value, key=str):
            is_branch = isinstance(value[key], Mapping) and "_target_" not in value[key]
            yield from _assignments(value[key], f"{prefix}{key}{'.' if is_branch else ''}")
    else:
        yield f"{prefix.rstrip('.')} = {_expression(value)}"


def _expression(value: Any) -> str:
    if isinstance(value, Mapping):
        items = sorted(value.items(), key=lambda item: str(item[0]))
        if "_target_" in value:
            arguments = [f"{key}={_expression(x)}" for key, x in items if key != "_target_"]
            return f"{_callee(value['_target_'])}({', '.join(arguments)})"
        return "{" + ", ".join(f"{key!r}: {_expression(x)}" for key, x in items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_expression(x) for x in value) + "]"
    if inspect.isroutine(value) or isinstance(value, type):
        return _convert_target_to_string(value)
    return repr(value)


def _callee(target: Any) -> str:
    return target if isinstance(target, str) else _expression(target)
