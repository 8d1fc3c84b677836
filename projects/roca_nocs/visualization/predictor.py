"""A trained model on images that lie in memory, or on clips of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from torch import nn

from roca_nocs.data.bev_mapper import BevClipMapper
from roca_nocs.data.cad_catalog import load_scene_candidates
from roca_nocs.data.cad_databases import (
    catalog_sources,
    load_sources,
    make_database,
    stored_sources,
)
from roca_nocs.data.cad_meshes import MeshFinder, catalog_meshes
from roca_nocs.data.mono3d_mapper import Mono3DMapper, transform_projection
from roca_nocs.data.nocs_mapper import NocsMapper
from roca_nocs.data.transforms import SceneInput
from roca_nocs.visualization.clip_result import ClipResult, from_clip_output
from roca_nocs.visualization.image_result import ImageResult, from_output
from roca_nocs.visualization.inputs import Frame, InputError

CAMERA_NEEDED = (
    "a model that finds 3D poses has to know the camera: give --intrinsics fx,fy,cx,cy (or a file "
    "with the matrix), or --fov with the horizontal field of view in degrees (about 65 for a phone)"
)


class Predictor:
    """Applies the test-time transforms of a mapper and a model to frames.

    The camera and the depth map follow the transforms of the image, e.g. a resizing.

    Attributes:
        retrieves_cads: whether the model can be given a CAD database.
        reads_depth: whether it uses measured depth, where there is some.
        needs_camera: whether nothing is found in a frame without intrinsics.
        assumes_camera: whether the model finds 3D boxes without intrinsics too, up to a factor.
    """

    def __init__(self, model: nn.Module, mapper: Any, threshold: float) -> None:
        """
        Args:
            model: in evaluation mode.
            mapper: of the test data, with ``augmentations`` and ``image_format``; tells what the
                model gets besides the image.
            threshold: smallest score of a detection.
        """
        self.model = model
        self.augmentations = mapper.augmentations
        self.image_format = mapper.image_format
        self.threshold = threshold
        self.retrieves_cads = hasattr(model, "set_cad_database")
        self.reads_depth = isinstance(mapper, NocsMapper) and "depth" in mapper.maps
        self.needs_camera = self.retrieves_cads or isinstance(mapper, NocsMapper)
        self.assumes_camera = isinstance(mapper, Mono3DMapper)

    def use_cads(
        self, path: Path | None, dataset: str, *, by_scene: bool
    ) -> tuple[MeshFinder, frozenset[str]]:
        """Let the model choose among the CAD models of a path, or else of a dataset.

        Args:
            path: of catalogues, see ``stored_sources``.
            dataset: registered name, used where there is no path.
            by_scene: limit the choice to the models of an image's scene, where the dataset lists
                them; otherwise any image may show any model.

        Returns:
            How to find the meshes, and the scenes whose models are listed.

        Raises:
            DatasetError: there is no catalogue, or it is damaged.
        """
        limited = by_scene and path is None
        scenes_file = MetadataCatalog.get(dataset).get("scenes_file") if limited else None
        candidates = load_scene_candidates(scenes_file) if scenes_file else {}
        catalog = load_sources(stored_sources(path) if path else catalog_sources(dataset))
        # Whatever shapes there are: the model says which it needs.
        voxels, points = (
            all(len(getattr(entry, name)) for entry in catalog.entries)
            for name in ("voxels", "points")
        )
        source = str(path or dataset)
        database = make_database(catalog, source, candidates, voxels=voxels, points=points)
        self.model.set_cad_database(database)
        return catalog_meshes(catalog), frozenset(candidates)

    def __call__(self, frame: Frame) -> ImageResult:
        """Detect.

        Raises:
            InputError: the model needs intrinsics and the frame has none.
        """
        data = self.prepare(frame)
        with torch.no_grad():
            output = self.model([data])[0]
        return from_output(output, self.threshold, frame.depth if self.reads_depth else None)

    def prepare(self, frame: Frame) -> dict[str, Any]:
        """What the model gets.

        Raises:
            InputError: see :meth:`__call__`.
        """
        if self.needs_camera and frame.intrinsics is None:
            raise InputError(f"{frame.file_name}: {CAMERA_NEEDED}")
        height, width = frame.image.shape[:2]
        data: dict[str, Any] = {"file_name": frame.file_name, "height": height, "width": width}
        image = frame.image[..., ::-1] if self.image_format == "BGR" else frame.image
        if frame.intrinsics is None or self.assumes_camera:
            augmented = T.AugInput(image)
            transforms = self.augmentations(augmented)
            if frame.intrinsics is not None:
                projection = torch.from_numpy(frame.projection())
                data["projection"] = transform_projection(transforms, projection).float()
        else:
            matrix = torch.as_tensor(frame.intrinsics, dtype=torch.float64)
            maps = {"depth": frame.depth} if self.reads_depth and frame.depth is not None else {}
            augmented = SceneInput(image, matrix, maps, chiral=False)
            self.augmentations(augmented)
            data["intrinsics"] = augmented.intrinsics.float()
            for name, array in augmented.maps.items():
                data[name] = torch.from_numpy(np.ascontiguousarray(array))
        if frame.scene_id is not None:
            data["scene_id"] = frame.scene_id
        pixels = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        return data | {"image": torch.from_numpy(pixels)}


class ClipPredictor:
    """Applies a model of clips to records of a dataset."""

    def __init__(self, model: nn.Module, mapper: BevClipMapper, threshold: float) -> None:
        """
        Args:
            model: in evaluation mode.
            mapper: of the test data.
            threshold: smallest score of an instance.
        """
        self.model = model
        self.mapper = mapper
        self.threshold = threshold

    def __call__(self, record: Mapping[str, Any]) -> tuple[dict[str, Any], ClipResult]:
        """The sample that the mapper makes of a record, and what the model finds in it.

        Raises:
            InputError: the clip is damaged, or shorter than what the model is made for.
        """
        try:
            sample = self.mapper(record)
        except ValueError as error:
            raise InputError(str(error)) from error
        with torch.no_grad():
            (output,) = self.model([sample])
        return sample, from_clip_output(output, self.threshold)
