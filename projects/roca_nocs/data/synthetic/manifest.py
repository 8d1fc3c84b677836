"""What a generated folder holds: sizes and hashes of its files, and who made it.

The manifest is written last, so a folder without one is incomplete. Loading a dataset compares the
size of every file with it, and the content of every file that is younger than the manifest, i.e.
touched after generation; ``prepare_embedded.py --verify`` compares the content of all files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..coco_json import DatasetError, read_json
from .presets import DatasetArguments

logger = logging.getLogger(__name__)

GENERATOR_VERSION = "2"
MANIFEST_NAME = "manifest.json"

_SOURCES_OF_ONE_KIND = {
    "write_rooms.py": "rooms",
    "tabletop.py": "tabletop",
    "write_tabletop.py": "tabletop",
    "vessels.py": "tabletop",
    "street.py": "street",
    "roads.py": "street",
    "write_street.py": "street",
    "cars.py": "street",
    "people.py": "street",
    "kitti_files.py": "street",
    "box3d_records.py": "street",
    "traffic.py": "traffic",
    "traffic_agents.py": "traffic",
    "traffic_roads.py": "traffic",
    "write_traffic.py": "traffic",
    "bev_clip.py": "traffic",
    "bev_raster.py": "traffic",
    "bev_visibility.py": "traffic",
}
"""Source files that only one kind of dataset depends on; all others belong to every kind."""

FileTable = dict[str, tuple[int, str]]
"""Path relative to the dataset folder -> (size in bytes, hash)."""


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    Attributes:
        arguments: what the dataset was made from.
        files: every file of the dataset.
        generator_version: changes when the same arguments are meant to give other data.
        source: hash over the generator's source.
    """

    arguments: DatasetArguments
    files: FileTable
    generator_version: str
    source: str

    def save(self, root: Path) -> None:
        """Write ``root/manifest.json`` in one step."""
        data = {
            "generator_version": self.generator_version,
            "source": self.source,
            "arguments": self.arguments.as_dict(),
            "data": data_hash(self.files),
            "files": {name: list(self.files[name]) for name in sorted(self.files)},
        }
        temporary = root / f"{MANIFEST_NAME}.part"
        temporary.write_text(json.dumps(data, indent=0) + "\n", encoding="utf-8")
        os.replace(temporary, root / MANIFEST_NAME)


class FileWriter:
    """Writes files below a root and keeps their sizes and hashes, taken from memory."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.files: FileTable = {}

    def write(self, name: str, content: bytes) -> None:
        """Write ``content`` to ``root/name`` (with ``/`` as separator), making its folder."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.files[name] = (len(content), content_hash(content))

    def write_text(self, name: str, text: str) -> None:
        """Write text in UTF-8."""
        self.write(name, text.encode("utf-8"))

    def write_json(self, name: str, data: Any) -> None:
        """Write compact JSON that every reader accepts (no NaN)."""
        self.write_text(name, json.dumps(data, separators=(",", ":"), allow_nan=False) + "\n")


def content_hash(content: bytes) -> str:
    """Hash of a file's content: 16 bytes of BLAKE2b, as hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def data_hash(files: Mapping[str, tuple[int, str]]) -> str:
    """One hash over names, sizes and contents of all files, whatever their order."""
    lines = (f"{name} {files[name][0]} {files[name][1]}\n" for name in sorted(files))
    return content_hash("".join(lines).encode("utf-8"))


@cache
def source_hash(kind: str) -> str:
    """Hash over the source files that decide what a kind of dataset holds, read once per process.

    Work on one kind leaves the folders of the others valid.
    """
    package = Path(__file__).parent
    sources = sorted(package.rglob("*.py"))
    sources += (
        package.parent / name
        for name in ("bev_clip.py", "bev_raster.py", "bev_visibility.py", "cad_catalog.py")
    )
    sources += (
        package.parent / "datasets" / name for name in ("box3d_records.py", "kitti_files.py")
    )
    digest = hashlib.blake2b(digest_size=16)
    for path in sources:
        if _SOURCES_OF_ONE_KIND.get(path.name, kind) != kind:
            continue
        digest.update(path.name.encode("utf-8") + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def read_manifest(root: str | os.PathLike[str], repair: str) -> Manifest:
    """Read the manifest of a generated folder.

    Args:
        root: the folder.
        repair: command that makes or repairs it, for the message.

    Raises:
        DatasetError: there is no manifest, or it is damaged.
    """
    path = Path(root) / MANIFEST_NAME
    if not path.is_file():
        raise DatasetError(
            f"{root} is incomplete: it has no {MANIFEST_NAME}, which generation writes last. "
            f"Resume it with: {repair}"
        )
    try:
        data = read_json(path)
        files = {name: (int(size), str(digest)) for name, (size, digest) in data["files"].items()}
        manifest = Manifest(
            DatasetArguments(**data["arguments"]), files, data["generator_version"], data["source"]
        )
        intact = data["data"] == data_hash(files)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DatasetError(f"{path} is damaged ({error}). Repair it with: {repair}") from error
    if not intact:
        raise DatasetError(
            f"{path} is damaged: its list of files differs from the hash over it. "
            f"Repair it with: {repair}"
        )
    return manifest


def damaged_files(
    root: str | os.PathLike[str],
    files: Mapping[str, tuple[int, str]],
    younger_than: int | None = None,
) -> Iterator[tuple[str, str]]:
    """Compare files with what they are expected to be.

    Args:
        root: folder that the names are relative to.
        files: expected sizes and hashes.
        younger_than: compare the content only of files changed at this time or later
            (nanoseconds since the epoch); ``None`` compares every content.

    Yields:
        (name, what is wrong) of each damaged file.
    """
    base = os.fspath(root)
    for name, (size, digest) in files.items():
        path = os.path.join(base, name)
        try:
            state = os.stat(path)
        except OSError:
            yield name, "is missing"
            continue
        if state.st_size != size:
            yield name, f"has {state.st_size} bytes instead of {size}"
        elif younger_than is None or state.st_mtime_ns >= younger_than:
            if content_hash(Path(path).read_bytes()) != digest:
                yield name, "has been changed"


def check_dataset(root: str | os.PathLike[str], repair: str, *, contents: bool = False) -> Manifest:
    """Check a generated folder against its manifest.

    Args:
        root: the folder.
        repair: command that makes it, for a folder without a readable manifest.
        contents: compare the content of all files; otherwise sizes, and the content of the files
            touched after generation (about 0.1 s for 3000 images).

    Returns:
        The manifest.

    Raises:
        DatasetError: names the first damaged file, counts the others and gives the command.
    """
    root = Path(root)
    manifest = read_manifest(root, repair)
    finished = (root / MANIFEST_NAME).stat().st_mtime_ns
    damaged = list(damaged_files(root, manifest.files, None if contents else finished))
    if damaged:
        name, problem = damaged[0]
        others = f" ({len(damaged) - 1} more files are damaged)" if len(damaged) > 1 else ""
        raise DatasetError(
            f"{root / name} {problem}{others}. Only the damaged scenes are made again by: "
            f"{manifest.arguments.command(str(root))}"
        )
    if manifest.source != source_hash(manifest.arguments.kind):
        logger.warning(
            "%s was made by other source code of the generator than the present one. It is used as "
            "it is; make it again with: %s",
            root,
            manifest.arguments.command(str(root)),
        )
    return manifest
