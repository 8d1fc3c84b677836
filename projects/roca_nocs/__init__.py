"""roca_nocs: 3D objects from single images, as a detectron2 extension.

Importing the package registers its datasets and models. It opens no file.
"""

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "detectron2":  # a broken detectron2 must show its own error
        raise
    raise ModuleNotFoundError(
        "roca_nocs extends detectron2, and this environment has none. Either install the real one "
        "(pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2), or "
        "the subset that ships with roca_nocs (pip install -e ./standalone, from the checkout).",
        name="detectron2",
    ) from error

from roca_nocs import modeling as _modeling  # noqa: F401
from roca_nocs.data import datasets as _datasets  # noqa: F401

__version__ = "0.1.0"
