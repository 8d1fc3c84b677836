"""Videos are read and written frame by frame; without PyAV an error says how to get it."""

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from roca_nocs.visualization.inputs import CameraChoice, InputError
from roca_nocs.visualization.video import VideoReader, VideoWriter


def test_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"extra 'video'"):
        VideoReader(tmp_path / "a.mp4")


def test_frames_come_back(tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    levels = [30, 90, 150, 210]
    with VideoWriter(path, Fraction(10)) as writer:
        for level in levels:
            # An odd size, which H.264 does not take.
            writer.write(np.full((61, 81, 3), level, np.uint8))
    reader = VideoReader(path)
    assert reader.count == 4 and reader.rate == 10
    frames = list(reader.frames("clip", CameraChoice(field_of_view=60), "scene7"))
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert np.allclose([frame.seconds for frame in frames], [0, 0.1, 0.2, 0.3])
    for frame, level in zip(frames, levels, strict=True):
        assert frame.image.shape == (62, 82, 3) and frame.image.dtype == np.uint8
        assert abs(int(np.median(frame.image)) - level) <= 3
        assert frame.scene_id == "scene7" and frame.intrinsics[0, 2] == 40.5


def test_videos_that_cannot_be_read(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with pytest.raises(InputError, match=r"absent\.mp4: cannot read"):
        VideoReader(tmp_path / "absent.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(InputError, match=r"text\.mp4: cannot read"):
        VideoReader(text)
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, Fraction(10)) as writer:
        writer.write(np.zeros((60, 80, 3), np.uint8))
    camera = CameraChoice(np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]]))
    with pytest.raises(InputError, match=r"clip\.mp4: .*principal point"):
        list(VideoReader(path).frames("clip", camera))


def test_nothing_written(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "empty.mp4", Fraction(10)):
        pass
