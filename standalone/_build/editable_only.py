"""Build backend: setuptools for editable installs, a refusal for everything else.

A regular wheel would put its files into ``site-packages/detectron2``, where they would overwrite a
real detectron2 or be overwritten by it.
"""

from typing import NoReturn

from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    prepare_metadata_for_build_editable,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
]

_MESSAGE = """
detectron2-standalone can only be installed in editable mode:

    pip install -e ./standalone

A regular installation would occupy site-packages/detectron2, which belongs to the real detectron2.
See standalone/README.md.
"""


def _refuse(*_args: object, **_kwargs: object) -> NoReturn:
    raise SystemExit(_MESSAGE)


# pip asks for the requirements first: refusing there spares the user the download of torch.
get_requires_for_build_wheel = build_wheel = _refuse
get_requires_for_build_sdist = build_sdist = _refuse
