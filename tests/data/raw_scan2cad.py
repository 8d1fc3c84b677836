"""A tiny ScanNet25k + Scan2CAD + ShapeNet as their authors lay them out, with known poses."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from roca_nocs.data.categories import SCAN2CAD_SYNSETS
from roca_nocs.data.scan2cad_conversion.convert import Sources
from roca_nocs.data.synthetic.encoding import obj_bytes
from roca_nocs.data.synthetic.models import build_model
from roca_nocs.data.synthetic.types import CadModel
from roca_nocs.data.synthetic.write_rooms import matrix_text

RAW_SIZE = 162, 122
RAW_INTRINSICS = np.array([[146.0, 0, 80.9, 0], [0, 146.3, 61.2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
BOX_SYNSET = "02773838"  # no class of Scan2CAD's nine
TRAIN_SCENE, VAL_SCENE = "scene0000_00", "scene0001_00"
MODELS = [("chair", 0), ("table", 1), ("bin", 2)]

# Model to the camera of the first frame: rotation vector (degrees), scale, translation (metres).
POSES = {
    ("chair", 0): ([170, 20, 10], [0.9, 1.0, 0.8], [-0.5, 0.1, 2.4]),
    ("table", 1): ([165, -30, 5], [1.3, 1.1, 1.2], [0.6, 0.3, 3.0]),
    ("bin", 2): ([172, 0, 40], [0.6, 0.7, 0.6], [0.1, -0.55, 2.0]),
}


def affine(rotation: np.ndarray, scale: list[float], translation: list[float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.asarray(scale)
    matrix[:3, 3] = translation
    return matrix


def model_to_camera(name: str, variant: int) -> np.ndarray:
    vector, scale, translation = POSES[name, variant]
    return affine(Rotation.from_rotvec(vector, degrees=True).as_matrix(), scale, translation)


def cameras(scene: str) -> list[np.ndarray]:
    """camera_to_scan of the two frames; the second one turns by a few degrees."""
    turn = Rotation.from_euler("xyz", [100, 30 if scene == TRAIN_SCENE else -70, 12], degrees=True)
    first = affine(turn.as_matrix(), [1, 1, 1], [3.0, -2.0, 1.4])
    step = Rotation.from_euler("xyz", [2, -5, 3], degrees=True).as_matrix()
    return [first, first @ affine(step, [1, 1, 1], [0.1, 0.05, 0.0])]


def trs(matrix: np.ndarray) -> dict[str, list[float]]:
    scale = np.linalg.norm(matrix[:3, :3], axis=0)
    x, y, z, w = Rotation.from_matrix(matrix[:3, :3] / scale).as_quat()
    return {
        "translation": matrix[:3, 3].tolist(),
        "rotation": [w, x, y, z],
        "scale": scale.tolist(),
    }


def cad_key(model: CadModel) -> tuple[str, str]:
    return SCAN2CAD_SYNSETS[model.category], model.model_id


def write_obj(shapenet: Path, key: tuple[str, str], model: CadModel) -> None:
    path = shapenet / key[0] / key[1] / "models" / "model_normalized.obj"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(obj_bytes(model.vertices, model.faces))


def write_raw(root: Path) -> Sources:
    """Write two scenes of two frames each, with three annotated objects, a fourth whose centre lies
    outside the image (train scene only) and a box of a foreign class far behind."""
    models = {pair: build_model(*pair) for pair in MODELS}
    for model in models.values():
        write_obj(root / "shapenet", cad_key(model), model)
    carton = build_model("carton", 0)
    write_obj(root / "shapenet", (BOX_SYNSET, "box"), carton)

    annotations = []
    for number, scene in enumerate((TRAIN_SCENE, VAL_SCENE)):
        poses = cameras(scene)
        write_scene(root / "scannet" / scene, poses, seed=number)
        scan_to_world = affine(
            Rotation.from_euler("xyz", [5, 80, -30], degrees=True).as_matrix(),
            [1, 1, 1],
            [-1.0, 0.5, 2.0],
        )
        placed = [(cad_key(models[p]), models[p].symmetry, model_to_camera(*p)) for p in MODELS]
        behind = affine(np.eye(3), [0.8, 0.8, 0.8], [-0.9, -0.9, 4.0])
        placed.insert(1, ((BOX_SYNSET, "box"), "__SYM_NONE", behind))
        if scene == TRAIN_SCENE:
            chair = models["chair", 0]
            cut = affine(Rotation.from_rotvec([np.pi, 0, 0]).as_matrix(), [1, 1, 1], [1.45, 0, 2.4])
            placed.append((cad_key(chair), chair.symmetry, cut))
        annotations.append(
            {
                "id_scan": scene,
                "trs": trs(scan_to_world),
                "aligned_models": [
                    {
                        "sym": symmetry,
                        "catid_cad": catalog_id,
                        "id_cad": model_id,
                        "trs": trs(scan_to_world @ poses[0] @ matrix),
                    }
                    for (catalog_id, model_id), symmetry, matrix in placed
                ],
            }
        )
    path = root / "full_annotations.json"
    path.write_text(json.dumps(annotations))
    return Sources(
        scannet=root / "scannet",
        annotations=path,
        shapenet=root / "shapenet",
        scenes={"train": [TRAIN_SCENE], "val": [VAL_SCENE]},
    )


def write_scene(folder: Path, poses: list[np.ndarray], seed: int) -> None:
    for name in ("color", "pose"):
        (folder / name).mkdir(parents=True)
    (folder / "intrinsics_color.txt").write_text(matrix_text(RAW_INTRINSICS))
    rng = np.random.default_rng(seed)
    for number, pose in enumerate(poses):
        image = rng.integers(0, 255, (RAW_SIZE[1] // 4, RAW_SIZE[0] // 4, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "color" / f"{100 * number:06d}.jpg"), cv2.resize(image, RAW_SIZE))
        (folder / "pose" / f"{100 * number:06d}.txt").write_text(matrix_text(pose))
