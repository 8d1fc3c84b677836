"""Closed meshes of the right size and orientation."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from roca_nocs.data.synthetic import primitives
from roca_nocs.data.synthetic.primitives import Mesh

SHAPES = {
    "box": primitives.box((0, 0, 0), (1, 2, 3)),
    "tapered_box": primitives.tapered_box((-1, 0, -1), (1, 2, 1), 0.5, 0.25),
    "cylinder": primitives.cylinder(1.0, 0.0, 2.0, segments=64),
    "band": primitives.band(0.5, 1.0, 0.0, 1.0, segments=64),
    "cup": primitives.lathe([(0.5, 0.0), (1.0, 1.0), (0.9, 1.0), (0.4, 0.1)]),
    "cushion": primitives.cushion((0, 0, 0), (1, 0.2, 0.8)),
    "ball": primitives.ball(1.0, (3, 0, 0), segments=32),
    "tube": primitives.tube([(0, 0, 0), (0, 1, 0), (1, 2, 0)], 0.1),
    "turned": primitives.rotate(primitives.box((0, 0, 0), (1, 2, 3)), 2, 40.0, (1, 1, 1)),
}


@pytest.mark.parametrize("mesh", SHAPES.values(), ids=SHAPES.keys())
def test_closed_and_wound_outwards(mesh: Mesh) -> None:
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert body.is_watertight
    assert body.is_winding_consistent
    assert primitives.signed_volume(mesh) > 0
    assert primitives.signed_volume(mesh) == pytest.approx(body.volume)


@pytest.mark.parametrize(
    ("name", "volume", "tolerance"),
    [
        ("box", 6.0, 1e-12),
        # Integral of 2 (1 - s / 2) * 2 (1 - 3 s / 4) over the height, s from 0 to 1: 2 * 4 * 1/2.
        ("tapered_box", 4.0, 1e-12),
        ("cylinder", 2.0 * np.pi, 0.02),
        ("band", 0.75 * np.pi, 0.02),
        ("turned", 6.0, 1e-12),
        ("ball", 4.0 / 3.0 * np.pi, 0.1),
    ],
)
def test_volume(name: str, volume: float, tolerance: float) -> None:
    assert primitives.signed_volume(SHAPES[name]) == pytest.approx(volume, abs=tolerance)


def test_rotation_is_right_handed() -> None:
    point = Mesh(np.array([[0.0, 0.0, 1.0]]), np.zeros((0, 3), dtype=np.int32))
    np.testing.assert_allclose(primitives.rotate(point, 0, 90.0).vertices, [[0, -1, 0]], atol=1e-12)
    np.testing.assert_allclose(primitives.rotate(point, 1, 90.0).vertices, [[1, 0, 0]], atol=1e-12)


def test_outline_is_a_superellipse() -> None:
    points = primitives.outline(2.0, 1.0, 0.5, 16, exponent=4.0)
    np.testing.assert_allclose((points[:, 0] / 2.0) ** 4 + points[:, 2] ** 4, 1.0)
    assert (points[:, 1] == 0.5).all()
    # Quarter turns map round outlines onto themselves exactly.
    circle = primitives.outline(1.0, 1.0, 0.0, 16)
    turned = np.stack([circle[:, 2], circle[:, 1], -circle[:, 0]], axis=-1)
    np.testing.assert_array_equal(np.roll(turned, 4, axis=0) + 0.0, circle + 0.0)
