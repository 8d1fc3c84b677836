"""The renderer of the embedded datasets against plain ways to compute the same outputs.

Whole frames: the baseline traces and shades all four samples of every pixel and traces the rays of
the whole image once more for each object's amodal mask. Rays: trimesh's own embreex front end on
the same rays, first hit only. Inputs: four rooms, two views each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import trimesh
from timing import compare

from roca_nocs.data.synthetic.assembly import SceneGeometry, scene_geometry
from roca_nocs.data.synthetic.cameras import sample_views
from roca_nocs.data.synthetic.layout import world_vertices
from roca_nocs.data.synthetic.models import TRAIN_VARIANTS
from roca_nocs.data.synthetic.raycast import RayCaster
from roca_nocs.data.synthetic.render import Renderer
from roca_nocs.data.synthetic.rooms import sample_room
from roca_nocs.data.synthetic.shading import facing_normals, shade
from roca_nocs.data.synthetic.supersampling import PixelHits
from roca_nocs.data.synthetic.types import Scene, View

Case = tuple[Scene, SceneGeometry, Renderer, View]


def main() -> None:
    scenes = [sample_room(0, "benchmark", index, TRAIN_VARIANTS) for index in range(4)]
    for size in ((120, 160), (360, 480)):
        text = f"{size[1]}x{size[0]}"
        cases = [
            (scene, scene_geometry(scene), Renderer(scene), view)
            for scene in scenes
            for view in sample_views(scene, 2, size, "rooms")
        ]
        casters = {
            id(placed): RayCaster(world_vertices(placed), placed.model.faces)
            for scene in scenes
            for placed in scene.objects
        }
        compare(
            f"room {text}, all outputs, 8 images, vs full 2x2 tracing and shading",
            lambda cases=cases, casters=casters: [render_fully(*case, casters) for case in cases],
            lambda cases=cases: [renderer.render(view) for _, _, renderer, view in cases],
        )
        compare(f"first hits {text}, vs trimesh.ray", *first_hits(cases[0]))


def render_fully(
    scene: Scene,
    geometry: SceneGeometry,
    renderer: Renderer,
    view: View,
    casters: dict[int, RayCaster],
) -> list[np.ndarray]:
    """Colour, depth, instances, NOCS, normals and amodal masks without any shortcut."""
    hits = renderer.trace(view)
    instance = geometry.instances[hits.faces]
    normals = facing_normals(geometry, hits.faces, hits.directions)
    points = hits.eye + hits.depth[:, None] * hits.directions
    nocs = np.zeros_like(points)
    for index, placed in enumerate(scene.objects, start=1):
        chosen = instance == index
        nocs[chosen] = (points[chosen] - placed.translation) @ placed.rotation / placed.scale
    masks = [
        casters[id(placed)].first_hit(hits.eye, hits.directions)[0] >= 0 for placed in scene.objects
    ]
    color = np.mean([sample(geometry, scene, hits, step) for step in hits.steps], axis=0)
    noise = np.random.default_rng(0).standard_normal(color.shape, dtype=np.float32)
    rgb = np.clip(np.rint(255.0 * color + 3.0 * noise), 0.0, 255.0).astype(np.uint8)
    return [rgb, hits.depth, instance, nocs, normals, np.stack(masks)]


def sample(geometry: SceneGeometry, scene: Scene, hits: PixelHits, step: np.ndarray) -> np.ndarray:
    """Colour of one of the four samples of every pixel."""
    directions = hits.directions + step
    faces, depth = geometry.caster.first_hit(hits.eye, directions)
    points = hits.eye + depth[:, None] * directions
    return shade(geometry, scene.lighting, faces, points, directions)[0]


def first_hits(case: Case) -> tuple[Callable[[], object], Callable[[], object]]:
    """Nearest triangle of each ray: trimesh's way and ours."""
    scene, geometry, renderer, view = case
    parts = [(world_vertices(placed), placed.model.faces) for placed in scene.objects]
    parts += [(surface.vertices, surface.faces) for surface in scene.surfaces]
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in parts[:-1])])
    vertices = np.concatenate([vertices for vertices, _ in parts])
    faces = np.concatenate([faces + n for (_, faces), n in zip(parts, starts, strict=True)])
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    hits = renderer.trace(view)
    origins = np.broadcast_to(hits.eye, hits.directions.shape)
    return (
        lambda: mesh.ray.intersects_first(origins, hits.directions),
        lambda: geometry.caster.first_hit(hits.eye, hits.directions),
    )


if __name__ == "__main__":
    main()
