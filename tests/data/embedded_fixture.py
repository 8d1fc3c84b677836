"""The tiny embedded datasets, made once per test run and shared by the workers of pytest-xdist."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from roca_nocs.data.datasets.builtin import builtin_datasets, register_builtin
from roca_nocs.data.synthetic.generate import generate
from roca_nocs.data.synthetic.manifest import MANIFEST_NAME
from roca_nocs.data.synthetic.presets import KINDS, folder_name, preset_arguments


@pytest.fixture(scope="session")
def embedded_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset root with the preset ``tiny`` of every kind."""
    base = tmp_path_factory.getbasetemp()
    # Workers of xdist have base folders of their own below the one of the run.
    root = (base.parent if base.name.startswith("popen-") else base) / "embedded"
    root.mkdir(exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for kind in KINDS:
            folder = root / folder_name(kind, "tiny")
            if not (folder / MANIFEST_NAME).exists():
                generate(folder, preset_arguments(kind, "tiny"), progress=False)
    return root


@pytest.fixture
def embedded_names(embedded_root: Path) -> Iterator[Path]:
    """The built-in names registered below :func:`embedded_root` for the time of a test."""
    forget_builtin()
    register_builtin(embedded_root)
    yield embedded_root
    forget_builtin()
    register_builtin()


def forget_builtin() -> None:
    """Remove the built-in names, so that they can be registered below another root."""
    for dataset in builtin_datasets():
        for catalog in (DatasetCatalog, MetadataCatalog):
            if dataset.name in catalog.list():
                catalog.pop(dataset.name)
