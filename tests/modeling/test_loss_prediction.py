"""The predictor of losses, its sampling weights, and the mending of maps."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.engine.loss_prediction import CachedMaps, fit_loss_predictor
from roca_nocs.modeling.loss_prediction import (
    LossPredictor,
    balancing_weights,
    reduce_predicted_loss,
)


@settings(max_examples=20)
@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=50), st.integers(2, 12))
def test_weights_balance_intervals(values: list[float], edges: int) -> None:
    losses = torch.tensor(values)
    weights = balancing_weights(losses, edges)
    assert weights.isfinite().all() and (weights >= 1).all()
    # Every occupied interval has the same weight in total.
    totals = weights.sum() / len(losses)
    assert totals == pytest.approx(round(float(totals)), abs=1e-6)
    assert 1 <= round(float(totals)) <= edges - 1


def test_largest_loss_counts() -> None:
    weights = balancing_weights(torch.tensor([0.0, 0.1, 0.2, 1.0]), edges=3)
    torch.testing.assert_close(weights, torch.tensor([4 / 3, 4 / 3, 4 / 3, 4.0]).double())
    assert balancing_weights(torch.zeros(0)).shape == (0,)


def test_predictions_are_positive_and_one_a_map() -> None:
    torch.manual_seed(0)
    predictor = LossPredictor().eval()
    with torch.no_grad():
        assert (predictor(torch.rand(3, 3, 16, 16)) > 0).all()
        assert predictor(torch.rand(1, 3, 16, 16)).shape == (1,)


def test_mending_reduces_the_prediction() -> None:
    torch.manual_seed(0)
    predictor = LossPredictor().eval()
    maps = torch.full((2, 3, 16, 16), 0.5)
    changed = reduce_predicted_loss(predictor, maps, steps=3, lr=0.01)
    with torch.no_grad():
        assert (predictor(changed) < predictor(maps)).all()
    assert maps.eq(0.5).all() and changed.min() >= 0 and changed.max() <= 1
    assert all(parameter.grad is None for parameter in predictor.parameters())


def test_training_on_a_cache(tmp_path: Path) -> None:
    losses = {}
    for number in range(12):
        red = 200 if number % 2 else 20
        image = np.zeros((16, 16, 3), np.uint8)
        image[..., 2] = red
        losses[f"0000_{number}_0.png"] = 1.5 if number % 2 else 0.2
        cv2.imwrite(str(tmp_path / f"0000_{number}_0.png"), image)
    (tmp_path / "losses.json").write_text(json.dumps(losses))
    maps = CachedMaps(tmp_path)
    image, loss = maps[1]
    assert image.shape == (3, 16, 16) and loss == 1.5
    assert image[0, 0, 0] == pytest.approx(200 / 255) and image[1:].max() == 0
    assert len(maps.select([1, 3])) == 2 and maps.select([1, 3]).losses.tolist() == [1.5, 1.5]
    torch.manual_seed(0)
    predictor = LossPredictor()
    history = fit_loss_predictor(
        predictor,
        maps,
        maps,
        epochs=2,
        batch_size=6,
        validation_period=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert [entry["step"] for entry in history] == [2, 4]
    assert history[-1]["train_mse"] < history[0]["train_mse"]


def test_empty_cache(tmp_path: Path) -> None:
    (tmp_path / "losses.json").write_text("{}")
    with pytest.raises(DatasetError, match="no objects"):
        CachedMaps(tmp_path)
