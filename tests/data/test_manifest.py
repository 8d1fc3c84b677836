"""A changed, truncated, damaged or incomplete dataset is noticed."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.synthetic import manifest as manifest_module
from roca_nocs.data.synthetic.manifest import (
    MANIFEST_NAME,
    FileWriter,
    Manifest,
    check_dataset,
    content_hash,
    damaged_files,
    data_hash,
    read_manifest,
    source_hash,
)
from roca_nocs.data.synthetic.presets import DatasetArguments

ARGUMENTS = DatasetArguments("rooms", train=4, val=2, width=64, height=48, seed=3)
REPAIR = "the command"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = FileWriter(tmp_path)
    for name in ("a/1.png", "a/2.png", "b.json"):
        writer.write(name, f"content of {name}".encode())
    past = time.time() - 100
    for name in writer.files:
        os.utime(tmp_path / name, (past, past))
    Manifest(ARGUMENTS, writer.files, "1", source_hash("rooms")).save(tmp_path)
    return tmp_path


def test_round_trip(folder: Path) -> None:
    read = check_dataset(folder, REPAIR, contents=True)
    assert read.arguments == ARGUMENTS and read.source == source_hash("rooms")
    assert sorted(read.files) == ["a/1.png", "a/2.png", "b.json"]
    assert read.files["b.json"] == (17, content_hash(b"content of b.json"))
    assert check_dataset(folder, REPAIR) == read


def edit(path: Path) -> None:
    """Same size, other content, as an editor would leave it."""
    path.write_bytes(path.read_bytes()[:-1] + b"!")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "is missing"),
    "truncated": (lambda path: os.truncate(path, 5), "has 5 bytes instead of 18"),
    "empty": (lambda path: os.truncate(path, 0), "has 0 bytes instead of 18"),
    "longer": (lambda path: os.truncate(path, 50), "has 50 bytes instead of 18"),
    "changed": (edit, "has been changed"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_with_the_command(folder: Path, damage: str) -> None:
    function, message = DAMAGES[damage]
    function(folder / "a" / "2.png")
    with pytest.raises(DatasetError, match=rf"a/2\.png {message}\. Only the damaged") as error:
        check_dataset(folder, REPAIR)
    assert "prepare_embedded.py --kind rooms --train 4 --val 2 --size 64x48 --seed 3" in str(
        error.value
    )
    assert f"--output {folder}" in str(error.value)


def test_several_damages_are_counted(folder: Path) -> None:
    (folder / "a" / "1.png").unlink()
    (folder / "b.json").unlink()
    with pytest.raises(DatasetError, match=r"1\.png is missing \(1 more files are damaged\)"):
        check_dataset(folder, REPAIR)


def test_silent_decay_is_found_by_verification_only(folder: Path) -> None:
    path = folder / "a" / "2.png"
    state = path.stat()
    edit(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    check_dataset(folder, REPAIR)
    with pytest.raises(DatasetError, match=r"2\.png has been changed"):
        check_dataset(folder, REPAIR, contents=True)


def test_copied_dataset_is_intact(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy") / "set"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    check_dataset(copy, REPAIR)


def test_incomplete_dataset(folder: Path) -> None:
    (folder / MANIFEST_NAME).unlink()
    with pytest.raises(DatasetError, match=r"is incomplete: .*Resume it with: the command"):
        check_dataset(folder, REPAIR)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("files"),
        lambda data: data["arguments"].__setitem__("width", -3),
        lambda data: data["arguments"].__setitem__("colour", 1),
        lambda data: data.__setitem__("files", ["a"]),
        lambda data: data["files"].pop("a/1.png"),
        lambda data: data["files"]["b.json"].__setitem__(0, 18),
    ],
)
def test_damaged_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / MANIFEST_NAME
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=r"manifest\.json is damaged.*: the command"):
        read_manifest(folder, REPAIR)


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_unreadable_manifest(folder: Path, content: str) -> None:
    (folder / MANIFEST_NAME).write_text(content)
    with pytest.raises(DatasetError, match=r"manifest\.json is damaged"):
        read_manifest(folder, REPAIR)


def test_other_generator_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    check_dataset(folder, REPAIR)
    assert not caplog.records
    monkeypatch.setattr(manifest_module, "source_hash", lambda kind: "other")
    check_dataset(folder, REPAIR)
    assert "was made by other source code of the generator" in caplog.text


def test_data_hash_depends_on_names_sizes_and_contents() -> None:
    files = {"a": (1, "x"), "b": (2, "y")}
    assert data_hash(files) == data_hash(dict(reversed(files.items())))
    others = [{"a": (1, "x")}, {**files, "b": (3, "y")}, {**files, "b": (2, "z")}, {}]
    assert len({data_hash(files), *map(data_hash, others)}) == 5


def test_damaged_files_of_nothing(tmp_path: Path) -> None:
    assert list(damaged_files(tmp_path, {})) == []


def test_json_refuses_what_other_readers_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        FileWriter(tmp_path).write_json("x.json", [float("nan")])
