"""Makes the project's virtual environment; `make env` calls it. Needs the standard library only.

Steps, each skipped when it is already done: the virtual environment, torch and torchvision,
detectron2 (the real one where its git repository can be reached, otherwise the subset in
standalone/), roca_nocs with its compiled operators. Safe to interrupt and to repeat.

The environment variable DETECTRON2 chooses: "real" (an error where it cannot be had),
"standalone" (no attempt at the real one), or unset (try, then fall back).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUPPORTED = [(3, 11), (3, 12), (3, 13)]
DETECTRON2_URL = "https://github.com/facebookresearch/detectron2.git"
DETECTRON2_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"
PROBE_SECONDS = 15
BUILD_SECONDS = 1200
NEEDED_GIB = 8


class SetupError(Exception):
    """A problem that the user can solve; its text says how."""


def say(text: str) -> None:
    print(f"[env] {text}", flush=True)


def find_python() -> str:
    """The interpreter for the environment: this one, or a supported one on the PATH."""
    if sys.version_info[:2] in SUPPORTED:
        return sys.executable
    for major, minor in reversed(SUPPORTED):
        found = shutil.which(f"python{major}.{minor}")
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    raise SetupError(
        f"roca_nocs needs Python 3.11, 3.12 or 3.13; this is {sys.version.split()[0]} and no other "
        "is on the PATH. Install one and run: make env PYTHON=/path/to/python3.12"
    )


def check_compiler() -> None:
    """Raises SetupError where there is no C++ compiler."""
    candidates = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    if not any(name and shutil.which(name.split()[0]) for name in candidates):
        raise SetupError(
            "roca_nocs compiles C++ operators and no compiler was found (c++, g++, clang++, $CXX). "
            "On Debian or Ubuntu: apt-get install g++"
        )


def check_disk(folder: Path) -> None:
    """Raises SetupError where the environment would not fit."""
    free = shutil.disk_usage(folder).free / 2**30
    if free < NEEDED_GIB:
        raise SetupError(
            f"the environment takes about {NEEDED_GIB} GiB and {folder} has {free:.1f} GiB free."
        )


class Environment:
    """A virtual environment and the commands that fill it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.stamp = folder / "roca_nocs_env"

    def create(self) -> None:
        probe = [str(self.python), "-m", "pip", "--version"]
        if self.python.exists() and subprocess.run(probe, capture_output=True).returncode == 0:
            return
        check_disk(self.folder.parent)
        interpreter = find_python()
        say(f"creating {self.folder} with {interpreter}")
        subprocess.run([interpreter, "-m", "venv", "--clear", str(self.folder)], check=True)

    def pip(self, *arguments: str, timeout: float | None = None) -> None:
        command = [str(self.python), "-m", "pip", "install", "--quiet", "--no-input"]
        command += ["-c", str(ROOT / "constraints.txt"), *arguments]
        subprocess.run(command, check=True, cwd=ROOT, timeout=timeout)

    def run(self, code: str) -> str:
        """What the environment's Python prints for ``code``; raises CalledProcessError."""
        command = [str(self.python), "-W", "ignore", "-c", code]
        result = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/")
        return result.stdout.strip()

    def has(self, module: str) -> bool:
        """Whether ``module`` can be found, without importing it."""
        found = self.run(f"import importlib.util as u; print(u.find_spec({module!r}) is not None)")
        return found == "True"


def detectron2_version(environment: Environment) -> str | None:
    """The installed detectron2's version, None without one.

    Raises:
        SetupError: it is installed and cannot be imported; its own error is in the text.
    """
    code = (
        "try:\n"
        "    import detectron2\n"
        "    print(detectron2.__version__)\n"
        "except ModuleNotFoundError as error:\n"
        "    if error.name != 'detectron2':\n"
        "        raise\n"
    )
    try:
        return environment.run(code) or None
    except subprocess.CalledProcessError as error:
        raise SetupError(
            f"the installed detectron2 cannot be imported; mend or remove it.\n{error.stderr}"
        ) from error


def install_real_detectron2(environment: Environment) -> str | None:
    """Builds detectron2 from its repository; returns why it could not, or None."""
    if shutil.which("git") is None:
        return "git is not installed"
    try:
        subprocess.run(
            ["git", "ls-remote", "--exit-code", DETECTRON2_URL, "HEAD"],
            check=True,
            capture_output=True,
            timeout=PROBE_SECONDS,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        )
    except subprocess.TimeoutExpired:
        return f"{DETECTRON2_URL} did not answer within {PROBE_SECONDS} s"
    except subprocess.CalledProcessError:
        return f"{DETECTRON2_URL} cannot be reached"
    say("building the real detectron2 (some minutes)")
    requirement = f"git+{DETECTRON2_URL}@{DETECTRON2_COMMIT}"
    try:
        environment.pip("--no-build-isolation", requirement, timeout=BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        return f"its build took over {BUILD_SECONDS} s"
    except subprocess.CalledProcessError:
        return "its build failed (see above)"
    return None


def install_detectron2(environment: Environment, choice: str) -> str:
    """Installs the chosen detectron2 where there is none; returns its version."""
    version = detectron2_version(environment)
    is_real = version is not None and not version.endswith("+standalone")
    if choice == "standalone" and is_real:
        raise SetupError(
            f"DETECTRON2=standalone was asked for, but {environment.folder} holds the real "
            f"detectron2 {version}; delete the folder and run again."
        )
    if not is_real and choice != "standalone" and not (choice == "auto" and version):
        problem = install_real_detectron2(environment)
        if problem and choice == "real":
            raise SetupError(f"DETECTRON2=real was asked for, but {problem}.")
        if problem:
            say(f"the real detectron2 is not to be had ({problem}); using standalone/")
    if detectron2_version(environment) is None:
        say("installing the detectron2 subset of standalone/")
        environment.pip("--no-build-isolation", "-e", "./standalone")
    return detectron2_version(environment) or ""


def fingerprint() -> str:
    """Changes whenever the environment has to be brought up to date."""
    digest = hashlib.sha256()
    files = [ROOT / "requirements.txt", ROOT / "constraints.txt", ROOT / "setup.py"]
    files += [ROOT / "standalone" / "pyproject.toml", Path(__file__).resolve()]
    files += sorted((ROOT / "projects/roca_nocs/layers/csrc").rglob("*.*"))
    for file in files:
        digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    for name in ("FORCE_CUDA", "TORCH_CUDA_ARCH_LIST"):
        digest.update(os.environ.get(name, "").encode() + b";")
    return digest.hexdigest()


def is_current(environment: Environment, choice: str) -> bool:
    if not (environment.python.exists() and environment.stamp.exists()):
        return False
    recorded = environment.stamp.read_text().splitlines()
    if recorded[0] != fingerprint():
        return False
    kind = "standalone" if recorded[1].endswith("+standalone") else "real"
    return choice in ("auto", kind)


def make(folder: Path, choice: str) -> None:
    environment = Environment(folder)
    if is_current(environment, choice):
        return
    check_compiler()
    environment.stamp.unlink(missing_ok=True)
    environment.create()
    say("build tools, torch and torchvision (several GB on the first run)")
    # torch that is already there is kept, whatever its build.
    present = [name for name in ("torch", "torchvision") if environment.has(name)]
    requirements = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [line for line in requirements if line and line[0] != "#" and line not in present]
    environment.pip("--upgrade", "pip", *wanted)
    version = install_detectron2(environment, choice)
    say("compiling and installing roca_nocs")
    environment.pip("--no-build-isolation", "-e", ".[dev,eval,viz]")
    environment.run("import roca_nocs")
    environment.stamp.write_text(f"{fingerprint()}\n{version}\n")
    say(f"ready: {folder}, detectron2 {version}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    choice = os.environ.get("DETECTRON2", "") or "auto"
    folder = parser.parse_args().venv.absolute()
    try:
        if choice not in ("auto", "real", "standalone"):
            raise SetupError(f'DETECTRON2 must be "real", "standalone" or unset, got "{choice}".')
        make(folder, choice)
    except SetupError as error:
        sys.exit(f"[env] {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"[env] a step failed: {' '.join(map(str, error.cmd))}\n{error.stderr or ''}")
    except KeyboardInterrupt:
        sys.exit("\n[env] interrupted; run the same command again to go on.")


if __name__ == "__main__":
    main()
