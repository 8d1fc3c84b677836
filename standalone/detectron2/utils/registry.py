"""Names to objects and back: registries, and dotted import paths."""

import builtins
import importlib
import inspect
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """Find the object with the dotted path ``{module}.{qualname}``.

    Attributes of an importable module win over submodules of the same name, and objects nested in
    classes are found. A bare name is a top-level module or a builtin.

    Raises:
        ImportError: nothing lives at ``name``, or a module on the way to it fails to import.
    """
    parts = name.split(".")
    for size in range(len(parts) - 1, 0, -1):
        module = _import_or_none(".".join(parts[:size]), name)
        if module is None:
            continue
        found, value = _follow_attributes(module, parts[size:])
        if found:
            return value
    module = _import_or_none(name, name)
    if module is not None:
        return module
    if hasattr(builtins, name):
        return getattr(builtins, name)
    raise ImportError(
        f"Cannot locate object {name!r}: no module or attribute of that name exists; "
        "give the full dotted path 'package.module.name'."
    )


def _import_or_none(module_name: str, wanted: str) -> Any:
    """Import a module; None where it does not exist, an error where it exists but is broken."""
    if not all(part.isidentifier() for part in module_name.split(".")):
        return None
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            return None
        raise ImportError(
            f"Cannot locate object {wanted!r}: importing {module_name!r} needs the module "
            f"{missing!r}, which is not installed."
        ) from error


def _follow_attributes(root: Any, names: list[str]) -> tuple[bool, Any]:
    for name in names:
        try:
            root = getattr(root, name)
        except AttributeError:
            return False, None
    return True, root


def _is_located_at(name: str, target: Any) -> bool:
    try:
        found = locate(name)
    except ImportError:
        return False
    # Every access to a classmethod makes a new bound method, so identity is not enough there.
    return found is target or (inspect.ismethod(target) and found == target)


def _convert_target_to_string(t: Any) -> str:
    """Inverse of :func:`locate`: the shortest dotted path under which ``t`` is found.

    Dropping private middle modules keeps stored configs valid when an implementation moves.

    Raises:
        AttributeError: ``t`` has no ``__module__`` or ``__qualname__``.
    """
    module, qualname = t.__module__, t.__qualname__
    if module is None:
        raise AttributeError(f"{t!r} does not belong to a module")
    packages = module.split(".")
    for size in range(1, len(packages)):
        candidate = ".".join([*packages[:size], qualname])
        if _is_located_at(candidate, t):
            return candidate
    return f"{module}.{qualname}"
