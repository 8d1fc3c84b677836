"""Several views of a scene as one sample, and a second stream of such samples in training."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T

from roca_nocs.data.images import describe
from roca_nocs.data.loader import TrainLoader, build_train_loader
from roca_nocs.data.mappers import SceneMapper, find_flip
from roca_nocs.data.transforms import SceneInput, chirality_message
from roca_nocs.geometry.rotation import quaternion_to_matrix

logger = logging.getLogger(__name__)

FRAMES = ("world", "object")


def group_views(records: Sequence[dict[str, Any]], frame: str = "world") -> list[dict[str, Any]]:
    """One record per scene, of all its views that have a camera pose.

    Args:
        records: of single images, with ``scene_id``.
        frame: ``"world"`` takes the ``camera_pose`` of the records: nothing in a scene may have
            moved between its images. ``"object"`` takes the pose of the camera relative to the
            object that most images of the scene show (the smallest ``alignment_id`` of several):
            right for still scenes that have object poses alone, and for scenes with one object
            that is put elsewhere for every image.

    Returns:
        Dictionaries with ``scene_id`` and ``views``, at least two records with ``camera_pose``
        ((4, 4) float64, camera to world or object, metres). Other images are left out and counted.

    Raises:
        ValueError: unknown frame, a record without a scene, or no scene with two views.
    """
    if frame not in FRAMES:
        raise ValueError(f"frame must be one of {FRAMES}, got {frame!r}")
    scenes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if "scene_id" not in record:
            raise ValueError(f"{describe(record)}: views are grouped by 'scene_id', which it lacks")
        scenes[record["scene_id"]].append(record)
    groups = []
    for scene_id, members in scenes.items():
        views = members if frame == "world" else _relative_to_object(members)
        views = [view for view in views if "camera_pose" in view]
        if len(views) > 1:
            groups.append({"scene_id": scene_id, "views": views})
    kept = sum(len(group["views"]) for group in groups)
    if not groups:
        raise ValueError(
            f"none of the {len(scenes)} scenes has two images with a camera pose (frame={frame!r})"
        )
    logger.info("%d views of %d scenes; left out %d.", kept, len(groups), len(records) - kept)
    return groups


def _relative_to_object(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copies of the records of a scene that show its most frequent object, with camera poses."""
    poses = [
        {each["alignment_id"]: each for each in record["annotations"] if "q" in each}
        for record in records
    ]
    seen = Counter(number for annotations in poses for number in annotations)
    if not seen:
        return []
    chosen = min(seen, key=lambda number: (-seen[number], number))
    return [
        {**record, "camera_pose": _camera_in_object(annotations[chosen])}
        for record, annotations in zip(records, poses, strict=True)
        if chosen in annotations
    ]


def _camera_in_object(annotation: dict[str, Any]) -> np.ndarray:
    """(4, 4) float64, camera to the object's frame in metres."""
    quaternion = torch.tensor(annotation["q"], dtype=torch.float64)
    rotation = quaternion_to_matrix(quaternion).numpy()
    pose = np.eye(4)
    pose[:3, :3] = rotation.T
    pose[:3, 3] = -rotation.T @ np.asarray(annotation["t"], dtype=np.float64)
    return pose


class ViewMapper(SceneMapper):
    """:class:`SceneMapper` with depth and ``camera_pose`` (4, 4) float64, camera to world.

    The pose follows augmentations that turn the camera.
    """

    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform] = (),
        image_format: str = "RGB",
    ) -> None:
        """
        Args:
            augmentations, image_format: see :class:`SceneMapper`.

        Raises:
            ValueError: a flip; no camera pose describes a mirrored view.
        """
        super().__init__(
            True, augmentations=augmentations, image_format=image_format, maps=("depth",)
        )
        self.chiral = True
        if (flip := find_flip(list(augmentations))) is not None:
            raise ValueError(chirality_message(flip))

    def _add_targets(
        self, result: dict[str, Any], record: dict[str, Any], scene: SceneInput
    ) -> None:
        super()._add_targets(result, record, scene)
        pose = torch.from_numpy(np.array(record["camera_pose"], dtype=np.float64))
        # The old camera's axes in the new one are the columns of camera_rotation.
        pose[:3, :3] = pose[:3, :3] @ scene.camera_rotation.mT
        result["camera_pose"] = pose


class MultiViewMapper:
    """Some views of a scene, drawn at random, as one sample: ``{"views": [...]}``."""

    def __init__(self, view_mapper: ViewMapper, num_views: int = 2) -> None:
        """
        Args:
            view_mapper: maps single views.
            num_views: how many to draw, without replacement; scenes with fewer give all.
        """
        if num_views < 2:
            raise ValueError(f"num_views must be at least 2, got {num_views}")
        self.view_mapper = view_mapper
        self.num_views = num_views

    def __call__(self, group: dict[str, Any]) -> dict[str, Any]:
        """Map one record of :func:`group_views`; draws from torch's global generator."""
        views = group["views"]
        drawn = torch.randperm(len(views))[: self.num_views].tolist()
        return {"views": [self.view_mapper(views[index]) for index in drawn]}


class JointLoader:
    """Two training loaders side by side: the batches of the first carry the scenes of the second.

    In every batch, some samples get the key ``views``: the views of a scene, mapped by
    :class:`MultiViewMapper`. Scenes are spread evenly over the samples, so that the parts of an
    accumulated batch get their share. Both streams are endless and resume by themselves.
    """

    def __init__(self, main: TrainLoader, multiview: TrainLoader) -> None:
        """
        Args:
            main: gives the samples that a model is trained on anyway.
            multiview: gives multi-view samples, at most as many a batch as ``main``.
        """
        self.main = main
        self.multiview = multiview

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for batch, scenes in zip(self.main, self.multiview, strict=True):
            if len(scenes) > len(batch):
                raise ValueError(
                    f"{len(scenes)} scenes a step cannot be spread over {len(batch)} images: "
                    "lower the total_batch_size of the multi-view loader"
                )
            for number, scene in enumerate(scenes):
                batch[number * len(batch) // len(scenes)]["views"] = scene["views"]
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The states of both loaders."""
        return {"main": self.main.state_dict(), "multiview": self.multiview.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue behind ``state``; takes effect at the next ``iter()``."""
        self.main.load_state_dict(state["main"])
        self.multiview.load_state_dict(state["multiview"])


def build_joint_loader(*, multiview: TrainLoader, **main: Any) -> JointLoader:
    """The loader of a config with two streams.

    Args:
        multiview: loader of multi-view samples.
        main: arguments of ``build_train_loader`` for the samples that carry them.
    """
    return JointLoader(build_train_loader(**main), multiview)
