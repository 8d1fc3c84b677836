"""The path manager."""

from urllib.error import URLError

import pytest
from detectron2.utils.file_io import PathHandler, PathManager
from iopath.common.file_io import PathManager as PathManagerBase


def test_own_instance_of_iopath():
    assert isinstance(PathManager, PathManagerBase)
    assert PathManager is not PathManagerBase()


def test_local_files(tmp_path):
    folder = str(tmp_path / "a/b")
    PathManager.mkdirs(folder)
    with PathManager.open(folder + "/file.txt", "w") as file:
        file.write("text")
    assert PathManager.isfile(folder + "/file.txt")
    assert PathManager.isdir(folder)
    assert PathManager.ls(folder) == ["file.txt"]
    assert PathManager.get_local_path(folder + "/file.txt") == folder + "/file.txt"


class CountingHandler(PathHandler):
    """Serves ``https://`` addresses from a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.asked = []

    def _get_supported_prefixes(self):
        return ["https://dl.fbaipublicfiles.com/"]

    def _get_local_path(self, path, force=False, **kwargs):
        self.asked.append(path)
        return str(self.folder / path.rsplit("/", 1)[1])

    def _open(self, path, mode="r", buffering=-1, **kwargs):
        return open(self._get_local_path(path), mode)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A local stand-in for detectron2's file server."""
    handler = CountingHandler(tmp_path)
    monkeypatch.setattr(PathManager, "_path_handlers", PathManager._path_handlers.copy())
    PathManager.register_handler(handler, allow_override=True)
    (tmp_path / "R-50.pkl").write_bytes(b"weights")
    return handler


def test_detectron2_addresses(server, tmp_path):
    path = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    assert PathManager.get_local_path(path) == str(tmp_path / "R-50.pkl")
    with PathManager.open(path, "rb") as file:
        assert file.read() == b"weights"
    expected = "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl"
    assert set(server.asked) == {expected}


@pytest.mark.standalone_only
def test_download_failure_says_what_to_do(server, monkeypatch):
    def fail(path, force=False, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(server, "_get_local_path", fail)
    with pytest.raises(URLError, match=r"detectron2://X\.pkl.*no route to host.*local path"):
        PathManager.get_local_path("detectron2://X.pkl")


def test_http_addresses_have_a_handler():
    handler = PathManager._PathManager__get_path_handler("https://example.org/file")
    assert "https://" in handler._get_supported_prefixes()
