"""The README and the pages in docs/ are true: links, commands, options, code."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = [ROOT / "datasets", ROOT / "models"]
PAGES = [
    ROOT / "README.md",
    *(folder / "README.md" for folder in FOLDERS),
    *sorted((ROOT / "docs").glob("*.md")),
]
SCRIPTS = ("tools/", "datasets/")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every command line in a bash block."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    found.append((page.name, words))
    return found


@cache
def help_text(script: str) -> str:
    command = [sys.executable, "-W", "ignore", str(ROOT / script), "--help"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda v: " ".join(v)[:60])
def test_commands_can_be_run(page: str, words: list[str]) -> None:
    """Make knows its targets, and a script exists and takes the options that are shown."""
    if words[0] == "python":
        words = words[1:]
    if words[0] == "make":
        for target in words[1:]:
            subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
        return
    if words[0].startswith(SCRIPTS):
        for option in (word.split("=")[0] for word in words[1:] if word.startswith("--")):
            assert option in help_text(words[0]), f"{words[0]} has no {option}"
        for word in words[1:]:
            if word.startswith("configs/"):
                assert (ROOT / word).is_file(), word
        return
    assert words[0] in ("pip", "torchrun", "export", "cd", "git"), words


def test_scripts_are_executable() -> None:
    for _, words in commands():
        if words[0].startswith(SCRIPTS):
            script = ROOT / words[0]
            assert script.stat().st_mode & 0o100, f"{words[0]} is not executable"
            assert script.read_text().startswith("#!/usr/bin/env python")


def test_code_blocks_compile() -> None:
    for page in PAGES:
        for block in blocks(page, "python"):
            compile(block, str(page), "exec")
