"""Per-frame AP50 of boxes and masks against the numbers of the published evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest

from roca_nocs.evaluation.frame_metrics import FrameObjects, average_precision, match_frames


def objects(golden: dict[str, np.ndarray], kind: str) -> FrameObjects:
    shape = (int(golden[f"num_{kind}"]), *golden["image_size_hw"].tolist())
    bits = np.unpackbits(golden[f"{kind}_masks_packed"], count=int(np.prod(shape)))
    masks = bits.reshape(shape)
    return FrameObjects(
        golden[f"{kind}_frame"],
        golden[f"{kind}_class"],
        golden[f"{kind}_box_xyxy"],
        golden["pred_score"] if kind == "pred" else np.ones(shape[0]),
        [mask_util.encode(np.asfortranarray(mask)) for mask in masks],
    )


def shuffled(predictions: FrameObjects, seed: int) -> FrameObjects:
    order = np.random.default_rng(seed).permutation(len(predictions))
    arrays = (predictions.frames, predictions.categories, predictions.boxes, predictions.scores)
    return FrameObjects(*(a[order] for a in arrays), [predictions.masks[i] for i in order])


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("kind", ["box", "mask"])
def test_average_precision(golden_dir: Path, kind: str, seed: int | None) -> None:
    with np.load(golden_dir / "roca" / "instance_ap.npz", allow_pickle=False) as arrays:
        golden = dict(arrays)
    predictions, annotations = objects(golden, "pred"), objects(golden, "gt")
    if seed is not None:
        predictions = shuffled(predictions, seed)
    matched = match_frames(predictions, annotations, by_mask=kind == "mask")
    names = golden["class_names"].tolist()
    result = average_precision(predictions, annotations, matched, len(names))
    rows = [names.index(name) for name in golden["out_class_order"]]
    np.testing.assert_allclose(result.classes[rows], golden[f"out_{kind}_ap_per_class"], atol=1e-6)
    assert np.isnan(np.delete(result.classes, rows)).all()
    assert 100 * result.mean == pytest.approx(float(golden[f"out_{kind}_mAP"]), abs=0.01)
    assert 100 * result.pooled == pytest.approx(float(golden[f"out_{kind}_gAP"]), abs=0.01)
