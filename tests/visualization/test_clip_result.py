"""Results of clips as arrays and numbers."""

import json

import numpy as np
import torch

from roca_nocs.geometry.bev import BevGrid
from roca_nocs.visualization.clip_result import from_clip_output
from roca_nocs.visualization.results_json import clip_results


def output() -> dict[str, torch.Tensor]:
    """Three instances on 4x8 cells at two steps; number 7 is gone at the second one."""
    instances = torch.zeros(2, 4, 8, dtype=torch.int32)
    instances[0, 0, :2], instances[:, 2, 4:], instances[0, 3, 0] = 7, 9, 2
    return {
        "instances": instances,
        "ids": torch.tensor([7, 2, 9]),
        "labels": torch.tensor([0, 1, 1]),
        "scores": torch.tensor([0.6, 0.4, 0.9]),
        "scores_per_step": torch.tensor([[0.6, 0.4, 0.8], [0.1, 0.2, 0.9]]),
        "boxes": torch.tensor([[[0.125, 0.125, 0.25, 0.25], [0.1] * 4, [0.75, 0.625, 0.5, 0.25]]])
        .expand(2, -1, -1)
        .clone(),
        "trajectories": torch.tensor(
            [[[0.5, 1.0], [3.5, 0.5], [2.5, 6.0]], [[torch.nan] * 2, [torch.nan] * 2, [2.5, 6.0]]]
        ),
    }


def test_instances_above_a_score() -> None:
    result = from_clip_output(output(), 0.5)
    assert len(result) == 2
    assert result.ids.tolist() == [9, 7] and result.classes.tolist() == [1, 0]
    assert sorted(np.unique(result.instances)) == [0, 7, 9]
    assert result.instances.dtype == np.int32 and (result.instances == 9).sum() == 8
    np.testing.assert_allclose(result.scores, [0.9, 0.6])
    np.testing.assert_allclose(result.step_scores, [[0.8, 0.6], [0.9, 0.1]])
    np.testing.assert_allclose(result.boxes[1], [[4, 2, 8, 3], [0, 0, 2, 1]], atol=1e-6)
    assert len(from_clip_output(output(), 1.0)) == 0
    assert not from_clip_output(output(), 1.0).instances.any()


def test_numbers_of_a_clip() -> None:
    sample = {
        "file_name": "clips/a/input.npz",
        "clip_id": "a",
        "grid": BevGrid(0.0, 0.0, 1.0, 4, 8),
        "clip": torch.zeros(3, 5, 4, 8),
        "frame_dt": 0.5,
    }
    data = clip_results(sample, from_clip_output(output(), 0.0), ["car", "bus"])
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["observed_frames"], data["seconds"]) == (3, [0.0, 0.5])
    first, second, _ = data["objects"]
    assert (first["id"], first["class"], second["class"]) == (9, "bus", "car")
    assert first["trajectory"] == [[2.5, 6.0], [2.5, 6.0]]
    assert second["trajectory"] == [[0.5, 1.0], None]
    assert second["mask_per_step"][1] is None and second["mask_per_step"][0]["size"] == [4, 8]
