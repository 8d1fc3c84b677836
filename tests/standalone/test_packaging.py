"""How standalone/ is installed: editable only, and behind a real detectron2."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import detectron2
import pytest
from detectron2.utils.collect_env import collect_env_info

STANDALONE = Path(__file__).parents[2] / "standalone"
VERSION = "0.6+standalone"
# Import name of each requirement where the two differ.
IMPORT_NAMES = {"pillow": "PIL", "hydra-core": "hydra", "pyyaml": "yaml"}


def run_python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def call_backend(project: Path, hook: str, *arguments: str) -> subprocess.CompletedProcess:
    """Call a hook of the build backend as pip does: in the project's folder, without isolation."""
    code = (
        "import sys; sys.path.insert(0, '_build'); import editable_only; "
        f"print(editable_only.{hook}(*{arguments!r}))"
    )
    return run_python("-c", code, cwd=project)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of standalone/, so that building leaves nothing in the working tree."""
    pytest.importorskip("setuptools")
    copy = tmp_path_factory.mktemp("checkout") / "standalone"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(STANDALONE, copy, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def editable_wheel(project, tmp_path_factory) -> Path:
    """What pip unpacks into site-packages for ``pip install -e``."""
    folder = tmp_path_factory.mktemp("wheel")
    result = call_backend(project, "build_editable", str(folder))
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture
def site_packages(editable_wheel, tmp_path) -> Path:
    """A folder that takes the place of site-packages, with the editable installation in it."""
    folder = tmp_path / "site-packages"
    zipfile.ZipFile(editable_wheel).extractall(folder)
    return folder


def import_with(site_packages: Path, code: str) -> subprocess.CompletedProcess:
    """Run code in an interpreter that has nothing but the standard library and the folder."""
    add_site = f"import site; site.addsitedir({str(site_packages)!r}); "
    return run_python("-I", "-S", "-c", add_site + code)


def put_real_detectron2(site_packages: Path, source: str) -> None:
    package = site_packages / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text(source)


# --- Which one wins -----------------------------------------------------------------------


def test_version_tells_which_one_is_used():
    here = Path(detectron2.__file__).resolve()
    expected = VERSION if here.is_relative_to(STANDALONE.resolve()) else "0.6"
    assert detectron2.__version__ == expected
    assert expected in collect_env_info()


def test_subset_is_found_where_nothing_else_is(site_packages, project):
    result = import_with(
        site_packages, "import detectron2; print(detectron2.__version__, detectron2.__file__)"
    )
    assert result.stdout.split() == [VERSION, str(project / "detectron2" / "__init__.py")]


def test_real_one_installed_later_wins(site_packages):
    put_real_detectron2(site_packages, '__version__ = "0.6"\n')
    result = import_with(site_packages, "import detectron2; print(detectron2.__version__)")
    assert result.stdout.strip() == "0.6", result.stderr


def test_broken_real_one_is_not_papered_over(site_packages):
    put_real_detectron2(site_packages, "import some_missing_dependency\n")
    result = import_with(site_packages, "import detectron2")
    assert result.returncode != 0
    assert "ModuleNotFoundError: No module named 'some_missing_dependency'" in result.stderr


def test_nothing_is_put_in_the_place_of_the_real_one(editable_wheel, project):
    with zipfile.ZipFile(editable_wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert len(names) == 1
        assert names[0].endswith(".pth")
        assert archive.read(names[0]).decode().strip() == str(project)


# --- The distribution ---------------------------------------------------------------------


def test_name_and_version_of_the_distribution(site_packages):
    (distribution,) = importlib.metadata.distributions(path=[str(site_packages)])
    assert distribution.metadata["Name"] == "detectron2-standalone"
    assert distribution.version == VERSION


@pytest.mark.parametrize(
    "hook", ["get_requires_for_build_wheel", "build_wheel", "get_requires_for_build_sdist"]
)
def test_regular_build_is_refused(project, tmp_path, hook):
    arguments = [str(tmp_path)] if hook == "build_wheel" else []
    result = call_backend(project, hook, *arguments)
    assert result.returncode != 0
    assert "pip install -e ./standalone" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_pip_shows_the_refusal(project, tmp_path):
    pytest.importorskip("pip")
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(tmp_path)]
    result = run_python("-m", "pip", "wheel", str(project), *options)
    assert result.returncode != 0
    assert "can only be installed in editable mode" in result.stdout + result.stderr
    assert list(tmp_path.iterdir()) == []


def imported_packages(folder: Path) -> set[str]:
    packages = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                packages |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                packages.add(node.module.partition(".")[0])
    return packages


def test_imports_are_declared():
    settings = tomllib.loads((STANDALONE / "pyproject.toml").read_text())
    requirements = settings["project"]["dependencies"]
    names = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}
    declared = {IMPORT_NAMES.get(name, name) for name in names}
    foreign = imported_packages(STANDALONE / "detectron2") - set(sys.stdlib_module_names)
    optional = {"black"}  # only nicer source code from LazyConfig.to_py
    assert foreign - {"detectron2"} <= declared | optional
    assert not {"cv2", "scipy", "roca_nocs"} & foreign
    through_torch = {"tensorboard"}  # imported by torch.utils.tensorboard
    assert declared <= foreign | through_torch, "a declared dependency is not imported"
