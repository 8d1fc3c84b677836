"""Arrays and meshes as the bytes of image and mesh files, the same for the same input."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import trimesh

from .types import CadModel


def image_bytes(suffix: str, image: np.ndarray, options: Sequence[int] = ()) -> bytes:
    """An image as the bytes of its file.

    Args:
        suffix: ``".png"`` or ``".jpg"``.
        image: (H, W) or (H, W, 3), channels in OpenCV's order (blue first).
        options: of OpenCV's writer.
    """
    done, content = cv2.imencode(suffix, np.ascontiguousarray(image), list(options))
    if not done:
        raise RuntimeError(f"OpenCV cannot write {suffix} of {image.dtype} {image.shape}.")
    return content.tobytes()


def millimetres(depth: np.ndarray) -> np.ndarray:
    """Depth in metres as whole millimetres, uint16.

    Raises:
        ValueError: a depth needs more than 16 bits.
    """
    values = np.round(depth * 1000)
    if values.max(initial=0) > np.iinfo(np.uint16).max:
        raise ValueError(f"A depth of {depth.max():.1f} m does not fit 16 bits of millimetres.")
    return values.astype(np.uint16)


def obj_bytes(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """A mesh as a Wavefront OBJ file.

    Args:
        vertices: (V, 3).
        faces: (F, 3) vertex indices from 0.
    """
    lines = [f"v {x:.7f} {y:.7f} {z:.7f}\n" for x, y, z in vertices.tolist()]
    lines += [f"f {a} {b} {c}\n" for a, b, c in (faces + 1).tolist()]
    return "".join(lines).encode("ascii")


def glb_bytes(model: CadModel) -> bytes:
    """A model as a binary glTF file with one named node per part."""
    scene = trimesh.Scene()
    for number, name in enumerate(model.part_names):
        faces = model.faces[model.face_parts == number]
        used, faces = np.unique(faces, return_inverse=True)
        part = trimesh.Trimesh(model.vertices[used], faces.reshape(-1, 3), process=False)
        scene.add_geometry(part, node_name=name, geom_name=name)
    return scene.export(file_type="glb")
