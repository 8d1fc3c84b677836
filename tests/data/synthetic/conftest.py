"""A few scenes with their views and frames, rendered once."""

from __future__ import annotations

import pytest

from data.synthetic.rendered_scenes import Rendered
from roca_nocs.data.synthetic.cameras import sample_views
from roca_nocs.data.synthetic.models import TRAIN_VARIANTS
from roca_nocs.data.synthetic.render import Renderer
from roca_nocs.data.synthetic.rooms import sample_room
from roca_nocs.data.synthetic.tabletop import sample_tabletop
from roca_nocs.data.synthetic.types import Scene


@pytest.fixture(scope="session")
def rooms() -> list[Scene]:
    return [sample_room(7, "test", index, TRAIN_VARIANTS) for index in range(25)]


@pytest.fixture(scope="session")
def tabletops() -> list[Scene]:
    return [sample_tabletop(7, "test", index, TRAIN_VARIANTS) for index in range(25)]


@pytest.fixture(scope="session")
def rendered(rooms: list[Scene], tabletops: list[Scene]) -> list[Rendered]:
    results = []
    for kind, scenes in (("rooms", rooms[:10]), ("tabletop", tabletops[:8])):
        for scene in scenes:
            renderer = Renderer(scene)
            for view in sample_views(scene, 2, (120, 160), kind):
                results.append(Rendered(kind, scene, view, renderer.render(view)))
    return results
