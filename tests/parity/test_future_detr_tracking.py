"""Query interaction, false tracks, clip matching and the state machine against MOTR's code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from parity.aligndetr_arrays import Arrays, load
from roca_nocs.geometry.boxes import inverse_sigmoid
from roca_nocs.modeling.criteria import ClipCriterion, MixedMatcher
from roca_nocs.modeling.criteria.clip_loss import LossSums
from roca_nocs.modeling.criteria.clip_matching import ClipMatcher, FrameTargets, updated_identity
from roca_nocs.modeling.tracking.ego_motion import REFERENCE_EPSILON
from roca_nocs.modeling.tracking.fp_insertion import false_positive_rows, surviving
from roca_nocs.modeling.tracking.query_interaction import QueryInteraction
from roca_nocs.modeling.tracking.runtime_tracker import RuntimeTracker


@pytest.mark.parametrize("name", ["qim_update_pos", "qim_no_update_pos"])
def test_query_interaction(golden_dir: Path, name: str) -> None:
    golden = load(golden_dir / "future_detr" / f"{name}.npz")
    prefix = "param."
    weights = {k.removeprefix(prefix): v.float() for k, v in golden.items() if prefix in k}
    module = QueryInteraction(
        int(golden["dim"]),
        int(golden["ffn_dim"]),
        int(golden["n_heads"]),
        update_query_pos="norm_pos.weight" in weights,
    )
    module.load_state_dict(weights)
    ids, iou = golden["obj_idxes"], golden["iou"]
    for mode, active in (("train", surviving(ids, iou)), ("eval", ids >= 0)):
        query = module(
            golden["query_pos"].float()[active],
            golden["output_embedding"].float()[active],
            torch.zeros(int(active.sum()), dtype=torch.int64),
        )
        reference = inverse_sigmoid(golden["pred_boxes"][active, :2], REFERENCE_EPSILON)
        found = {
            "query_pos": torch.cat([golden["init_query_pos"].float(), query]),
            "ref_pts": torch.cat([golden["init_ref_pts"].float(), reference]),
            "obj_idxes": torch.cat([ids.new_full((len(golden["init_ref_pts"]),), -1), ids[active]]),
        }
        for key, value in found.items():
            torch.testing.assert_close(
                value, golden[f"out_{mode}_{key}"], atol=1e-5, rtol=1e-4, msg=f"{mode} {key}"
            )


def test_false_positives(golden_dir: Path) -> None:
    golden = load(golden_dir / "future_detr" / "qim_fp_insert.npz")
    ids = golden["obj_idxes"]
    active = surviving(ids, golden["iou"])
    assert active.nonzero().flatten().tolist() == golden["active_rows"].tolist()
    rows = false_positive_rows(
        active, ids, golden["pred_boxes"], torch.zeros_like(ids), float(golden["fp_ratio"])
    )
    merged = [*active.nonzero().flatten().tolist(), *rows.tolist()]
    assert merged == golden["merged_rows"].tolist()


def matcher(golden: Arrays) -> MixedMatcher:
    return MixedMatcher(*(float(golden[f"cost_{name}"]) for name in ("class", "bbox", "giou")))


def test_clip_matching_and_losses(golden_dir: Path) -> None:
    golden = load(golden_dir / "future_detr" / "motr_clip_match.npz")
    match = ClipMatcher(matcher(golden))
    criterion = ClipCriterion(matcher=matcher(golden), weight_class=1, weight_bbox=1, weight_giou=1)
    sums = LossSums()
    for number in range(int(golden["num_frames"])):
        frame = {
            key.removeprefix(f"f{number}_"): value
            for key, value in golden.items()
            if key.startswith(f"f{number}_")
        }
        targets = FrameTargets.of(
            [{name: frame[f"gt_{name}"] for name in ("boxes", "labels", "ids")}],
            torch.device("cpu"),
        )
        logits = torch.stack([frame["aux_logits"], frame["pred_logits"]]).float()
        boxes = torch.stack([frame["aux_boxes"], frame["pred_boxes"]]).float()
        ids, iou = frame["in_obj_idxes"], frame["in_iou"]
        assigned = match(ids, torch.zeros_like(ids), logits, boxes, targets)
        matched = torch.from_numpy(assigned[-1])
        assert matched.tolist() == frame["out_matched_gt"].tolist()
        criterion.frame(sums, f"_{number}", logits, boxes, assigned, targets)
        sums.count += len(targets) + int(((ids >= 0) & (matched < 0)).sum())
        ids, iou = updated_identity(ids, iou, boxes[-1], matched, targets)
        assert ids.tolist() == frame["out_obj_idxes"].tolist()
        torch.testing.assert_close(iou, frame["out_iou"], atol=1e-5, rtol=1e-4)
        carried = surviving(ids, iou).nonzero().flatten().tolist()
        assert carried == frame["carried_rows"].tolist()

    assert sums.count == int(golden["num_samples"])
    losses = sums.losses(torch.device("cpu"))
    names = {"class": "ce", "bbox": "bbox", "giou": "giou"}
    for number in range(int(golden["num_frames"])):
        for ours, theirs in names.items():
            for suffix, prefix in (("", ""), ("_aux0", "aux0_")):
                expected = golden[f"loss_norm_frame_{number}_{prefix}loss_{theirs}"]
                torch.testing.assert_close(
                    losses[f"loss_{ours}_{number}{suffix}"], expected, atol=1e-5, rtol=1e-4
                )


def test_runtime_tracker(golden_dir: Path) -> None:
    golden = load(golden_dir / "future_detr" / "runtime_tracker.npz")
    tracker = RuntimeTracker(
        float(golden["score_thresh"]),
        float(golden["filter_score_thresh"]),
        int(golden["miss_tolerance"]),
    )
    scores = golden["scores"]
    # Two clips of the same scores: each counts for itself.
    clip = torch.arange(2).repeat_interleave(scores.shape[1])
    ids = torch.full_like(clip, -1)
    time, next_id = torch.zeros_like(clip), torch.zeros(2, dtype=torch.int64)
    for number, score in enumerate(scores):
        ids, time, next_id = tracker.update(ids, score.repeat(2), time, clip, next_id)
        for half in np.split(np.arange(len(clip)), 2):
            assert ids[half].tolist() == golden["obj_idxes"][number].tolist(), number
            assert time[half].tolist() == golden["disappear_time"][number].tolist(), number
