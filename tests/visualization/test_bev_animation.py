"""Animations of BEV clips."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from roca_nocs.geometry.bev import BevGrid
from roca_nocs.visualization.bev_animation import animation_frames, write_animation

CHANNELS = ("occupancy", "free", "unknown")


@pytest.fixture
def sample() -> dict[str, Any]:
    masks = torch.zeros(1, 20, 30, dtype=torch.bool)
    masks[0, 12:15, 4:8] = True
    instance = torch.zeros(3, 20, 30, dtype=torch.int32)
    instance[:, 12:15, 4:8] = 3
    return {
        "clip": torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0)),
        "grid": BevGrid.centred(20, 30, 0.5),
        "frame_dt": 0.5,
        "ego_pose": torch.zeros(4, 3, dtype=torch.float64),
        "frames": [{"ids": torch.tensor([3]), "masks": masks}] * 2,
        "instance": instance,
    }


def test_pictures(sample: dict[str, Any]) -> None:
    empty = torch.zeros(3, 20, 30, dtype=torch.int64)
    pictures = animation_frames(sample, empty, CHANNELS, longer_side=60)
    assert len(pictures) == 4 and len({picture.shape for picture in pictures}) == 1
    colored = [np.ptp(picture.astype(int), axis=2) > 100 for picture in pictures]
    width = pictures[0].shape[1]
    for picture in colored:
        columns = np.flatnonzero(picture.any(axis=0))
        # Only the annotated panel has an agent; it is to the right, ahead of the middle.
        assert columns.min() > 2 * width / 3
        assert picture.sum() == 3 * 4 * 2 * 2
    both = animation_frames(sample, sample["instance"], CHANNELS, longer_side=60)
    colored = [(np.ptp(picture.astype(int), axis=2) > 100).sum() for picture in both]
    assert colored == [48, 96, 96, 96]
    with pytest.raises(ValueError, match="do not have the frames"):
        animation_frames(sample, empty[:2], CHANNELS)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_films(sample: dict[str, Any], tmp_path: Path, suffix: str) -> None:
    pictures = animation_frames(sample, sample["instance"], CHANNELS, longer_side=60)
    path = tmp_path / f"film{suffix}"
    write_animation(path, pictures)
    with Image.open(path) as film:
        assert film.n_frames == 4 and film.size == pictures[0].shape[1::-1]


def test_mp4(sample: dict[str, Any], tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    pictures = animation_frames(sample, sample["instance"], CHANNELS, longer_side=60)
    write_animation(tmp_path / "film.mp4", pictures)
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4


def test_senseless_films(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the suffix is '\.avi'"):
        write_animation(tmp_path / "film.avi", [])
    with pytest.raises(ValueError, match="no pictures"):
        write_animation(tmp_path / "film.gif", [])
