"""Decoding and encoding of videos with PyAV, an optional dependency."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from roca_nocs.visualization.inputs import CameraChoice, Frame, InputError

DEFAULT_RATE = Fraction(25)


def import_av() -> Any:
    """PyAV.

    Raises:
        ImportError: says which extra has it.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "videos need PyAV, which the extra 'video' of roca_nocs installs: "
            "pip install -e '.[video]' --no-build-isolation"
        ) from error
    return av


class VideoReader:
    """The frames of a video file.

    Attributes:
        rate: frames per second.
        count: number of frames as the file says, 0 where it does not.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            ImportError: PyAV is missing.
            InputError: the file cannot be read or has no video stream.
        """
        self._av = import_av()
        self._path = path
        try:
            self._container = self._av.open(str(path))
        except (OSError, self._av.FFmpegError) as error:
            raise InputError(f"{path}: cannot read the video: {error}") from error
        if not self._container.streams.video:
            self._container.close()
            raise InputError(f"{path}: there is no video in this file")
        stream = self._container.streams.video[0]
        self.rate = stream.average_rate or DEFAULT_RATE
        self.count = stream.frames

    def frames(
        self, name: str, camera: CameraChoice, scene_id: str | None = None
    ) -> Iterator[Frame]:
        """All frames in order.

        Raises:
            InputError: the file is damaged, or the intrinsics do not fit.
        """
        try:
            with self._container as container:
                for index, decoded in enumerate(container.decode(video=0)):
                    image = decoded.to_ndarray(format="rgb24")
                    time = decoded.time
                    yield Frame(
                        name=name,
                        file_name=str(self._path),
                        image=image,
                        intrinsics=camera.matrix(*image.shape[:2]),
                        scene_id=scene_id,
                        index=index,
                        seconds=float(index / self.rate) if time is None else time,
                    )
        except (self._av.FFmpegError, ValueError) as error:
            raise InputError(f"{self._path}: {error}") from error


class VideoWriter:
    """An H.264 file that is written frame by frame; a context manager."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        """
        Args:
            path: file to write, .mp4.
            rate: frames per second.

        Raises:
            ImportError: PyAV is missing.
        """
        self._av = import_av()
        self._container = self._av.open(str(path), mode="w")
        self._stream = self._container.add_stream("libx264", rate=rate)
        self._stream.pix_fmt = "yuv420p"
        self._opened = False

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._opened:
            self._container.mux(self._stream.encode())
        self._container.close()

    def write(self, image: np.ndarray) -> None:
        """Append a frame (H, W, 3) uint8 RGB; all have one size, made even by white borders."""
        height, width = image.shape[:2]
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
        if not self._opened:
            self._stream.height, self._stream.width = image.shape[:2]
            self._opened = True
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self._container.mux(self._stream.encode(frame))
