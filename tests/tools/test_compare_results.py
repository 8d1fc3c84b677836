"""Metrics of several evaluations side by side."""

import importlib.util
import json
from pathlib import Path

import pytest

from roca_nocs.evaluation.summary import DEFAULT_ROWS, SummaryRow, known_rows, summary_table

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location(
    "compare_results", ROOT / "tools" / "compare_results.py"
)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

DETECTOR = {"bbox": {"AP": 20.0, "AP50": 41.26}, "segm": {"AP50": 33.0}}
POSES = {
    "bbox": {"AP50": 52.0},
    "frame_box": {"AP50": 61.5},
    "alignment": {"instance": 12.5, "class": None},
    "detections": {"retrieval_accuracy": 70.04, "rotation_error": 0},
    "trivial_predictors": {"identity_rotation-instance": 1.25},
}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of both."""
    arguments = []
    for label, results in (("a detector", DETECTOR), ("poses", POSES)):
        path = tmp_path / f"{label}=1.json"  # only the first = parts
        path.write_text(json.dumps(results))
        arguments.append(f"{label}={path}")
    tool.main([*arguments, *options])
    header, _, *rows = capsys.readouterr().out.splitlines()
    return cells(header), [cells(row) for row in rows]


def test_default_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, rows = run(tmp_path, capsys)
    assert header == ["", "a detector", "poses"]
    # Those that one of them has; what is not defined has its row too.
    assert len(rows) == 7
    # The metric that both have, although the second one has the preferred one too.
    assert rows[0] == ["box AP50, %", "41.3", "52.0"]
    assert rows[1] == ["mask AP50, %", "33.0", "-"]
    assert ["alignment accuracy, mean of instances, %", "-", "12.5"] in rows
    assert ["- identity rotation", "-", "1.2"] in rows
    assert ["alignment accuracy, mean of classes, %", "-", "-"] in rows
    assert ["retrieval accuracy, %", "-", "70.0"] in rows
    assert ["rotation error, degrees", "-", "0.0"] in rows


def test_rows_of_which_nothing_is_known_are_left_out() -> None:
    assert known_rows([{}, {"bbox": None}], DEFAULT_ROWS) == []
    everything: dict[str, dict[str, float]] = {}
    for row in DEFAULT_ROWS:
        task, _, metric = row.keys[-1].rpartition("/")
        everything.setdefault(task, {})[metric] = 1.0
    assert known_rows([everything], DEFAULT_ROWS) == list(DEFAULT_ROWS)


def test_preferred_metric() -> None:
    assert summary_table([POSES], DEFAULT_ROWS[:1]) == [["box AP50, %", 61.5]]
    row = SummaryRow("x", ("absent/a", "frame_box/AP50", "segm/AP50"))
    assert summary_table([DETECTOR, POSES], [row]) == [["x", None, 61.5]]


def test_chosen_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, rows = run(tmp_path, capsys, "--metrics", "bbox/AP", "nothing/AP")
    assert rows == [["bbox/AP", "20.0", "-"], ["nothing/AP", "-", "-"]]


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        tool.main(["results.json"])
    assert stopped.value.code == 2
    assert "'results.json' is not LABEL=PATH" in capsys.readouterr().err
    file = tmp_path / "results.json"
    with pytest.raises(SystemExit, match=r"results\.json cannot be read: No such file"):
        tool.main([f"a={file}"])
    file.write_text("{")
    with pytest.raises(SystemExit, match=r"results\.json is no JSON"):
        tool.main([f"a={file}"])
    file.write_text("[]")
    with pytest.raises(SystemExit, match=r"results\.json holds no metrics"):
        tool.main([f"a={file}"])
