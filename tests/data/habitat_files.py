"""Writes scenes of the embedded generator as the Habitat generator of ganocs does."""

import json
import math
from pathlib import Path

import cv2
import numpy as np

from roca_nocs.data.synthetic.cameras import sample_views
from roca_nocs.data.synthetic.render import Renderer
from roca_nocs.data.synthetic.tabletop import sample_tabletop
from roca_nocs.data.synthetic.types import Scene, View

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
CLASS_ID = 7


def tabletop_views(index: int, count: int, size: tuple[int, int]) -> tuple[Scene, list[View]]:
    scene = sample_tabletop(0, "camera/train", index, range(4))
    return scene, sample_views(scene, count, size, "tabletop")


def write_scene(folder: Path, scene: Scene, views: list[View]) -> None:
    """All files of a scene; the annotated objects are the class, the others none of ours."""
    folder.mkdir(parents=True)
    renderer = Renderer(scene)
    height, width = views[0].size
    focal = views[0].intrinsics[0, 0]
    episodes = []
    for number, view in enumerate(views):
        frame = renderer.render(view)
        coordinates = np.zeros((height, width, 3))
        objects, lines = {}, []
        for index, placed in enumerate(scene.objects):
            mask = frame.instance == index + 1
            if not mask.any():
                continue
            # The model of Habitat is metric; its box is that of the scaled vertices.
            vertices = placed.model.vertices * placed.scale
            lower, upper = vertices.min(axis=0), vertices.max(axis=0)
            diagonal = np.linalg.norm(upper - lower)
            coordinates[mask] = frame.nocs[mask] * placed.scale / diagonal + 0.5
            to_world = np.eye(4)
            to_world[:3, :3], to_world[:3, 3] = placed.rotation, placed.translation
            rows, columns = np.nonzero(mask)
            objects[f"object_{index}_:0000"] = {
                "camera_T_image": FLIP.tolist(),
                "camera_T_object": (FLIP @ view.world_to_camera @ to_world).tolist(),
                "world_T_rgb": (np.linalg.inv(view.world_to_camera) @ FLIP).tolist(),
                "semantic_id": index + 1,
                "bbox": {"min": lower.tolist(), "max": upper.tolist()},
                "2box": {
                    "min": [float(rows.min()), float(columns.min())],
                    "max": [float(rows.max()), float(columns.max())],
                },
            }
            class_id = CLASS_ID if placed.annotated else 3
            lines.append(f"{index + 1} {class_id} shapes/{placed.model.model_id}/model.obj\n")
        names = {kind: f"{number}_{kind}" for kind in ("color", "depth", "mask", "coord")}
        # The writer hands an array x, y, z to OpenCV, which takes x for blue.
        stored = np.round(coordinates * 255).astype(np.uint8)
        depth = np.round(frame.depth * 1000).astype(np.uint16)
        for kind, image in (
            ("color", frame.rgb[..., ::-1]),
            ("depth", depth),
            ("mask", frame.instance),
            ("coord", stored),
        ):
            assert cv2.imwrite(str(folder / f"{names[kind]}.png"), image)
        (folder / f"{number}_meta.txt").write_text("".join(lines))
        episodes.append({**names, "objects": objects, "word_T_agent": np.eye(4).tolist()})
    data = {
        "source": "habitat",
        "meta": {
            "camera_intrinsic": views[0].intrinsics.tolist(),
            "img_format": "png",
            "hfov": math.degrees(2 * math.atan(width / 2 / focal)),
            "resolution": [float(width), float(height)],
        },
        "object_handles": {},
        "episodes": episodes,
    }
    (folder / "metadata.json").write_text(json.dumps(data))
