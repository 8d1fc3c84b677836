"""Running the scripts of tools/ as users do, and reading what a training logged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(**variables: str) -> dict[str, str]:
    """Of a program for which modules of tests/ can be imported."""
    paths = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths, **variables}


def run_script(script: str, *arguments: str, datasets: Path) -> str:
    """Run a script of tools/, for which modules of tests/ can be imported: what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "tools" / script), *arguments],
        env=environment(DETECTRON2_DATASETS=str(datasets)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def training_history(output: Path) -> list[dict[str, float]]:
    """The logged iterations of a run in this folder."""
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return [line for line in lines if "total_loss" in line]


def mean(lines: list[dict[str, float]], name: str) -> float:
    """Of a logged value."""
    return sum(line[name] for line in lines) / len(lines)
