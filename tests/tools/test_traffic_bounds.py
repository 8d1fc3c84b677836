"""The table of what can be reached on a dataset of clips."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("traffic_bounds", ROOT / "tools/traffic_bounds.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


def test_table(
    embedded_names: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The baseline starts at 100 %, and whoever knows the future is the best tracker."""
    monkeypatch.setattr(sys, "argv", ["traffic_bounds.py", "--dataset", "traffic_tiny_val"])
    tool.main()
    lines = capsys.readouterr().out.splitlines()
    rows = {}
    for line in lines[2:]:
        name, *values = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = [float(value) for value in values]
    assert len(rows) == 5 and len(lines[0].split("|")) == 10
    assert rows[tool.ANNOTATED][2] == 100.0
    trackers = {name: values for name, values in rows.items() if name.startswith("ideal tracker")}
    best = trackers.pop("ideal tracker, what happens")
    assert all(best[1] > values[1] for values in trackers.values())
