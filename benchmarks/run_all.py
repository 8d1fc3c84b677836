"""Runs every benchmark and writes their table to docs/performance.md (`make bench`)."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch

HERE = Path(__file__).parent
REPORT = HERE.parent / "docs" / "performance.md"
HEADER = """# Performance

Written by `make bench`: each row is the median of at least five runs after two warm-ups, the
baseline and our code taking turns in one process on the same inputs. `ratio` is baseline over ours.
Absolute times depend on the machine; compare the ratios. Rows in MB are peaks of memory.

Machine: {machine}. Python {python}, torch {torch}. {date}.

| what | device | threads | baseline | ours | ratio |
|---|---|---|---|---|---|
"""


def machine() -> str:
    """The processor's name and the number of cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if names:
            name = f"{names[0].split(':')[1].strip()}, {len(names)} cores"
    return name


def run(script: Path) -> list[dict]:
    """The JSON objects that a script prints, one a line."""
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    rows = []
    for line in process.stdout:
        print(line, end="", flush=True)
        if line.startswith("{"):
            rows.append(json.loads(line))
    if process.wait() != 0:
        sys.exit(f"{script.name} failed with exit status {process.returncode}")
    return rows


def line(row: dict) -> str:
    """A row of the table; the names of its two figures end with their unit."""
    unit = "MB" if "baseline_mb" in row else "ms"
    figures = (f"{row[f'{side}_{unit.lower()}']} {unit}" for side in ("baseline", "ours"))
    cells = (row["name"], row["device"], row["threads"], *figures, row["ratio"])
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def main() -> None:
    helpers = {"run_all.py", "timing.py"}
    scripts = [path for path in sorted(HERE.glob("*.py")) if path.name not in helpers]
    rows = [row for script in scripts for row in run(script)]
    header = HEADER.format(
        machine=machine(),
        python=platform.python_version(),
        torch=torch.__version__,
        date=date.today().isoformat(),
    )
    REPORT.write_text(header + "\n".join(line(row) for row in rows) + "\n")
    print(f"{len(rows)} rows written to {REPORT}")


if __name__ == "__main__":
    main()
