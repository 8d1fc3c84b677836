"""One path manager for local files, HTTP and ``detectron2://`` addresses."""

from typing import IO, Any
from urllib.error import URLError

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as PathManagerBase

__all__ = ["PathHandler", "PathManager"]

PathManager = PathManagerBase()
"""Our own instance, so that handlers registered here cannot clash with those of other libraries."""


class Detectron2Handler(PathHandler):
    """Serve ``detectron2://X`` from detectron2's public file server, through the local cache."""

    PREFIX = "detectron2://"
    SERVER = "https://dl.fbaipublicfiles.com/detectron2/"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        url = self.SERVER + path[len(self.PREFIX) :]
        try:
            return PathManager.get_local_path(url, force=force, **kwargs)
        except URLError as error:
            raise URLError(
                f"cannot download {path} from {url} ({error.reason}). Where there is no network, "
                "fetch the file elsewhere and give its local path instead."
            ) from error

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        return PathManager.open(self._get_local_path(path), mode, buffering=buffering, **kwargs)


PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(Detectron2Handler())
