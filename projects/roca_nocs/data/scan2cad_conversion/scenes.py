"""One scene: resized images, rendered depth and instance maps, annotations."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..coco_json import DatasetError
from ..masks import mask_fields
from ..scannet_images import resize_image, resize_intrinsics
from ..synthetic.encoding import image_bytes, millimetres
from ..synthetic.manifest import FileWriter
from ..synthetic.raycast import RayCaster, pixel_directions
from ..synthetic.write_rooms import matrix_text
from .annotations import PlacedModel, SceneAnnotation
from .cads import load_cad
from .frames import RawFrame, list_frames, read_intrinsics

JPEG_QUALITY = 95
NOC_UNITS = 10000


@dataclass(frozen=True)
class SceneSettings:
    """What the files of a scene depend on besides its raw data.

    Attributes:
        height, width: of the images, pixels.
        nocs: whether NOC maps are written.
    """

    height: int = 360
    width: int = 480
    nocs: bool = False


class PlacedMeshes:
    """The models of a scan as one surface for ray queries, in the frame of the scan.

    Args:
        models: the models.
        meshes: vertices (V, 3) and faces (F, 3) of each, in the model frame.
    """

    def __init__(
        self, models: tuple[PlacedModel, ...], meshes: list[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        self._models = models
        if not models:
            return
        placed = [
            _transform(model.model_to_scan, vertices)
            for model, (vertices, _) in zip(models, meshes, strict=True)
        ]
        starts = np.cumsum([0, *(len(vertices) for vertices in placed[:-1])])
        faces = [each + start for (_, each), start in zip(meshes, starts, strict=True)]
        ids = np.array([model.idx for model in models], dtype=np.uint8)
        owners = np.repeat(ids, [len(each) for each in faces])
        # The last entry is what a ray without a hit, face -1, finds.
        self._owners = np.append(owners, np.uint8(0))
        self._caster = RayCaster(np.concatenate(placed), np.concatenate(faces))

    def render(
        self, intrinsics: np.ndarray, camera_to_scan: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """What a camera sees; both sides of every triangle, from the near plane on.

        Args:
            intrinsics: (3, 3), pixel centres at integer coordinates.
            camera_to_scan: (4, 4).
            size: (height, width).

        Returns:
            depth (H, W) float32, metres, 0 where nothing was hit, and the models' ``idx`` (H, W)
            uint8, 0 where nothing was hit.
        """
        if not self._models:
            return np.zeros(size, np.float32), np.zeros(size, np.uint8)
        rays = pixel_directions(intrinsics, np.arange(size[1])[None], np.arange(size[0])[:, None])
        directions = _rotate(camera_to_scan[:3, :3], rays.reshape(-1, 3))
        hit, depth = self._caster.first_hit(camera_to_scan[:3, 3], directions)
        return depth.reshape(size), self._owners[hit].reshape(size)

    def nocs(
        self,
        depth: np.ndarray,
        instance: np.ndarray,
        intrinsics: np.ndarray,
        camera_to_scan: np.ndarray,
    ) -> np.ndarray:
        """Model coordinates (H, W, 3) float64 of what :meth:`render` hit, 0 elsewhere."""
        nocs = np.zeros((*depth.shape, 3))
        for model in self._models:
            rows, columns = np.nonzero(instance == model.idx)
            points = pixel_directions(intrinsics, columns, rows) * depth[rows, columns, None]
            to_model = np.linalg.inv(model.model_to_scan) @ camera_to_scan
            nocs[rows, columns] = _transform(to_model, points)
        return nocs


def convert_scene(
    writer: FileWriter,
    scene_folder: Path,
    annotation: SceneAnnotation,
    settings: SceneSettings,
    frames: Collection[str] | None,
) -> dict[str, Any]:
    """Write the files of a scene; its CAD models have been converted below ``writer.root``.

    Args:
        writer: where the files go.
        scene_folder: raw data of the scene.
        annotation: its CAD models.
        settings: see there.
        frames: names of the frames to take; ``None`` takes all.

    Returns:
        ``images`` (records of the annotation file without ids, each with its ``annotations``),
        ``models`` (objects of the nine classes in the frame of the scan) and ``lost_frames``
        (names of the frames without a pose, which are left out).

    Raises:
        DatasetError: names the file, or the model.
    """
    raw_intrinsics = read_intrinsics(scene_folder)
    raw_size: tuple[int, ...] = ()
    loaded = {key: load_cad(writer.root, key) for key in {m.key for m in annotation.models}}
    meshes = [(loaded[m.key].vertices, loaded[m.key].faces) for m in annotation.models]
    surface = PlacedMeshes(annotation.models, meshes)
    size = settings.height, settings.width

    images, lost = [], []
    for frame in list_frames(scene_folder, frames):
        camera_to_scan = frame.camera_to_scan()
        if camera_to_scan is None:
            lost.append(frame.name)
            continue
        image = frame.image()
        if raw_size and image.shape != raw_size:
            raise DatasetError(
                f"{frame.color_file}: {image.shape[1]}x{image.shape[0]} pixels; the images before "
                f"it have {raw_size[1]}x{raw_size[0]}, and a scene has one camera."
            )
        raw_size = image.shape
        intrinsics = resize_intrinsics(raw_intrinsics, raw_size[:2], size)
        images.append(
            _write_frame(
                writer, annotation, surface, frame, image, intrinsics, camera_to_scan, settings
            )
        )
    if images:
        folder = _image_folder(annotation.scene_id)
        writer.write_text(f"Images/{folder}/intrinsics_color.txt", matrix_text(intrinsics))
    return {"images": images, "models": _scene_models(annotation), "lost_frames": lost}


def _image_folder(scene_id: str) -> str:
    return f"tasks/scannet_frames_25k/{scene_id}"


def _write_frame(
    writer: FileWriter,
    annotation: SceneAnnotation,
    surface: PlacedMeshes,
    frame: RawFrame,
    image: np.ndarray,
    intrinsics: np.ndarray,
    camera_to_scan: np.ndarray,
    settings: SceneSettings,
) -> dict[str, Any]:
    scene_id, size = annotation.scene_id, (settings.height, settings.width)
    camera = intrinsics[:3, :3]
    depth, instance = surface.render(camera, camera_to_scan, size)
    maps: dict[str, np.ndarray] = {"depth": millimetres(depth), "instance": instance}
    if settings.nocs:
        nocs = surface.nocs(depth, instance, camera, camera_to_scan)
        # Stored with x as the first channel, as OpenCV writes it.
        maps["noc"] = np.clip(np.round((nocs + 1) * NOC_UNITS), 0, 65535).astype(np.uint16)
    for kind, values in maps.items():
        writer.write(f"Rendering/{scene_id}/{kind}/{frame.name}.png", image_bytes(".png", values))
    folder = _image_folder(scene_id)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    color = image_bytes(".jpg", resize_image(image, size), quality)
    writer.write(f"Images/{folder}/color/{frame.name}.jpg", color)
    writer.write(f"Images/{folder}/pose/{frame.name}.txt", frame.pose_file.read_bytes())
    return {
        "height": size[0],
        "width": size[1],
        "scene_id": scene_id,
        "file_name": f"{folder}/color/{frame.name}.jpg",
        "duplicate": False,
        "annotations": _annotations(annotation, instance, camera, camera_to_scan),
    }


def _annotations(
    annotation: SceneAnnotation,
    instance: np.ndarray,
    intrinsics: np.ndarray,
    camera_to_scan: np.ndarray,
) -> list[dict[str, Any]]:
    """Visible objects of the nine classes whose CAD origin projects into the image."""
    visible = np.bincount(instance.ravel(), minlength=256) > 0
    scan_to_camera = np.linalg.inv(camera_to_scan)
    annotations = []
    for model in annotation.models:
        if model.category_id is None or not visible[model.idx]:
            continue
        pose = model.pose_fields(scan_to_camera)
        x, y, z = intrinsics @ pose["t"]
        height, width = instance.shape
        if z <= 0 or not (0 <= x / z < width and 0 <= y / z < height):
            continue
        catalog_id, model_id = model.key
        annotations.append(
            {
                **mask_fields(instance == model.idx),
                "iscrowd": 0,
                "category_id": model.category_id,
                "scene_id": annotation.scene_id,
                "is_cad": True,
                "intrinsics": intrinsics.tolist(),
                "duplicate": False,
                "alignment_id": model.idx,
                **pose,
                "sym": model.symmetry,
                "model": {
                    "scene_id": annotation.scene_id,
                    "catid_cad": catalog_id,
                    "id_cad": model_id,
                    "idx": model.idx,
                },
            }
        )
    return annotations


def _scene_models(annotation: SceneAnnotation) -> list[dict[str, Any]]:
    return [
        {
            "idx": model.idx,
            "catid_cad": model.key[0],
            "id_cad": model.key[1],
            **model.pose_fields(np.eye(4)),
            "to_scene": annotation.to_scene.tolist(),
            "category_id": model.category_id,
            "sym": model.symmetry,
        }
        for model in annotation.models
        if model.category_id is not None
    ]


def _transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 3) float64 points under an affine (4, 4) matrix."""
    return _rotate(matrix[:3, :3], points.astype(np.float64)) + matrix[:3, 3]


def _rotate(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Not a matrix product: BLAS rounds differently from one number of threads to the next."""
    return sum(points[:, i, None] * matrix[:, i] for i in range(3))
