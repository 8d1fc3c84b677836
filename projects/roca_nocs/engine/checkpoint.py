"""Checkpoints that survive a kill at any moment, and the search for the newest undamaged one.

A checkpoint holds tensors, numbers, strings, lists and dicts only, so that
``torch.load(file, weights_only=True)`` reads it. The folder must be on a local or mounted file
system, and all processes must see the same one.
"""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn

from .atomic_file import remove_leftovers, replace_file
from .resnet_weights import recognise_resnet
from .weights_file import SUFFIX, WeightsError, read_weights

__all__ = ["Checkpointer", "find_damage"]

logger = logging.getLogger(__name__)

_PERIODIC = re.compile(r"model_(\d+)\.pth")


class Checkpointer(DetectionCheckpointer):
    """A `DetectionCheckpointer` that writes atomically and resumes from what is readable.

    It also loads ``.safetensors`` files, in any precision, and state dicts of torchvision's ResNets
    as those of a backbone.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str,
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        """
        Args:
            model: the model, may be wrapped for DDP.
            save_dir: folder of the checkpoints; files left there by killed processes are removed.
            save_to_disk: `False` leaves the folder as it is, for reading beside a training;
                `None` lets the main process write.
            checkpointables: objects with `state_dict` and `load_state_dict`, by name.
        """
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self._modules: tuple[str, ...] = ()  # that the next file is read for; () for all
        if self.save_to_disk and Path(save_dir).is_dir() and (count := remove_leftovers(save_dir)):
            logger.info("Removed %d incomplete files from %s", count, save_dir)

    def save(self, name: str, *, only: Iterable[str] | None = None, **extra: Any) -> None:
        """Write ``<name>.pth``, on the main process only.

        Args:
            name: file name without its ending.
            only: names of the checkpointables to write. `None` writes all of them and makes this
                file the one to resume from.
            extra: more plain data.
        """
        if not self.save_to_disk:
            return
        names = self.checkpointables if only is None else only
        states = {key: self.checkpointables[key].state_dict() for key in names}
        path = Path(self.save_dir) / f"{name}.pth"
        logger.info("Saving checkpoint to %s", path)
        with replace_file(path) as file:
            torch.save({"model": self.model.state_dict(), **states, **extra}, file)
        if only is None:
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make this file of the folder the one to resume from."""
        with replace_file(Path(self.save_dir) / "last_checkpoint") as file:
            file.write(last_filename_basename.encode())

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """As `DetectionCheckpointer.load`.

        Raises:
            WeightsError: a safetensors file that is damaged, or that has a query behind its name;
                ResNet weights for another kind of images than the model's.
        """
        file, _, query = path.partition("?")
        if query and file.endswith(SUFFIX):
            raise WeightsError(
                f"{path}: the names in a {SUFFIX} file are taken as they are, without {query!r}"
            )
        return super().load(path, checkpointables)

    def _load_file(self, f: str) -> dict[str, Any]:
        if f.endswith(SUFFIX):
            content: dict[str, Any] = {"model": read_weights(f)[0]}
        else:
            content = recognise_resnet(super()._load_file(f), self.model, f)
        if self._modules:
            content["model"] = _only_modules(content["model"], self._modules, f)
        return content

    def resume_or_load(
        self, path: str, modules: Sequence[str] = (), *, resume: bool = True
    ) -> dict[str, Any]:
        """Continue from the newest undamaged checkpoint of the folder, else load `path`.

        Args:
            path: weights to start from where there is nothing to resume; "" for none.
            modules: names of the modules that take their weights from `path`, the others start
                anew; none for the whole model. Without effect on what is resumed.
            resume: `False` always loads `path`, and from it the model only.

        Returns:
            On resume what the file holds beyond the model and the checkpointables: `iteration` and
            `random_states`. An empty dict if the training begins anew.

        Raises:
            RuntimeError: there are checkpoints, but all of them are damaged.
            WeightsError: `path` has no weights of one of the modules.
        """
        if resume and (newest := self.newest_checkpoint()):
            return self.load(newest)
        if resume:
            logger.info("Nothing to resume in %s: starting anew", self.save_dir)
        self._modules = tuple(modules)
        try:
            self.load(path, checkpointables=[])
        finally:
            self._modules = ()
        return {}

    def newest_checkpoint(self) -> str:
        """Path of the file to resume from, the same on all processes; "" if there is none."""
        found: tuple[str, str] = ("", "")
        if comm.is_main_process():
            found = self._find_newest()
        path, problem = comm.all_gather(found)[0]  # one process looks, so that all agree
        if problem:
            raise RuntimeError(problem)
        unreadable = comm.all_gather(bool(path) and not os.access(path, os.R_OK))
        if any(unreadable):
            raise FileNotFoundError(
                f"ranks {[rank for rank, bad in enumerate(unreadable) if bad]} cannot read "
                f"{path}: all machines must share the output folder"
            )
        return path

    def _find_newest(self) -> tuple[str, str]:
        """(path, "") of the newest undamaged checkpoint, or ("", what is wrong)."""
        problems = []
        for path in self._candidates():
            damage = find_damage(path)
            if damage is None:
                return str(path), ""
            problems.append(f"{path} is damaged ({damage})")
            logger.warning("%s: falling back to the checkpoint before it", problems[-1])
        if not problems:
            return "", ""
        remedy = "delete them to start anew, or load another file by train.init_checkpoint"
        return "", f"no checkpoint can be resumed: {'; '.join(problems)}: {remedy}"

    def periodic_files(self) -> dict[int, Path]:
        """The periodic checkpoints of the folder by iteration, oldest first."""
        folder = Path(self.save_dir)
        names = os.listdir(folder) if folder.is_dir() else []
        found = {int(m[1]): folder / m[0] for m in map(_PERIODIC.fullmatch, names) if m}
        return dict(sorted(found.items()))

    def _candidates(self) -> list[Path]:
        """The tagged file, then the periodic ones written before it, newest first."""
        periodic = self.periodic_files()
        tagged = self._tagged_file()
        if tagged is None or not tagged.exists():
            return [*periodic.values()][::-1]
        # Files with a later iteration than the tagged one stem from an older run in this folder.
        match = _PERIODIC.fullmatch(tagged.name)
        earlier = [path for i, path in periodic.items() if match is None or i < int(match[1])]
        return [tagged, *earlier[::-1]]

    def _tagged_file(self) -> Path | None:
        tag = Path(self.save_dir) / "last_checkpoint"
        try:
            name = tag.read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        return tag.with_name(name) if name else None


def find_damage(path: str | Path) -> str | None:
    """Say what is wrong with a checkpoint file; `None` if it can be read to the last byte."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            return f"wrong checksum of {broken}"
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a damaged archive makes its readers raise
        return f"{type(error).__name__}: {error}"
    if not isinstance(content, dict) or "model" not in content:
        return "it holds no model"
    return None


def _only_modules(weights: dict[str, Any], modules: Sequence[str], file: str) -> dict[str, Any]:
    kept = {}
    for module in modules:
        part = {name: value for name, value in weights.items() if name.startswith(f"{module}.")}
        if not part:
            roots = sorted({name.split(".")[0] for name in weights})
            raise WeightsError(
                f"{file} has no weights of the module {module!r} (train.init_modules); "
                f"its names begin with {', '.join(roots)}"
            )
        kept |= part
    logger.info("%d of %d weights of %s are taken", len(kept), len(weights), file)
    return kept
