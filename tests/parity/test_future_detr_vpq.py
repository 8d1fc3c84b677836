"""Video panoptic quality and foreground IoU, against reference numbers of toy clips."""

from pathlib import Path

import numpy as np
import pytest

from roca_nocs.evaluation.vpq import (
    foreground_counts,
    foreground_iou,
    match_clip,
    quality,
    vpq_counts,
)

VEHICLE = 1


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, np.ndarray]:
    with np.load(golden_dir / "future_detr" / "vpq.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def compare(counts: np.ndarray, golden: dict[str, np.ndarray], prefix: str) -> None:
    found = quality(counts) | dict(zip(("tp", "fp", "fn", "iou_sum"), counts, strict=False))
    for name in ("pq", "sq", "rq", "tp", "fp", "fn"):
        assert found[name] == pytest.approx(golden[prefix + name][VEHICLE], abs=1e-6), name


def test_each_case_alone(golden: dict[str, np.ndarray]) -> None:
    for case in golden["cases"].tolist():
        pred, gt = golden[f"{case}.pred"], golden[f"{case}.gt"]
        matches = match_clip(pred, gt)
        counts = vpq_counts(matches).sum(axis=0)
        compare(counts, golden, f"{case}.")
        assert counts[3] == pytest.approx(golden[f"{case}.iou_sum"][VEHICLE], rel=1e-6)
        unchecked = quality(vpq_counts(matches, check_ids=False).sum(axis=0))
        expected = golden[f"{case}.pq_no_id_check"][VEHICLE]
        assert unchecked["pq"] == pytest.approx(expected, abs=1e-6)
        cells = foreground_counts(pred, gt).sum(axis=0)
        assert foreground_iou(cells) == pytest.approx(golden[f"{case}.seg_iou"][VEHICLE], abs=1e-6)


def test_all_cases_together(golden: dict[str, np.ndarray]) -> None:
    clips = [(golden[f"{case}.pred"], golden[f"{case}.gt"]) for case in golden["cases"].tolist()]
    compare(sum(vpq_counts(match_clip(*clip)).sum(axis=0) for clip in clips), golden, "all_")
    cells = sum(foreground_counts(*clip).sum(axis=0) for clip in clips)
    assert foreground_iou(cells) == pytest.approx(golden["all_seg_iou"][VEHICLE], abs=1e-6)
