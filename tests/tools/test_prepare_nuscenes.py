"""The command that converts nuScenes and Lyft."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from data.nuscenes_files import write_tables


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "datasets" / "prepare_nuscenes.py"
    spec = importlib.util.spec_from_file_location("prepare_nuscenes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_converts_to_where_the_names_look(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    tables = write_tables(tmp_path / "tables", ("scene-0103", "scene-0916", "scene-0061"))
    assert script.main(["--tables", str(tables)]) == 0
    root = tmp_path / "sets" / "nuscenes_bev"
    assert f"{root}: train 3 clips, val 6 clips" in capsys.readouterr().out
    assert script.main(["--tables", str(tables), "--raster", "fiery"]) == 1
    assert "holds another conversion" in capsys.readouterr().err
    other = write_tables(tmp_path / "other", ("scene-0001",))
    assert script.main(["--tables", str(other), "--output", str(tmp_path / "x")]) == 1
    assert "is in no table" in capsys.readouterr().err
