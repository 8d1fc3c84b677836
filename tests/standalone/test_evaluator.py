"""The evaluation loop and the reporting of results."""

import logging
import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.evaluation.testing import flatten_results_dict
from torch import nn


class Recorder(DatasetEvaluator):
    """Counts and sums what it is given."""

    def __init__(self, key="sum", with_result=True):
        self.key = key
        self.with_result = with_result
        self.calls = []

    def reset(self):
        self.calls = []

    def process(self, inputs, outputs):
        self.calls.append((inputs, outputs))

    def evaluate(self):
        return {self.key: sum(x for _, x in self.calls)} if self.with_result else None


class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.seen = []

    def forward(self, x):
        result = self.weight * x
        self.seen.append((self.training, result.requires_grad))
        return result.item()


def test_defaults_do_nothing():
    evaluator = DatasetEvaluator()
    evaluator.reset()
    evaluator.process([], [])
    assert evaluator.evaluate() is None


def test_loop():
    model, evaluator = Doubling(), Recorder()
    evaluator.calls = ["left over from the previous round"]
    assert inference_on_dataset(model, [1, 2, 3], evaluator) == {"sum": 12}
    assert evaluator.calls == [(1, 2), (2, 4), (3, 6)]
    assert model.seen == [(False, False)] * 3
    assert model.training


def test_any_callable_and_several_evaluators():
    evaluators = [Recorder("a"), Recorder("b"), Recorder("c", with_result=False)]
    assert inference_on_dataset(lambda x: 3 * x, [1, 2], evaluators) == {"a": 9, "b": 9}


def test_no_results():
    assert inference_on_dataset(abs, [1], None) == {}
    assert inference_on_dataset(abs, [1], Recorder(with_result=False)) == {}


def test_callbacks():
    calls = []
    names = ("on_start", "before_inference", "after_inference", "on_end")
    callbacks = {name: lambda name=name: calls.append(name) for name in names}
    inference_on_dataset(abs, [1, 2], None, callbacks)
    assert calls == ["on_start", *names[1:3], *names[1:3], "on_end"]


def test_loader_needs_a_length():
    with pytest.raises(TypeError):
        inference_on_dataset(abs, iter([1]), None)


def test_speed_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger="detectron2.evaluation.evaluator"):
        inference_on_dataset(abs, list(range(8)), None)
    text = caplog.text
    assert "Start inference on 8 batches" in text
    assert "s/iter" in text or "s / iter" in text


@pytest.mark.standalone_only
def test_empty_loader():
    assert inference_on_dataset(abs, [], Recorder()) == {"sum": 0}


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(training):
    model = nn.Sequential(nn.Dropout()).train(training)
    with inference_context(model):
        assert not model.training and not model[0].training
    assert model.training is training and model[0].training is training


@pytest.mark.standalone_only
def test_mode_is_restored_after_an_error():
    model = nn.Dropout().train()
    with pytest.raises(RuntimeError, match="broken"), inference_context(model):
        raise RuntimeError("broken")
    assert model.training


def test_merging():
    evaluators = DatasetEvaluators([Recorder("a"), Recorder("b", with_result=False)])
    evaluators.reset()
    evaluators.process(1, 5)
    assert evaluators.evaluate() == {"a": 5}
    same = DatasetEvaluators([Recorder("a"), Recorder("a")])
    with pytest.raises(
        AssertionError, match="Different evaluators produce results with the same key a"
    ):
        same.evaluate()


def test_csv(caplog):
    with caplog.at_level(logging.INFO, logger="detectron2.evaluation.testing"):
        print_csv_format({"bbox": {"AP": 12.34567, "AP50": math.nan, "AP-chair": 1.0}})
    lines = [x.getMessage() for x in caplog.records]
    assert lines == ["copypaste: Task: bbox", "copypaste: AP,AP50", "copypaste: 12.3457,nan"]


def test_csv_of_a_flat_dict(caplog):
    with caplog.at_level(logging.INFO, logger="detectron2.evaluation.testing"):
        print_csv_format({"accuracy": 0.5})
        print_csv_format({})
    assert [x.getMessage() for x in caplog.records] == ["copypaste: accuracy=0.5"]


def test_csv_of_something_else():
    with pytest.raises(AssertionError):
        print_csv_format([1])


def test_flatten():
    nested = {"bbox": {"AP": 1.0, "sizes": {"small": 2.0}}, "speed": 3.0}
    assert flatten_results_dict(nested) == {"bbox/AP": 1.0, "bbox/sizes/small": 2.0, "speed": 3.0}
    assert flatten_results_dict({}) == {}


def test_verification(caplog):
    cfg = get_cfg()
    assert verify_results(cfg, {})
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 38.5, 0.2]]
    assert verify_results(cfg, {"bbox": {"AP": 38.6}})
    for actual in ({"AP": 38.8}, {"AP": math.nan}, {}):
        with pytest.raises(SystemExit) as error:
            verify_results(cfg, {"bbox": actual})
        assert error.value.code == 1
    assert any(x.levelno == logging.ERROR for x in caplog.records)
