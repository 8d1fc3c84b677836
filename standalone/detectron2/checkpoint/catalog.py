"""Names of pre-trained backbones in the file store of the original Caffe2 Detectron."""

import logging
from typing import IO, Any

from detectron2.utils.file_io import PathHandler, PathManager


class ModelCatalog:
    """Maps ``ImageNetPretrained/<name>`` to an address.

    All of these expect BGR images with unit standard deviation. Batch norm is folded into an affine
    layer, so they belong into a model with frozen batch norm. The MSRA models have the
    stride on the first 1x1 convolution of a block (``stride_in_1x1=True``), the others do not.
    """

    STORE = "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/"
    GROUP = "ImageNetPretrained/"
    BACKBONES = {  # noqa: RUF012 - constant
        "MSRA/R-50": "MSRA/R-50.pkl",
        "MSRA/R-101": "MSRA/R-101.pkl",
        "FAIR/R-50-GN": "47261647/R-50-GN.pkl",
        "FAIR/R-101-GN": "47592356/R-101-GN.pkl",
        "FAIR/X-101-32x8d": "20171220/X-101-32x8d.pkl",
        "FAIR/X-101-64x4d": "FBResNeXt/X-101-64x4d.pkl",
        "FAIR/X-152-32x8d-IN5k": "25093814/X-152-32x8d-IN5k.pkl",
    }

    @classmethod
    def get(cls, name: str) -> str:
        """Address of a catalogued model.

        Args:
            name: e.g. ``"ImageNetPretrained/MSRA/R-50"``.

        Raises:
            RuntimeError: the name is not in the catalog; the message lists what is.
        """
        backbone = name.removeprefix(cls.GROUP)
        if backbone == name or backbone not in cls.BACKBONES:
            known = ", ".join(cls.GROUP + known_name for known_name in cls.BACKBONES)
            raise RuntimeError(f"model not present in the catalog: {name}. Present are: {known}.")
        return cls.STORE + cls.BACKBONES[backbone]


class ModelCatalogHandler(PathHandler):
    """Resolves ``catalog://<name>`` through :class:`ModelCatalog`."""

    PREFIX = "catalog://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        url = ModelCatalog.get(path.removeprefix(self.PREFIX))
        logging.getLogger(__name__).info("Catalog entry %s points to %s", path, url)
        return PathManager.get_local_path(url, force=force, **kwargs)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        return PathManager.open(self._get_local_path(path), mode, buffering=buffering, **kwargs)


PathManager.register_handler(ModelCatalogHandler())
