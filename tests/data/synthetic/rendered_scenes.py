"""A scene, a view of it and its frame."""

from __future__ import annotations

from typing import NamedTuple

from roca_nocs.data.synthetic.types import Frame, Scene, View


class Rendered(NamedTuple):
    """What the fixture of the same name holds, once for each view."""

    kind: str
    scene: Scene
    view: View
    frame: Frame
