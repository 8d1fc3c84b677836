"""Settings and fixtures that all tests share."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)

with warnings.catch_warnings():
    # The real detectron2 scripts functions at import, which current torch calls deprecated.
    warnings.simplefilter("ignore")
    import detectron2

# How long an example takes depends on the machine: it is no property of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

STANDALONE = detectron2.__version__.endswith("+standalone")

pytest_plugins = ["data.embedded_fixture"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow too")


def pytest_configure(config: pytest.Config) -> None:
    if not STANDALONE:
        # Warnings raised inside the real detectron2 are not ours to mend.
        config.addinivalue_line("filterwarnings", "ignore:::detectron2")


def pytest_report_header() -> str:
    return f"detectron2 {detectron2.__version__}, torch {torch.__version__}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skips = {
        "standalone_only": (not STANDALONE, "a defect of the real detectron2"),
        "gpu": (not torch.cuda.is_available(), "needs a CUDA device"),
        "slow": (not config.getoption("--run-slow"), "slow; run with --run-slow"),
    }
    for item in items:
        for marker, (skipped, reason) in skips.items():
            if skipped and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the golden arrays: $GOLDEN_DIR, by default tests/golden."""
    return Path(os.environ.get("GOLDEN_DIR", Path(__file__).parent / "golden"))
