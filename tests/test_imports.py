"""Import rules: the direction between our packages and the closed list of detectron2 names."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from detectron2_names import ALLOWED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "projects" / "roca_nocs"

# What each part of the package may import of the others (itself always).
MAY_IMPORT = {
    "geometry": set(),
    "structures": {"geometry"},
    "layers": {"geometry", "structures"},
    "losses": {"geometry", "structures", "layers"},
    "modeling": {"geometry", "structures", "layers", "losses"},
    "data": {"geometry", "structures", "layers"},
    "evaluation": {"geometry", "structures", "layers", "data"},
    "engine": {"geometry", "structures", "layers", "losses", "modeling", "data"},
    "utils": {"geometry", "structures"},
    "visualization": {"geometry", "structures", "data", "utils"},
}
WITHOUT_DETECTRON2 = {"geometry", "layers", "losses"}
# The drivers may use everything.
DRIVERS = [ROOT / name for name in ("tools", "configs", "benchmarks", "datasets")]


def imports(file: Path) -> Iterator[tuple[str, str | None, int]]:
    """(module, name or None, line) of each absolute import in a file."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None, node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                for alias in node.names:
                    yield node.module or "", alias.name, node.lineno


def sources(*folders: Path) -> list[Path]:
    return sorted(file for folder in folders for file in folder.rglob("*.py"))


def is_allowed(module: str, name: str | None) -> bool:
    if name is None:
        return module in ALLOWED
    return name in ALLOWED.get(module, set()) or f"{module}.{name}" in ALLOWED


def test_detectron2_names_are_in_the_list() -> None:
    problems = [
        f"{file.relative_to(ROOT)}:{line}: {module} {name or ''}"
        for file in sources(PACKAGE, *DRIVERS)
        for module, name, line in imports(file)
        if module.split(".")[0] == "detectron2" and not is_allowed(module, name)
    ]
    assert not problems, "imported from detectron2 but not in tests/detectron2_names.py: " + str(
        problems
    )


@pytest.mark.parametrize("module", sorted(ALLOWED))
def test_listed_names_exist(module: str) -> None:
    """The whole list can be imported from whichever detectron2 is installed."""
    loaded = import_module(module)
    missing = sorted(name for name in ALLOWED[module] if not hasattr(loaded, name))
    assert not missing, f"{module} lacks {missing}"


def test_direction_between_packages() -> None:
    problems = []
    for file in sources(PACKAGE):
        part = file.relative_to(PACKAGE).with_suffix("").parts[0]
        if part == "__init__":
            continue
        for module, name, line in imports(file):
            parts = [*module.split("."), *([name] if name else [])]
            where = f"{file.relative_to(ROOT)}:{line}"
            if parts[0] == "detectron2" and part in WITHOUT_DETECTRON2:
                problems.append(f"{where}: {part} is free of detectron2")
            if parts[0] != "roca_nocs" or len(parts) < 2 or parts[1] in (part, "_C"):
                continue
            target = ".".join(parts[1:])
            if not any(target == a or target.startswith(a + ".") for a in MAY_IMPORT[part]):
                problems.append(f"{where}: {part} must not import {target}")
    assert not problems, problems


def test_relative_imports_stay_near() -> None:
    for file in sources(PACKAGE, ROOT / "configs"):
        for node in ast.walk(ast.parse(file.read_text())):
            assert not isinstance(node, ast.ImportFrom) or node.level <= 2, file


def test_standalone_knows_nothing_of_us() -> None:
    for file in sources(ROOT / "standalone"):
        for module, _, line in imports(file):
            assert module.split(".")[0] != "roca_nocs", f"{file}:{line}"


def test_package_does_not_ask_which_detectron2_it_got() -> None:
    for file in sources(PACKAGE, *DRIVERS):
        assert "standalone" not in ast.dump(ast.parse(file.read_text())) or file.name in (
            "make_env.py",
            "__init__.py",
        ), file


def test_modules_stay_small() -> None:
    folders = [PACKAGE, ROOT / "standalone", ROOT / "tools", ROOT / "configs"]
    lengths = {f: len(f.read_text().splitlines()) for f in sources(*folders)}
    assert {str(f): n for f, n in lengths.items() if n > 400} == {}
    assert lengths[ROOT / "tools" / "train_net.py"] < 150
