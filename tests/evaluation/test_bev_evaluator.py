"""Evaluation of BEV clips: ids over time, ranges, baselines, several processes."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.evaluation.bev_baselines import constant_velocity, oracle, static
from roca_nocs.evaluation.bev_evaluator import BevEvaluator, calibration_error, central_range
from roca_nocs.evaluation.summary import BEV_ROWS, summary_table
from roca_nocs.evaluation.vpq import COUNTS, match_clip, quality, vpq_counts
from roca_nocs.geometry.bev import BevGrid

GRID = BevGrid.centred(80, 96, 0.5)
STEPS = 4


def sample(number: int = 0) -> dict[str, Any]:
    """Three agents, one standing, one driving by two cells a step, one born in step 2."""
    boxes = np.array([[10.0, 8.0, 4.0, 2.0, 0.0], [-11.0 + number, 4.0, 4.0, 2.0, 0.0]])
    instance = np.zeros((STEPS, 80, 96), np.int32)
    for step in range(STEPS):
        rows = 14 + 2 * step + 2 * number
        instance[step, rows : rows + 8, 54:58] = 40
        instance[step, 56:64, 62:66] = 7
        if step >= 2:
            instance[step, 2:10, 2:8] = 2**31 - 1
    return {
        "image_id": number,
        "instance": torch.from_numpy(instance),
        "grid": GRID,
        "frame_dt": 0.5,
        "agents": {
            "ids": torch.tensor([7, 40]),
            "boxes": torch.from_numpy(boxes),
            "velocities": torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64),
        },
    }


def evaluate(samples: list[dict], outputs: list[dict]) -> dict[str, dict[str, float]]:
    evaluator = BevEvaluator()
    evaluator.reset()
    for one, output in zip(samples, outputs, strict=True):
        evaluator.process([one], [output])
    return evaluator.evaluate()


def test_baselines() -> None:
    clip = sample()
    truth = clip["instance"].numpy()
    np.testing.assert_array_equal(oracle(clip), truth)
    assert (static(clip) == truth[0]).all()
    born = truth == 2**31 - 1
    np.testing.assert_array_equal(constant_velocity(clip), np.where(born, 0, truth))


def test_perfect_output_and_the_rows_beside_it() -> None:
    clips = [sample(number) for number in range(3)]
    permutation = np.array([0, 2**30, 5, 9], np.int64)
    outputs = []
    for clip in clips:
        ids = torch.from_numpy(np.unique(clip["instance"], return_inverse=True)[1])
        outputs.append({"instances": torch.from_numpy(permutation)[ids.view(STEPS, 80, 96)]})
    metrics = evaluate(clips, outputs)
    for name in ("IoU", "VPQ", "SQ", "RQ"):
        for where in ("long", "short"):
            assert metrics["bev"][f"{name}_{where}"] == pytest.approx(100.0)
            assert metrics["bev_baselines"][f"oracle-{name}_{where}"] == pytest.approx(100.0)
    assert metrics["bev"]["id_switches"] == 0 and metrics["bev"]["birth_recall"] == 100.0
    assert np.isnan(metrics["bev"]["score_error"])
    assert (metrics["bev"]["resolution"], metrics["bev"]["short_range"]) == (0.5, 30.0)
    rows = metrics["bev_baselines"]
    assert rows["static-VPQ_long"] < rows["constant_velocity-VPQ_long"] < 100
    assert metrics["bev_steps"]["displacement_3"] == pytest.approx(0.0)
    assert metrics["bev_steps"]["VPQ_0"] == pytest.approx(100.0)


def test_table_of_results() -> None:
    """The model stands beside the trivial predictions in every range."""
    clips = [sample(number) for number in range(2)]
    metrics = evaluate(clips, [{"instances": clip["instance"]} for clip in clips])
    values = [value for _, value in summary_table([metrics], BEV_ROWS)]
    assert None not in values
    for first in range(0, 12, 3):
        model, nobody, constant = values[first : first + 3]
        # Within the central 30 m nobody is born.
        assert model == pytest.approx(100.0) and nobody < constant <= model
    assert values[12:] == [0.0, 100.0]


def test_displacement_births_and_scores() -> None:
    clip = sample()
    instances = clip["instance"].clone()
    instances[instances == 2**31 - 1] = 0
    output = {
        "instances": static(clip).copy(),
        "ids": torch.tensor([40, 7]),
        "scores_per_step": torch.full((STEPS, 2), 0.95),
    }
    metrics = evaluate([clip], [output])
    # The driving agent is left behind by one metre a step, the standing one is not.
    steps = [metrics["bev_steps"][f"displacement_{step}"] for step in range(STEPS)]
    np.testing.assert_allclose(steps, [0.0, 0.5, 1.0, 1.5])
    assert metrics["bev"]["birth_recall"] == 0.0
    # Of eight segments six match: all of the standing agent, two of the driving one.
    assert metrics["bev"]["score_error"] == pytest.approx(100 * (0.95 - 6 / 8))
    assert metrics["bev_baselines"]["static-VPQ_long"] == metrics["bev"]["VPQ_long"]


def test_parts_of_several_processes_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [sample(number) for number in range(4)]
    outputs = [{"instances": static(clip).copy()} for clip in clips]
    together = evaluate(clips, outputs)
    parts = [BevEvaluator(), BevEvaluator()]
    for number, (clip, output) in enumerate(zip(clips, outputs, strict=True)):
        parts[number % 2].process([clip], [output])
    # A sampler that pads its last batch shows a clip twice.
    parts[1].process([clips[0]], [outputs[0]])
    monkeypatch.setattr(
        "detectron2.utils.comm.gather", lambda data, dst=0: [part._results for part in parts]
    )
    assert str(parts[0].evaluate()) == str(together)


def test_other_shapes_and_no_clips() -> None:
    clip = sample() | {"file_name": "x"}
    with pytest.raises(ValueError, match=r"instances \(3, 80, 96\) do not have the frames"):
        BevEvaluator().process([clip], [{"instances": clip["instance"][:3]}])
    assert BevEvaluator().evaluate() == {}
    with pytest.raises(ValueError, match="differ"):
        match_clip(np.zeros((1, 2, 2), int), np.zeros((2, 2, 2), int))


def test_empty_clips() -> None:
    clip = sample()
    clip["instance"] = torch.zeros_like(clip["instance"])
    clip["agents"] = {name: values[:0] for name, values in clip["agents"].items()}
    metrics = evaluate([clip], [{"instances": clip["instance"]}])
    assert metrics["bev"]["VPQ_long"] == 0.0 and metrics["bev"]["IoU_short"] == 0.0
    assert np.isnan(metrics["bev"]["birth_recall"])


def test_the_short_range_of_the_usual_map() -> None:
    rows, columns = central_range(BevGrid.centred(200, 200, 0.5))
    assert (rows, columns) == (slice(70, 130), slice(70, 130))
    assert central_range(BevGrid(100.0, -20.0, 0.5, 10, 80))[0] == slice(0, 0)


@settings(max_examples=15)
@given(st.integers(2, 7), st.integers(1, 6), st.integers(0, 10**6))
def test_one_switch_costs_one_of_each(frames: int, switch: int, seed: int) -> None:
    gt = np.zeros((frames, 12, 12), np.int64)
    gt[:, 1:4, 1:5], gt[:, 6:10, 6:9] = 3, 8
    pred = gt + 100 * (gt > 0)
    switch = min(switch, frames - 1)
    pred[switch:][gt[switch:] == 3] = 500
    counts = dict(zip(COUNTS, vpq_counts(match_clip(pred, gt)).sum(axis=0), strict=True))
    assert counts == {
        "tp": 2 * frames - 1,
        "fp": 1,
        "fn": 1,
        "iou_sum": 2 * frames - 1,
        "switches": 1,
    }
    # Names of ids do not matter.
    names = np.random.default_rng(seed).permutation(600) + 1
    renamed = np.where(pred > 0, names[pred - 1], 0)
    again = vpq_counts(match_clip(renamed, gt)).sum(axis=0)
    assert quality(again) == quality(np.array(list(counts.values())))


def test_calibration() -> None:
    scored = np.array([[0.9, 1], [0.9, 1], [0.9, 0], [0.1, 0], [1.0, 1]])
    assert calibration_error(scored) == pytest.approx((0.1 + 3.7 - 3.0) / 5)
