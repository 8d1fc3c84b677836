"""FutureDETR frame by frame: what it carries, and that it gives what whole clips give."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modeling.tiny_future_detr import build_future_detr, make_clip
from roca_nocs.modeling.future.clip_results import ClipResults
from roca_nocs.modeling.future.stream import Stream
from roca_nocs.modeling.meta_arch import FutureDETR
from roca_nocs.modeling.tracking.runtime_tracker import RuntimeTracker


def tracking_model(**options: Any) -> FutureDETR:
    """With scores that depend on the frame and thresholds in the middle of them."""
    model = build_future_detr(seed=3, **options).eval()
    with torch.no_grad():
        for head in model.detector.class_embed:
            head.weight.mul_(20)
            head.bias.zero_()
    model.tracker = RuntimeTracker(0.6, 0.4, 2)
    model.results = ClipResults(min_score=0.03, min_value=0.01, min_area=1)
    return model


def drive(seed: int, frames: int) -> dict[str, Any]:
    """A clip of a vehicle that moves and turns."""
    clip = make_clip(seed=seed, frames=frames, labelled=False)
    times = torch.arange(len(clip["ego_pose"]), dtype=torch.float64)
    return clip | {"ego_pose": torch.stack([0.4 * times, -0.1 * times, 0.05 * times], dim=1)}


def frame_of(clip: dict[str, Any], index: int) -> dict[str, Any]:
    return clip | {
        "clip": clip["clip"][index : index + 1],
        "ego_pose": clip["ego_pose"][index : index + 1],
    }


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["streaming", "memory"])
def test_frame_by_frame_equals_the_whole_clip(fusion: str) -> None:
    model = tracking_model(temporal_fusion=fusion, num_frames=4)
    clips = [drive(seed, 4) for seed in (0, 1)]
    expected = model(clips)
    stream: Stream | None = None
    for index in range(4):
        found, stream = model.track([frame_of(clip, index) for clip in clips], stream)
    assert any(bool(result["tracked"].any()) for result in expected)
    for each, wanted in zip(found, expected, strict=True):
        assert set(each) == set(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(each[name], value, equal_nan=True, msg=name)
    assert stream is not None and len(stream.memory) == 4


@torch.no_grad()
def test_ids_go_on_and_tracks_end_after_their_missed_frames() -> None:
    model = tracking_model(num_future=0)
    model.tracker = RuntimeTracker(0.0, 0.0, 5)  # every query is a track
    model.results = ClipResults(min_score=0.0)
    clip = drive(0, 8)
    clip["ego_pose"][:] = 0  # no track leaves the raster
    found, stream = model.track([frame_of(clip, 0)])
    tracks = found[0]["ids"][found[0]["tracked"]].tolist()
    assert len(tracks) == model.detector.num_queries
    model.tracker = RuntimeTracker(2.0, 2.0, 5)  # every track is missed, nothing is born
    alive = []
    for index in range(1, 7):
        found, stream = model.track([frame_of(clip, index)], stream)
        alive.append(sorted(found[0]["ids"][found[0]["tracked"]].tolist()))
    assert alive == [tracks] * 4 + [[], []]
    model.tracker = RuntimeTracker(0.0, 0.0, 5)
    found, stream = model.track([frame_of(clip, 7)], stream)
    # Ids of tracks that have ended are not given again.
    assert min(found[0]["ids"].tolist()) == max(tracks) + 1


def test_streams_fit_their_clips() -> None:
    model = tracking_model(num_future=0)
    _, stream = model.track([frame_of(drive(0, 2), 0)])
    with pytest.raises(ValueError, match="2 clips, the stream is of 1"):
        model.track([frame_of(drive(seed, 2), 1) for seed in (0, 1)], stream)
    with pytest.raises(ValueError, match="eval"):
        model.train().track([frame_of(drive(0, 2), 1)], stream)
    with pytest.raises(ValueError, match="needs a MemoryFusion"):
        FutureDETR(detector=model.detector, criterion=model.criterion, temporal_fusion="memory")
