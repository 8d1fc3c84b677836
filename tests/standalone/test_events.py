"""EventStorage and its writers."""

import json
import logging
import os
import sys

import numpy as np
import pytest
import torch
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
)


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


# ---- storage


def test_current_storage():
    assert not has_event_storage()
    with EventStorage() as outer:
        with EventStorage(start_iter=3) as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is outer
        assert has_event_storage()
    with pytest.raises(AssertionError, match="has to be called inside a 'with EventStorage"):
        get_event_storage()


def test_iteration():
    storage = EventStorage(start_iter=5)
    storage.step()
    assert storage.iter == 6
    storage.iter = 10.0
    assert storage.iter == 10
    assert isinstance(storage.iter, int)


@pytest.mark.parametrize(
    "value", [2, 2.0, np.float32(2), np.array(2.0), torch.tensor(2.0), torch.tensor([2])]
)
def test_scalar_types(value):
    storage = EventStorage()
    storage.put_scalar("x", value)
    assert storage.latest() == {"x": (2.0, 0)}
    assert type(storage.latest()["x"][0]) is float


@pytest.mark.standalone_only
@pytest.mark.parametrize("value", [np.array([2.0]), np.array([[2]]), torch.tensor([[2.0]])])
def test_arrays_with_one_element_are_scalars(value):
    storage = EventStorage()
    storage.put_scalar("x", value)
    assert storage.latest() == {"x": (2.0, 0)}


@pytest.mark.standalone_only
@pytest.mark.parametrize("value", [np.zeros(3), torch.zeros(0)])
def test_other_arrays_are_refused_by_name(value):
    storage = EventStorage()
    with pytest.raises(ValueError, match="Scalar my/name must hold one number"):
        storage.put_scalar("my/name", value)
    assert storage.histories() == {}


def test_put_scalars_and_scope():
    storage = EventStorage(start_iter=1)
    with storage.name_scope("outer"):
        storage.put_scalars(a=1, b=2, smoothing_hint=False, cur_iter=7)
    storage.put_scalar("c", 3)
    assert storage.latest() == {"outer/a": (1, 7), "outer/b": (2, 7), "c": (3, 1)}
    assert storage.smoothing_hints() == {"outer/a": False, "outer/b": False, "c": True}


@pytest.mark.standalone_only
def test_scope_ends_with_an_exception():
    storage = EventStorage()
    with pytest.raises(ZeroDivisionError), storage.name_scope("outer"):
        raise ZeroDivisionError
    storage.put_scalar("a", 1)
    assert set(storage.histories()) == {"a"}


def test_two_hints_for_one_name():
    storage = EventStorage()
    storage.put_scalar("x", 1)
    with pytest.raises(AssertionError, match="x was put with a different smoothing_hint"):
        storage.put_scalar("x", 1, smoothing_hint=False)


def test_history():
    storage = EventStorage()
    for value in (3.0, 1.0, 2.0):
        storage.put_scalar("x", value)
        storage.step()
    history = storage.history("x")
    assert history.values() == [(3.0, 0), (1.0, 1), (2.0, 2)]
    assert (history.latest(), history.median(3), history.avg(2)) == (2.0, 2.0, 1.5)
    assert set(storage.histories()) == {"x"}
    with pytest.raises(KeyError, match="No history metric available for y"):
        storage.history("y")


def test_smoothing_window_counts_iterations():
    storage = EventStorage()
    for k in range(20):
        storage.put_scalar("every", k)
        storage.put_scalar("raw", k, smoothing_hint=False)
        if k % 5 == 4:
            storage.put_scalar("fifth", k)
        storage.step()
    assert storage.count_samples("every", 10) == 10
    assert storage.count_samples("fifth", 10) == 2
    assert storage.count_samples("every", 100) == 20
    # every: median of 10..19, fifth: median of 14 and 19
    assert storage.latest_with_smoothing_hint(10) == {
        "every": (14.5, 19),
        "raw": (19, 19),
        "fifth": (16.5, 19),
    }


# ---- JSON


def test_json_writer(tmp_path):
    file = tmp_path / "metrics.json"
    writer = JSONWriter(str(file))
    with EventStorage() as storage:
        for k in range(6):
            storage.put_scalar("b", k, smoothing_hint=False)
            storage.put_scalar("a", k, smoothing_hint=True)
            if k % 3 == 2:
                writer.write()
            storage.step()
        writer.write()  # nothing new: nothing written
    writer.close()
    assert file.read_text().splitlines()[0] == '{"a": 1.0, "b": 2.0, "iteration": 2}'
    assert lines(file)[1:] == [{"a": 2.5, "b": 5.0, "iteration": 5}]


def test_json_writer_gives_each_iteration_a_line(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text('{"iteration": -5}\n')
    writer = JSONWriter(str(file))
    with EventStorage() as storage:
        storage.put_scalar("old", 1)
        storage.iter = 4
        storage.put_scalar("new", 2)
        writer.write()
        storage.put_scalar("late", 3, cur_iter=2)  # older than what was written: left out
        writer.write()
    writer.close()
    assert lines(file) == [
        {"iteration": -5},
        {"iteration": 0, "old": 1.0},
        {"iteration": 4, "new": 2.0},
    ]


def test_writer_is_abstract():
    with pytest.raises(NotImplementedError):
        EventWriter().write()
    EventWriter().close()


# ---- tensorboard


def test_tensorboard_makes_no_file_without_data(tmp_path):
    pytest.importorskip("tensorboard")
    writer = TensorboardXWriter(str(tmp_path / "log"))
    with EventStorage():
        writer.write()
    writer.close()
    assert not (tmp_path / "log").exists()


def test_tensorboard_content(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = TensorboardXWriter(str(tmp_path))
    with EventStorage() as storage:
        for k in range(3):
            storage.put_scalar("loss", k, smoothing_hint=False)
            writer.write()
            storage.step()
        storage.put_image("picture", np.zeros((3, 4, 6), dtype=np.uint8))
        storage.put_histogram("weights", torch.tensor([0.0, 1.0, 1.0, 4.0]), bins=4)
        writer.write()
        writer.write()  # images and histograms are written once
    writer.close()
    events = accumulators.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    (image,) = events.Images("picture")
    assert (image.step, image.height, image.width) == (3, 4, 6)
    (histogram,) = events.Histograms("weights")
    values = histogram.histogram_value
    assert (values.min, values.max, values.num, values.sum, values.sum_squares) == (0, 4, 4, 6, 18)
    assert list(values.bucket) == [1, 2, 0, 1]
    assert list(values.bucket_limit) == [1, 2, 3, 4]


@pytest.mark.standalone_only
def test_missing_tensorboard_is_explained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    writer = TensorboardXWriter(str(tmp_path))
    with EventStorage() as storage, pytest.raises(ImportError, match="pip install tensorboard"):
        storage.put_scalar("x", 1)
        writer.write()
    assert os.listdir(tmp_path) == []


# ---- printer


@pytest.fixture
def printed(caplog):
    caplog.set_level(logging.INFO, logger="detectron2.utils.events")

    def last():
        return caplog.records[-1].getMessage()

    return last


def test_printer(printed):
    with EventStorage(start_iter=3) as storage:
        for value in (1.0, 9.0, 2.0):
            storage.put_scalars(
                total_loss=value,
                **{"loss_x": 2 * value, "[metric]angle": value, "hidden": value},
            )
            storage.put_scalar("time", 0.5 * value)
            storage.put_scalar("data_time", 0.25)
            storage.put_scalar("lr", 1.23456789e-4, smoothing_hint=False)
            storage.step()
        CommonMetricPrinter(max_iter=17).write()
        # iteration 6 of 17: ten remain at the median time of 1 s
        assert storage.latest()["eta_seconds"] == (10.0, 6)
    text = printed()
    for part in (
        "eta: 0:00:10",
        "iter: 6",
        "total_loss: 2",
        "loss_x: 4",
        "[metric]angle: 2",
        "time: 2.0000",
        "last_time: 1.0000",
        "data_time: 0.2500",
        "last_data_time: 0.2500",
        "lr: 0.00012346",
    ):
        assert part in text
    assert "hidden" not in text


def test_printer_with_nothing_to_say(printed):
    with EventStorage() as storage:
        CommonMetricPrinter().write()
        assert "iter: 0" in printed()
        assert "lr: N/A" in printed()
        assert "eta" not in printed()
        storage.iter = 5
        CommonMetricPrinter(max_iter=5).write()  # training is over
        assert "iter: 0" in printed()


def test_printer_estimates_the_remaining_time_itself(printed):
    printer = CommonMetricPrinter(max_iter=4)
    with EventStorage() as storage:
        printer.write()
        assert "eta" not in printed()
        storage.step()
        printer.write()
        assert "eta: 0:00:00" in printed()


@pytest.mark.standalone_only
def test_printer_twice_in_one_iteration(printed):
    printer = CommonMetricPrinter(max_iter=4)
    with EventStorage():
        printer.write()
        printer.write()
    assert "eta" not in printed()
