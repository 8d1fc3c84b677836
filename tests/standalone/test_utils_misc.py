"""Pickling, out-of-memory retries, analysis, colours, and helpers for tests."""

import copy
import functools
import logging
import pickle

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.analysis import (
    FlopCountAnalysis,
    find_unused_parameters,
    parameter_count,
    parameter_count_table,
)
from detectron2.utils.colormap import colormap, random_color
from detectron2.utils.memory import retry_if_cuda_oom
from detectron2.utils.serialize import PicklableWrapper
from detectron2.utils.testing import assert_instances_allclose, random_boxes
from torch import nn

# ---- PicklableWrapper


def test_wrapper_behaves_like_its_content():
    def closure(x, offset=1):
        return x + offset

    closure.note = "text"
    wrapped = PicklableWrapper(closure)
    assert wrapped(1, offset=4) == 5
    assert wrapped.note == "text"
    with pytest.raises(AttributeError):
        _ = wrapped.absent


def test_wrapper_makes_closures_picklable():
    offset = 3
    wrapped = PicklableWrapper(lambda x: x + offset)
    assert pickle.loads(pickle.dumps(wrapped))(1) == 4
    assert copy.deepcopy(wrapped)(1) == 4


def test_wrapping_twice_is_wrapping_once():
    inner = PicklableWrapper(len)
    assert PicklableWrapper(inner)._obj is len


# ---- retry_if_cuda_oom


def failing(times, error):
    """A function that raises for its first calls, then returns its argument."""
    calls = []

    @functools.wraps(failing)
    def function(x, y=0):
        calls.append((x, y))
        if len(calls) <= times:
            raise error
        return x + y

    function.calls = calls
    return function


OUT_OF_MEMORY = RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")


@pytest.mark.parametrize("times", [0, 1, 2])
def test_out_of_memory_is_retried_twice(times, caplog):
    caplog.set_level(logging.INFO, logger="detectron2.utils.memory")
    function = failing(times, OUT_OF_MEMORY)
    retrying = retry_if_cuda_oom(function)
    assert retrying.__name__ == function.__name__
    assert retrying(2, y=torch.tensor(3)) == 5
    assert len(function.calls) == times + 1
    assert ("CPU" in caplog.text) == (times == 2)


def test_third_failure_is_final():
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        retry_if_cuda_oom(failing(3, OUT_OF_MEMORY))(1)


def test_other_errors_are_not_retried():
    function = failing(1, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        retry_if_cuda_oom(function)(1)
    assert len(function.calls) == 1


class LikeGpuTensor:
    """Has a device and says where it was moved."""

    device = torch.device("cuda")

    def to(self, device):
        return f"moved to {device}"


def test_arguments_are_moved_to_the_cpu():
    seen = []

    def function(*args, **kwargs):
        seen.append((args, kwargs))
        if len(seen) <= 2:
            raise OUT_OF_MEMORY

    retry_if_cuda_oom(function)(LikeGpuTensor(), 1, x=LikeGpuTensor())
    assert seen[2] == (("moved to cpu", 1), {"x": "moved to cpu"})
    assert isinstance(seen[1][0][0], LikeGpuTensor)


# ---- analysis


class Half(nn.Module):
    """Uses one of its two layers."""

    def __init__(self):
        super().__init__()
        self.used = nn.Linear(3, 2)
        self.unused = nn.Linear(3, 2)

    def forward(self, x):
        return {"loss": self.used(x).sum()}


def test_find_unused_parameters():
    model = Half()
    assert find_unused_parameters(model, torch.ones(1, 3)) == ["unused.weight", "unused.bias"]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert find_unused_parameters(model, (torch.ones(1, 3),)) == ["unused.weight", "unused.bias"]
    with pytest.raises(AssertionError):
        find_unused_parameters(model.eval(), torch.ones(1, 3))


@pytest.mark.standalone_only
def test_frozen_parameters_are_not_unused():
    model = Half()
    model.unused.bias.requires_grad_(False)
    assert find_unused_parameters(model, torch.ones(1, 3)) == ["unused.weight"]


def test_parameter_count():
    assert parameter_count(Half())[""] == 16
    assert "unused" in parameter_count_table(Half())


class Detector(nn.Module):
    """Structured input, structured output, 3x3 convolution of 4 channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)

    def forward(self, records):
        features = self.conv(records[0]["image"][None])
        result = Instances((5, 6))
        result.pred_boxes = Boxes(features.flatten()[:8].reshape(2, 4))
        return [{"instances": result}]


@pytest.mark.filterwarnings("ignore")  # torch warns about its own tracer
def test_flop_count_of_structured_inputs():
    counted = FlopCountAnalysis(Detector().eval(), [{"image": torch.rand(3, 5, 6), "id": "x"}])
    # 5 * 6 positions, 4 outputs, 3 * 9 inputs each
    assert counted.by_operator()["conv"] == 5 * 6 * 4 * 27


# ---- colours


@pytest.mark.parametrize("maximum", [1, 255])
def test_colormap(maximum):
    colors = colormap(rgb=True, maximum=maximum)
    assert colors.ndim == 2
    assert colors.shape[1] == 3
    assert colors.dtype == np.float32
    assert colors.min() >= 0
    assert colors.max() <= maximum
    assert colors.max() > 0.8 * maximum
    np.testing.assert_array_equal(colormap(rgb=False, maximum=maximum), colors[:, ::-1])


@pytest.mark.standalone_only
def test_colors_are_different():
    colors = colormap(rgb=True)
    distances = np.abs(colors[:, None] - colors[None]).max(axis=2)
    assert distances[~np.eye(len(colors), dtype=bool)].min() > 5


def test_random_color():
    color = random_color(rgb=True, maximum=1)
    assert color.shape == (3,)
    assert (np.abs(colormap(rgb=True, maximum=1) - color).max(axis=1) < 1e-6).any()


# ---- helpers for tests


def test_random_boxes():
    boxes = random_boxes(50, max_coord=20)
    assert boxes.shape == (50, 4)
    assert boxes.dtype == torch.float32
    assert (boxes[:, 2:] - boxes[:, :2] >= 1 - 1e-5).all()
    assert boxes.min() >= 1
    assert boxes.max() <= 20
    assert random_boxes(0).shape == (0, 4)


def instances(shift=0.0, size=(10, 20), **fields):
    boxes = Boxes(torch.tensor([[1.0, 2.0, 50.0, 60.0]]) + shift)
    return Instances(size, pred_boxes=boxes, scores=torch.tensor([0.5]), **fields)


def test_equal_instances():
    assert_instances_allclose(instances(), instances())
    assert_instances_allclose(instances(), instances(shift=5e-4))
    assert_instances_allclose(instances(shift=1), instances(), rtol=0.1)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (instances(shift=0.1), "Field pred_boxes differs too much"),
        (instances(size=(10, 21)), r"image_size is \(10, 20\) vs. \(10, 21\)"),
        (instances(pred_classes=torch.tensor([1])), "Fields are"),
    ],
)
def test_different_instances(other, message):
    with pytest.raises(AssertionError, match=message):
        assert_instances_allclose(instances(), other)


def test_different_integers_and_unknown_fields():
    first, second = (instances(pred_classes=torch.tensor([k])) for k in (1, 2))
    with pytest.raises(AssertionError, match=r"case 7.*pred_classes is different"):
        assert_instances_allclose(first, second, msg="case 7")
    with pytest.raises(ValueError, match="Don't know how to compare"):
        assert_instances_allclose(instances(x=["a"]), instances(x=["a"]))


@pytest.mark.standalone_only
def test_empty_instances_are_equal():
    assert_instances_allclose(instances()[:0], instances()[:0])
