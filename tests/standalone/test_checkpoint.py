"""Saving and loading of checkpoint files, by path and by address."""

import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from detectron2.checkpoint import Checkpointer, DetectionCheckpointer, PeriodicCheckpointer
from detectron2.utils.file_io import PathHandler, PathManager
from torch import nn


class Nested(nn.Module):
    """``body.first``, ``body.second`` and ``second``: two parameters with the same end of name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.first = nn.Linear(2, 3)
        self.body.second = nn.Linear(3, 2)
        self.second = nn.Linear(3, 2)


def numbered(*shape: int, start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + int(np.prod(shape)), dtype=torch.float32).view(shape)


# --- Saving and loading -------------------------------------------------------------------


def test_is_a_checkpointer_on_the_shared_path_manager(tmp_path):
    checkpointer = DetectionCheckpointer(nn.Linear(1, 1), str(tmp_path))
    assert isinstance(checkpointer, Checkpointer)
    assert checkpointer.path_manager is PathManager


def test_save_and_load_with_extra_objects(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    saver = DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer)
    saver.save("model_0000004", iteration=4)
    assert saver.has_checkpoint()
    assert saver.get_checkpoint_file() == str(tmp_path / "model_0000004.pth")
    content = torch.load(tmp_path / "model_0000004.pth")
    assert set(content) == {"model", "optimizer", "iteration"}

    other = nn.Linear(2, 1)
    other_optimizer = torch.optim.SGD(other.parameters(), lr=9.0)
    loader = DetectionCheckpointer(other, str(tmp_path), optimizer=other_optimizer)
    rest = loader.resume_or_load("", resume=True)
    assert rest["iteration"] == 4
    torch.testing.assert_close(other.weight, model.weight, rtol=0, atol=0)
    assert other_optimizer.param_groups[0]["lr"] == 0.5


def test_load_without_resume_leaves_the_optimizer_alone(tmp_path):
    model = nn.Linear(2, 1)
    saver = DetectionCheckpointer(
        model, str(tmp_path), optimizer=torch.optim.SGD(model.parameters(), lr=0.5)
    )
    saver.save("weights")
    optimizer = torch.optim.SGD(model.parameters(), lr=9.0)
    loader = DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer)
    loader.resume_or_load(str(tmp_path / "weights.pth"), resume=False)
    assert optimizer.param_groups[0]["lr"] == 9.0


def test_empty_path_starts_from_scratch(tmp_path):
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    assert DetectionCheckpointer(model, str(tmp_path)).load("") == {}
    torch.testing.assert_close(model.weight.data, before, rtol=0, atol=0)


def test_bare_state_dict(tmp_path):
    torch.save({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, tmp_path / "bare.pth")
    model = nn.Linear(2, 1)
    DetectionCheckpointer(model).load(str(tmp_path / "bare.pth"))
    assert model.weight.tolist() == [[1.0, 1.0]]


@pytest.mark.standalone_only
def test_file_that_is_no_checkpoint(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(TypeError, match=r"list\.pth holds a list"):
        DetectionCheckpointer(nn.Linear(2, 1)).load(str(tmp_path / "list.pth"))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(AssertionError, match=r"nothing\.pth not found"):
        DetectionCheckpointer(nn.Linear(2, 1)).load(str(tmp_path / "nothing.pth"))


def test_data_parallel_prefix_is_removed(tmp_path):
    torch.save(
        {"model": {"module.weight": torch.ones(1, 2), "module.bias": torch.zeros(1)}},
        tmp_path / "parallel.pth",
    )
    model = nn.Linear(2, 1)
    DetectionCheckpointer(model).load(str(tmp_path / "parallel.pth"))
    assert model.weight.tolist() == [[1.0, 1.0]]


def test_other_processes_do_not_write(tmp_path, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: 1)
    DetectionCheckpointer(nn.Linear(1, 1), str(tmp_path)).save("model")
    assert list(tmp_path.iterdir()) == []
    DetectionCheckpointer(nn.Linear(1, 1), str(tmp_path), save_to_disk=True).save("model")
    assert (tmp_path / "model.pth").exists()


def test_periodic_checkpointer_names_files(tmp_path):
    checkpointer = DetectionCheckpointer(nn.Linear(1, 1), str(tmp_path))
    periodic = PeriodicCheckpointer(checkpointer, period=2, max_iter=5, max_to_keep=1)
    for iteration in range(5):
        periodic.step(iteration)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["last_checkpoint", "model_0000003.pth", "model_final.pth"]


def test_pixel_statistics_and_anchors_are_not_reported(tmp_path, caplog):
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)
            self.register_buffer("pixel_mean", torch.zeros(3))
            self.register_buffer("pixel_std", torch.ones(3))

    state = dict(nn.Linear(1, 1).state_dict(prefix="layer."))
    state["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    torch.save({"model": state}, tmp_path / "old.pth")
    with caplog.at_level("WARNING"):
        DetectionCheckpointer(Detector()).load(str(tmp_path / "old.pth"))
    assert caplog.text == ""

    state["left_over"] = torch.zeros(1)
    del state["layer.bias"]
    torch.save({"model": state}, tmp_path / "wrong.pth")
    with caplog.at_level("WARNING"):
        DetectionCheckpointer(Detector()).load(str(tmp_path / "wrong.pth"))
    assert "left_over" in caplog.text
    assert "layer.bias" in caplog.text.replace("\x1b[34m", "")
    assert "pixel" not in caplog.text


# --- Queries and addresses ----------------------------------------------------------------


def short_names_file(folder: Path) -> str:
    state = {"first.weight": numbered(3, 2), "first.bias": numbered(3)}
    torch.save({"model": state}, folder / "short.pth")
    return str(folder / "short.pth")


def test_names_are_matched_only_on_request(tmp_path):
    path = short_names_file(tmp_path)
    model = Nested()
    before = model.body.first.weight.detach().clone()
    DetectionCheckpointer(model).load(path)
    torch.testing.assert_close(model.body.first.weight.data, before, rtol=0, atol=0)
    DetectionCheckpointer(model).load(path + "?matching_heuristics=True")
    assert model.body.first.weight.tolist() == numbered(3, 2).tolist()


def test_request_holds_for_one_load_only(tmp_path):
    path = short_names_file(tmp_path)
    model = Nested()
    checkpointer = DetectionCheckpointer(model)
    checkpointer.load(path + "?matching_heuristics=True")
    nn.init.zeros_(model.body.first.weight)
    checkpointer.load(path)
    assert not model.body.first.weight.any()


def test_other_queries_are_errors(tmp_path):
    path = short_names_file(tmp_path)
    with pytest.raises(ValueError, match="strict"):
        DetectionCheckpointer(Nested()).load(path + "?strict=True")


@pytest.mark.standalone_only
def test_checkpointer_works_again_after_an_error(tmp_path):
    path = short_names_file(tmp_path)
    checkpointer = DetectionCheckpointer(nn.Linear(2, 3))
    (tmp_path / "broken.pkl").write_bytes(b"no pickle")
    for _ in range(2):
        with pytest.raises(pickle.UnpicklingError):
            checkpointer.load(str(tmp_path / "broken.pkl"))
    checkpointer.load(path + "?matching_heuristics=True")


def test_own_path_manager(tmp_path):
    class Handler(PathHandler):
        def _get_supported_prefixes(self):
            return ["shelf://"]

        def _get_local_path(self, path, **kwargs):
            return str(tmp_path / path.removeprefix("shelf://"))

        def _open(self, path, mode="r", **kwargs):
            return open(self._get_local_path(path), mode)

    short_names_file(tmp_path)
    model = Nested()
    checkpointer = DetectionCheckpointer(model)
    checkpointer.path_manager = type(PathManager)()
    checkpointer.path_manager.register_handler(Handler())
    checkpointer.load("shelf://short.pth?matching_heuristics=True")
    assert model.body.first.bias.tolist() == [0.0, 1.0, 2.0]


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Record what would be downloaded, and fail as without a network."""
    asked = []

    def download(url, *args, **kwargs):
        asked.append(url)
        raise URLError("no route to host")

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("iopath.common.file_io.download", download)
    return asked


@pytest.mark.parametrize(
    ("path", "url"),
    [
        (
            "detectron2://ImageNetPretrained/torchvision/R-50.pkl",
            "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/torchvision/R-50.pkl",
        ),
        (
            "catalog://ImageNetPretrained/MSRA/R-50",
            "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/MSRA/R-50.pkl",
        ),
        (
            "catalog://ImageNetPretrained/FAIR/X-101-64x4d",
            "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/FBResNeXt/X-101-64x4d.pkl",
        ),
    ],
)
def test_addresses(no_network, path, url):
    with pytest.raises(URLError):
        DetectionCheckpointer(nn.Linear(1, 1)).load(path)
    assert no_network == [url]


@pytest.mark.standalone_only
def test_failed_download_says_what_to_do(no_network):
    with pytest.raises(URLError) as error:
        DetectionCheckpointer(nn.Linear(1, 1)).load("https://example.org/weights.pth")
    assert "https://example.org/weights.pth" in error.value.__notes__[0]
    assert "local copy" in error.value.__notes__[0]


@pytest.mark.parametrize("name", ["ImageNetPretrained/NASA/R-50", "SomethingElse/MSRA/R-50"])
def test_unknown_catalog_entry(name):
    with pytest.raises((RuntimeError, KeyError), match=r"NASA|SomethingElse"):
        PathManager.get_local_path(f"catalog://{name}")


def test_model_zoo_pickle_without_heuristics_needs_equal_names(tmp_path):
    file = tmp_path / "model.pkl"
    weights = {"second.bias": np.array([3.0, 4.0], np.float32), "first.bias": np.ones(3)}
    file.write_bytes(pickle.dumps({"model": weights, "__author__": "someone"}))
    model = Nested()
    before = model.body.first.bias.detach().clone()
    DetectionCheckpointer(model).load(str(file))
    assert model.second.bias.tolist() == [3.0, 4.0]
    torch.testing.assert_close(model.body.first.bias.data, before, rtol=0, atol=0)
