"""A hand-made record in ROCA's layout: two tilted squares with exact poses, written to a folder."""

from pathlib import Path

import cv2
import numpy as np
import torch

from roca_nocs.geometry.camera import pixel_rays
from roca_nocs.geometry.rotation import quaternion_to_matrix

HEIGHT, WIDTH = 60, 80
INTRINSICS = np.array([[75.0, 0, 40.3], [0, 75.0, 29.1], [0, 0, 1]])
# (alignment id, class, q (w, x, y, z), t, s, symmetry)
OBJECTS = [
    (3, 5, (0.95, 0.2, -0.2, 0.1), (-0.35, -0.1, 2.0), (0.9, 0.7, 0.8), "__SYM_NONE"),
    (7, 8, (0.97, -0.1, 0.2, 0.05), (0.45, 0.15, 2.4), (1.0, 1.0, 1.2), "__SYM_ROTATE_UP_2"),
]


def render() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Id map (uint8), depth (metres) and NOCS of the squares x, y in [-1/2, 1/2], z = 0."""
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    depth = np.full((HEIGHT, WIDTH), np.inf)
    nocs = np.zeros((HEIGHT, WIDTH, 3))
    rays = pixel_rays(torch.from_numpy(INTRINSICS), (HEIGHT, WIDTH)).numpy()
    for number, _, q, t, s, _ in OBJECTS:
        rotation = quaternion_to_matrix(torch.tensor(q, dtype=torch.float64)).numpy()
        normal = rotation[:, 2]
        distance = (normal @ np.array(t)) / (rays @ normal)
        model = ((rays * distance[..., None] - t) @ rotation) / s
        inside = (np.abs(model[..., :2]) <= 0.5).all(-1) & (distance > 0) & (distance < depth)
        ids[inside], depth[inside], nocs[inside] = number, distance[inside], model[inside]
    depth[~np.isfinite(depth)] = 0
    return ids, depth, nocs


def write_record(folder: Path) -> dict:
    """Write the images and return their record, as ``load_scan2cad`` makes it."""
    ids, depth, nocs = render()
    color = np.random.default_rng(0).integers(60, 190, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    color[ids > 0] //= 2
    names = {name: str(folder / f"{name}.png") for name in ("color", "instance", "depth", "nocs")}
    cv2.imwrite(names["color"], color)
    cv2.imwrite(names["instance"], ids)
    cv2.imwrite(names["depth"], np.round(depth * 1000).astype(np.uint16))
    cv2.imwrite(names["nocs"], np.round((nocs + 1) * 10000).astype(np.uint16))
    return {
        "layout": "scan2cad",
        "file_name": names["color"],
        "height": HEIGHT,
        "width": WIDTH,
        "image_id": 11,
        "scene_id": "scene0000_00",
        "intrinsics": INTRINSICS.copy(),
        "instance_file_name": names["instance"],
        "depth_file_name": names["depth"],
        "nocs_file_name": names["nocs"],
        "annotations": [
            {
                "bbox": [0, 0, 1, 1],
                "bbox_mode": 1,
                "iscrowd": 0,
                "category_id": category,
                "alignment_id": number,
                "q": q,
                "t": t,
                "s": s,
                "sym": symmetry,
                "model": {"catid_cad": "03001627", "id_cad": f"model_{number}"},
            }
            for number, category, q, t, s, symmetry in OBJECTS
        ],
    }
