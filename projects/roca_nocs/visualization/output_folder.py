"""The files that the demo writes, and the pages that show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from roca_nocs.data.cad_meshes import MeshFinder
from roca_nocs.data.maps import read_map
from roca_nocs.visualization.bev_animation import animation_frames, write_animation
from roca_nocs.visualization.box_pictures import find_reach
from roca_nocs.visualization.clip_result import ClipResult
from roca_nocs.visualization.image_result import ImageResult, from_annotations
from roca_nocs.visualization.inputs import Frame
from roca_nocs.visualization.pages import film_entry, image_page, index_entry, page
from roca_nocs.visualization.pictures import Canvas, draw_panel
from roca_nocs.visualization.posed_boxes import pose_boxes
from roca_nocs.visualization.posed_cads import PosedCad, pose_cads
from roca_nocs.visualization.results_json import clip_results, frame_results, write_results
from roca_nocs.visualization.results_kitti import kitti_text
from roca_nocs.visualization.scene3d import build_scene, scene_page
from roca_nocs.visualization.video import VideoWriter


class OutputFolder:
    """Writes pictures, scenes, numbers and pages of images or clips into one folder."""

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        mesh: MeshFinder | None = None,
        truth_mesh: MeshFinder | None = None,
    ) -> None:
        """
        Args:
            folder: made if it does not exist.
            names: of the classes.
            mesh: finds the CAD models that the model may choose; ``None`` for models without.
            truth_mesh: finds those of the annotations; ``None`` draws them without.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.names = list(names)
        self.mesh = mesh
        self.truth_mesh = truth_mesh
        self._entries: list[str] = []

    def write_image(self, frame: Frame, result: ImageResult) -> None:
        """``<name>.png`` and ``.json``; for results with 3D also ``.glb`` and ``.html``, and
        ``.txt`` where the objects have a heading."""
        picture = cv2.imencode(".png", self._draw(frame, result)[..., ::-1])[1].tobytes()
        self._path(frame, "png").write_bytes(picture)
        results = frame_results(frame, result, self.names)
        write_results(self._path(frame, "json"), results)
        links = ["json"]
        if result.boxes3d is not None and result.boxes3d.has_front:
            self._path(frame, "txt").write_text(kitti_text(result, self.names))
            links.append("txt")
        if result.in_space and frame.intrinsics is not None:
            cads = self._pose_cads(result, self.mesh)
            boxes = pose_boxes(result.moved(frame.offset), self.names)
            scene = build_scene(cads, frame.image, frame.intrinsics, result.depth, boxes)
            self._path(frame, "glb").write_bytes(scene.export(file_type="glb"))
            colors = {each.row: "#" + each.color.tobytes().hex() for each in (*cads, *boxes)}
            content = image_page(frame.name, results, colors, picture, scene_page(scene))
            self._path(frame, "html").write_text(content)
            links = ["html", "glb", *links]
        self._entries.append(index_entry(frame.name, len(result), links))

    def _path(self, frame: Frame, suffix: str) -> Path:
        return self.folder / f"{frame.name}.{suffix}"

    def write_video(
        self,
        name: str,
        frames: Iterable[Frame],
        rate: Fraction,
        predict: Callable[[Frame], ImageResult],
    ) -> None:
        """``<name>.mp4`` with the pictures of all frames, and ``<name>/<frame>.json``."""
        numbers = self.folder / name
        numbers.mkdir(exist_ok=True)
        path = self.folder / f"{name}.mp4"
        self._entries.append(film_entry(path.name))
        # The view from above only ever gets wider: it would flicker.
        reach = 0.0
        with VideoWriter(path, rate) as video:
            for frame in frames:
                result = predict(frame)
                reach = max(reach, find_reach(pose_boxes(result, self.names)))
                video.write(self._draw(frame, result, reach))
                results = frame_results(frame, result, self.names)
                write_results(numbers / f"{frame.index:06d}.json", results)

    def write_clip(
        self,
        sample: Mapping[str, Any],
        result: ClipResult,
        channels: Sequence[str],
        suffix: str,
    ) -> None:
        """The past, the present and the predicted future beside the truth, and ``<clip>.json``.

        Args:
            sample: of :class:`~roca_nocs.data.bev_mapper.BevClipMapper`.
            result: what was found.
            channels: names of the channels of the raster.
            suffix: of the film ``<clip>.<suffix>``: gif, webp or mp4.

        Raises:
            ValueError: the result does not have the steps and size of the annotations.
            ImportError: PyAV, which writes mp4, is missing.
        """
        name = sample["clip_id"]
        pictures = animation_frames(sample, result.instances, channels)
        write_animation(self.folder / f"{name}.{suffix}", pictures)
        results = clip_results(sample, result, self.names)
        write_results(self.folder / f"{name}.json", results)
        self._entries.append(index_entry(name, len(result), [suffix, "json"], suffix))

    def write_index(self) -> Path:
        """``index.html``, which shows everything written; returns its path."""
        path = self.folder / "index.html"
        path.write_text(page("Objects found", "\n".join(self._entries)))
        return path

    def _draw(self, frame: Frame, result: ImageResult, least_reach: float = 0.0) -> np.ndarray:
        """The panel of a frame."""
        cads = self._pose_cads(result, self.mesh)
        canvas = Canvas(frame.image, frame.intrinsics if result.in_space else None)
        truth, truth_cads = None, []
        if frame.record is not None and "annotations" in frame.record:
            truth = _annotated(frame.record, result).moved(frame.offset)
            truth_cads = self._pose_cads(truth, self.truth_mesh)
        result = result.moved(frame.offset)
        return draw_panel(canvas, result, cads, self.names, truth, truth_cads, least_reach)

    def _pose_cads(self, result: ImageResult, mesh: MeshFinder | None) -> list[PosedCad]:
        return [] if mesh is None else pose_cads(result, mesh, self.names)


def _annotated(record: Mapping[str, Any], result: ImageResult) -> ImageResult:
    """The ground truth of a record, as far as there is something to compare it with."""

    def read(name: str) -> np.ndarray | None:
        return None if record.get(f"{name}_file_name") is None else read_map(record, name)

    depth = None if result.depth is None else read("depth")
    # The posed CAD models of annotations have coordinates of their own.
    nocs = None if result.nocs is None or result.alignments is not None else read("nocs")
    return from_annotations(record["annotations"], depth, nocs).limited_to(result)
