"""tools/make_env.py: one clear sentence for what the user has to mend; nothing done twice."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "make_env.py"


@pytest.fixture
def make_env():
    spec = importlib.util.spec_from_file_location("make_env", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_missing_compiler_is_one_sentence(tmp_path: Path) -> None:
    result = run(["--venv", str(tmp_path / "venv")], PATH=str(tmp_path))
    assert result.returncode == 1
    assert "no compiler was found" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "venv").exists()


def test_unknown_choice_is_one_sentence(tmp_path: Path) -> None:
    result = run(["--venv", str(tmp_path / "venv")], PATH="/usr/bin", DETECTRON2="mine")
    assert result.returncode == 1
    assert 'must be "real", "standalone" or unset, got "mine"' in result.stderr


def test_wrong_python_looks_for_a_supported_one(make_env, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(make_env.sys, "version_info", (3, 9, 1))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(make_env.SetupError, match=r"needs Python 3\.11, 3\.12 or 3\.13"):
        make_env.find_python()
    broken = tmp_path / "python3.13"
    broken.write_text("#!/bin/sh\nexit 127\n")
    working = tmp_path / "python3.12"
    working.write_text("#!/bin/sh\nexit 0\n")
    for file in (broken, working):
        file.chmod(0o755)
    assert make_env.find_python() == str(working)


def test_full_disk_is_one_sentence(make_env, monkeypatch, tmp_path: Path) -> None:
    usage = make_env.shutil.disk_usage(tmp_path)._replace(free=2**30)
    monkeypatch.setattr(make_env.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(make_env.SetupError, match=r"about 8 GiB and .* has 1\.0 GiB free"):
        make_env.check_disk(tmp_path)


def environment_with_stamp(make_env, folder: Path, version: str):
    environment = make_env.Environment(folder)
    environment.python.parent.mkdir(parents=True)
    environment.python.touch()
    environment.stamp.write_text(f"{make_env.fingerprint()}\n{version}\n")
    return environment


@pytest.mark.parametrize(
    ("version", "choice", "current"),
    [
        ("0.6", "auto", True),
        ("0.6", "real", True),
        ("0.6", "standalone", False),
        ("0.6+standalone", "standalone", True),
        ("0.6+standalone", "real", False),
    ],
)
def test_a_finished_environment_is_left_alone(
    make_env, tmp_path: Path, version: str, choice: str, current: bool
) -> None:
    environment = environment_with_stamp(make_env, tmp_path / "venv", version)
    assert make_env.is_current(environment, choice) is current


def test_changed_sources_bring_it_up_to_date(make_env, monkeypatch, tmp_path: Path) -> None:
    environment = environment_with_stamp(make_env, tmp_path / "venv", "0.6+standalone")
    monkeypatch.setenv("FORCE_CUDA", "1-changed")
    assert not make_env.is_current(environment, "auto")


def pretend_detectron2(make_env, monkeypatch, folder: Path, module: str):
    """An environment whose interpreter finds a given detectron2/__init__.py, or none."""
    if module:
        (folder / "detectron2").mkdir()
        (folder / "detectron2" / "__init__.py").write_text(module)
    environment = make_env.Environment(folder)
    monkeypatch.setattr(environment, "run", lambda code: run_isolated(folder, code))
    return environment


def run_isolated(folder: Path, code: str) -> str:
    prefix = "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p and "
    prefix += f"'standalone' not in p and 'projects' not in p] + [{str(folder)!r}]\n"
    command = [sys.executable, "-I", "-S", "-c", prefix + code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_detectron2_is_only_missing_when_it_is_missing(
    make_env, monkeypatch, tmp_path: Path
) -> None:
    """The subset never papers over a broken installation."""
    for name, module, version in (("a", "", None), ("b", "__version__ = '0.6'", "0.6")):
        folder = tmp_path / name
        folder.mkdir()
        environment = pretend_detectron2(make_env, monkeypatch, folder, module)
        assert make_env.detectron2_version(environment) == version
    for name, module in (("c", "import a_missing_dependency"), ("d", "raise ImportError('ABI')")):
        folder = tmp_path / name
        folder.mkdir()
        environment = pretend_detectron2(make_env, monkeypatch, folder, module)
        with pytest.raises(make_env.SetupError, match=r"cannot be imported.*(?s:.)*(missing|ABI)"):
            make_env.detectron2_version(environment)


def test_real_is_demanded_or_tried(make_env, monkeypatch, tmp_path: Path) -> None:
    installed: list[tuple[str, ...]] = []
    environment = make_env.Environment(tmp_path)
    monkeypatch.setattr(environment, "pip", lambda *a, **k: installed.append(a))
    monkeypatch.setattr(make_env, "detectron2_version", lambda e: None)
    monkeypatch.setattr(make_env, "install_real_detectron2", lambda e: "no network")
    with pytest.raises(make_env.SetupError, match="DETECTRON2=real was asked for, but no network"):
        make_env.install_detectron2(environment, "real")
    assert installed == []
    make_env.install_detectron2(environment, "auto")
    assert installed == [("--no-build-isolation", "-e", "./standalone")]
    monkeypatch.setattr(make_env, "detectron2_version", lambda e: "0.6")
    with pytest.raises(make_env.SetupError, match=r"holds the real detectron2 0\.6"):
        make_env.install_detectron2(environment, "standalone")


def test_unreachable_repository_is_noticed_quickly(make_env, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(make_env, "DETECTRON2_URL", str(tmp_path / "nowhere.git"))
    problem = make_env.install_real_detectron2(make_env.Environment(tmp_path))
    assert "cannot be reached" in problem
