"""Seeds, versions, and which detectron2 is imported."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import detectron2
import numpy as np
import pytest
import torch
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import TORCH_VERSION, seed_all_rng

STANDALONE_ROOT = Path(__file__).resolve().parents[2] / "standalone"


@pytest.fixture(autouse=True)
def keep_random_states(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_seed_all_rng():
    seed_all_rng(42)
    assert os.environ["PYTHONHASHSEED"] == "42"
    first = draw()
    assert first != draw()
    seed_all_rng(42)
    assert draw() == first
    assert first[0] == random.Random(42).random()
    assert first[1] == np.random.RandomState(42).rand()


def test_random_seed_is_logged(caplog):
    caplog.set_level("INFO", logger="detectron2.utils.env")
    seed_all_rng()
    first = draw()
    (record,) = caplog.records
    seed = int(record.getMessage().split()[-1])
    assert "Using a generated random seed" in record.getMessage()
    seed_all_rng(seed)
    assert draw() == first


def test_torch_version():
    assert ".".join(map(str, TORCH_VERSION)) == ".".join(torch.__version__.split(".")[:2])


def test_environment_report():
    report = collect_env_info()
    expected = (
        sys.platform,
        detectron2.__version__ + " @" + os.path.dirname(detectron2.__file__),
        torch.__version__,
        np.__version__,
        "GPU available",
        "PyTorch built with",
    )
    for part in expected:
        assert part in report


@pytest.mark.standalone_only
def test_version_of_this_environment():
    assert detectron2.__version__ == "0.6+standalone"
    assert Path(detectron2.__file__).parents[1] == STANDALONE_ROOT


def imported_version(site_packages: Path) -> str:
    """What ``import detectron2`` gives where the folder is the only site-packages."""
    code = (
        f"import site; site.addsitedir({str(site_packages)!r})\n"
        "import detectron2; print(detectron2.__version__)"
    )
    return subprocess.check_output([sys.executable, "-I", "-S", "-c", code], text=True).strip()


def test_a_real_installation_wins_over_the_editable_subset(tmp_path):
    # An editable installation is a path entry behind the folder that holds real packages.
    (tmp_path / "__editable__.detectron2_standalone.pth").write_text(f"{STANDALONE_ROOT}\n")
    assert imported_version(tmp_path) == "0.6+standalone"
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2/__init__.py").write_text('__version__ = "0.6"\n')
    assert imported_version(tmp_path) == "0.6"
    shutil.rmtree(tmp_path / "detectron2")
    assert imported_version(tmp_path) == "0.6+standalone"
