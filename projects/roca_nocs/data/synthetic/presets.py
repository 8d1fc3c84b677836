"""What a generated dataset is made from: its kind, numbers of images, image size and seed.

The presets differ in numbers only. The folder of a preset below the dataset root, and the prefix of
its registered names, is the kind for ``demo`` and ``<kind>_<preset>`` for the others.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass

KINDS = ("rooms", "tabletop", "street", "traffic")
VIEWS_PER_ROOM = 2
FRAMES_PER_FOLDER = 10
IMAGES_PER_TASK = {
    "rooms": VIEWS_PER_ROOM,
    "tabletop": FRAMES_PER_FOLDER,
    "street": 10,
    "traffic": 10,
}
"""What one process makes at a time."""

REAL_TRAIN_SHARE = 4  # one image of real/train for this many of camera/train


@dataclass(frozen=True)
class DatasetArguments:
    """Everything that decides the content of a generated dataset.

    Attributes:
        kind: ``"rooms"``, ``"tabletop"``, ``"street"`` or ``"traffic"``, whose images are clips.
        train: training images; of tabletops, those of ``camera/train`` (``real/train``: a quarter).
        val: validation images, for each validation split (rooms: unseen and seen CAD models;
            tabletops: ``camera/val`` and ``real/test``; traffic: ``val`` and ``test``).
        width, height: image size in pixels, of traffic in cells of half a metre.
        seed: the seed that all scenes derive from.
    """

    kind: str
    train: int
    val: int
    width: int
    height: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Unknown kind {self.kind!r}; the kinds are {', '.join(KINDS)}.")
        for name in ("train", "val", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative.")
        if self.train + self.val == 0:
            raise ValueError("train and val are both 0: there is nothing to make.")
        if self.width < 32 or self.height < 32:
            raise ValueError(
                f"The image size is {self.width}x{self.height}; each side needs at least 32 pixels."
            )

    @property
    def size(self) -> tuple[int, int]:
        """Image size as (height, width)."""
        return self.height, self.width

    @property
    def num_images(self) -> int:
        """Images of all splits together."""
        return sum(self.images_of_split().values())

    def images_of_split(self) -> dict[str, int]:
        """Number of images of each split, in the order of generation."""
        if self.kind == "rooms":
            return {"train": self.train, "val": self.val, "val_seen": self.val}
        if self.kind == "street":
            return {"train": self.train, "val": self.val}
        if self.kind == "traffic":
            return {"train": self.train, "val": self.val, "test": self.val}
        return {
            "camera/train": self.train,
            "camera/val": self.val,
            "real/train": -(-self.train // REAL_TRAIN_SHARE),
            "real/test": self.val,
        }

    def as_dict(self) -> dict[str, str | int]:
        """The fields as plain values, for files."""
        return asdict(self)

    def command(self, output: str) -> str:
        """The command line that makes (resumes, repairs) this dataset in the folder ``output``."""
        return (
            f"python datasets/prepare_embedded.py --kind {self.kind} --train {self.train} "
            f"--val {self.val} --size {self.width}x{self.height} --seed {self.seed} "
            f"--output {shlex.quote(output)}"
        )


_NUMBERS = {
    "tiny": {"train": 40, "val": 16, "width": 160, "height": 120},
    "demo": {"train": 2400, "val": 200, "width": 160, "height": 120},
    "full": {"train": 2400, "val": 200, "width": 480, "height": 360},
}
_STREET_NUMBERS = {
    "tiny": {"train": 24, "val": 12, "width": 320, "height": 96},
    "demo": {"train": 1200, "val": 200, "width": 384, "height": 112},
    "full": {"train": 1200, "val": 200, "width": 1152, "height": 336},
}
_TRAFFIC_NUMBERS = {
    "tiny": {"train": 24, "val": 10, "width": 96, "height": 96},
    "demo": {"train": 2400, "val": 200, "width": 96, "height": 96},
    "full": {"train": 10000, "val": 500, "width": 200, "height": 200},
}
PRESETS = tuple(_NUMBERS)


def preset_arguments(kind: str, preset: str) -> DatasetArguments:
    """The arguments of a preset (``tiny``, ``demo`` or ``full``) of a kind."""
    if preset not in _NUMBERS:
        raise ValueError(f"Unknown preset {preset!r}; the presets are {', '.join(PRESETS)}.")
    numbers = {"street": _STREET_NUMBERS, "traffic": _TRAFFIC_NUMBERS}.get(kind, _NUMBERS)
    return DatasetArguments(kind=kind, **numbers[preset])


def folder_name(kind: str, preset: str) -> str:
    """Folder below the dataset root and prefix of the registered names."""
    return kind if preset == "demo" else f"{kind}_{preset}"
