"""Execution of config files written in Python, with relative imports that go by path."""

import ast
import builtins
import os
import uuid
from collections.abc import Mapping, Sequence
from types import CodeType, ModuleType
from typing import Any

from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig

_DIRECTORY_MESSAGE = (
    "Relative import of directories is not allowed within config files. "
    "Within a config file, relative import can only import other config files."
)


def to_config(value: Any) -> Any:
    """A dict as a ``DictConfig`` that may hold any object; other values unchanged."""
    return DictConfig(value, flags={"allow_objects": True}) if isinstance(value, dict) else value


def run_config_file(filename: str) -> ModuleType:
    """Execute a config file as a new module that is kept nowhere.

    Nothing global is changed: the module has its own ``__import__``, which resolves relative
    imports from the folder of the file, needs no packages and executes the imported file anew each
    time, so that changes made by one config never reach another.

    Args:
        filename: path of the file, absolute or relative to the working directory.

    Raises:
        SyntaxError: the file does not parse.
        ImportError: a relative import of a folder or of a file that does not exist.
    """
    code = _compile(filename)
    stem = os.path.splitext(os.path.basename(filename))[0]
    module = ModuleType(f"detectron2._cfg_loader.{stem}_{uuid.uuid4().hex[:8]}")
    module.__file__ = filename
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import_for_config}
    exec(code, module.__dict__)
    return module


def _compile(filename: str) -> CodeType:
    with PathManager.open(filename, "r") as file:
        source = file.read()
    try:
        tree = ast.parse(source, filename)
    except SyntaxError as error:
        raise SyntaxError(f"Config file {filename} has syntax error! {error}") from error
    # The file name in the code object is what tracebacks and load_rel see.
    return compile(tree, filename, "exec")


def _import_for_config(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] = (),
    level: int = 0,
) -> ModuleType:
    """What an import statement in a config file calls; see ``builtins.__import__``."""
    if level == 0:
        return builtins.__import__(name, globals, locals, fromlist, level)
    module = run_config_file(_resolve(globals["__file__"], name, level))
    namespace = vars(module)
    names = [key for key in namespace if key[0] != "_"] if "*" in fromlist else fromlist
    for key in names:
        if key in namespace:  # Python itself reports a missing name
            namespace[key] = to_config(namespace[key])
    return module


def _resolve(importing_file: str, name: str, level: int) -> str:
    if not name:
        raise ImportError(f"{importing_file}: {_DIRECTORY_MESSAGE}")
    is_remote = "://" in importing_file
    path = importing_file if is_remote else os.path.abspath(importing_file)
    for _ in range(level):
        path = os.path.dirname(path)
    path = os.path.join(path, *name.split("."))
    if PathManager.isfile(path + ".py"):
        return path + ".py"
    if PathManager.isdir(path):
        raise ImportError(f"Cannot import from {path}. {_DIRECTORY_MESSAGE}")
    raise ImportError(f"Cannot import name {name} from {importing_file}: {path}.py does not exist.")
