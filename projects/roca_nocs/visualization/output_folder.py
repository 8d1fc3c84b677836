"""The files that the demo writes, and the pages that show them."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from roca_nocs.data.cad_meshes import MeshFinder
from roca_nocs.data.maps import read_map
from roca_nocs.visualization.image_result import ImageResult, from_annotations
from roca_nocs.visualization.inputs import Frame
from roca_nocs.visualization.pictures import Canvas, draw_panel
from roca_nocs.visualization.posed_cads import PosedCad, pose_cads
from roca_nocs.visualization.results_json import frame_results, write_results
from roca_nocs.visualization.scene3d import build_scene, scene_page
from roca_nocs.visualization.video import VideoWriter

_STYLE = """
body { font-family: sans-serif; margin: 1.5em auto; max-width: 1300px; padding: 0 1em; color: #222 }
img, iframe { width: 100%; border: 1px solid #ccc; box-sizing: border-box }
iframe { height: 65vh }
table { border-collapse: collapse; margin: 1em 0 }
video { width: 100% }
td, th { padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: left }
.color { width: 1em }
"""


class OutputFolder:
    """Writes pictures, scenes, numbers and pages of images into one folder."""

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        mesh: MeshFinder | None,
        truth_mesh: MeshFinder | None,
    ) -> None:
        """
        Args:
            folder: made if it does not exist.
            names: of the classes.
            mesh: finds the CAD models that the model may choose; ``None`` for models without 3D.
            truth_mesh: finds those of the annotations; ``None`` draws them without.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.names = list(names)
        self.mesh = mesh
        self.truth_mesh = truth_mesh
        self._entries: list[str] = []

    def write_image(self, frame: Frame, result: ImageResult) -> None:
        """``<name>.png`` and ``.json``; for results with 3D also ``.glb`` and ``.html``."""
        cads, panel = self._draw(frame, result)
        picture = cv2.imencode(".png", panel[..., ::-1])[1].tobytes()
        self._path(frame, "png").write_bytes(picture)
        results = frame_results(frame, result, self.names)
        write_results(self._path(frame, "json"), results)
        links = ["json"]
        if self.mesh is not None and frame.intrinsics is not None:
            scene = build_scene(cads, frame.image, frame.intrinsics, result.depth)
            self._path(frame, "glb").write_bytes(scene.export(file_type="glb"))
            content = _image_page(frame.name, results, cads, picture, scene_page(scene))
            self._path(frame, "html").write_text(content)
            links = ["html", "glb", "json"]
        self._entries.append(_entry(frame.name, len(result), links))

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
        self._entries.append(f'<video src="{quote(path.name)}" controls loop></video>')
        with VideoWriter(path, rate) as video:
            for frame in frames:
                result = predict(frame)
                video.write(self._draw(frame, result)[1])
                results = frame_results(frame, result, self.names)
                write_results(numbers / f"{frame.index:06d}.json", results)

    def write_index(self) -> Path:
        """``index.html``, which shows everything written; returns its path."""
        path = self.folder / "index.html"
        path.write_text(_page("Objects found", "\n".join(self._entries)))
        return path

    def _draw(self, frame: Frame, result: ImageResult) -> tuple[list[PosedCad], np.ndarray]:
        cads = pose_cads(result, self.mesh, self.names) if self.mesh else []
        canvas = Canvas(frame.image, frame.intrinsics if self.mesh else None)
        truth, truth_cads = None, []
        if frame.record is not None and "annotations" in frame.record:
            depth = None
            if result.depth is not None and "depth_file_name" in frame.record:
                depth = read_map(frame.record, "depth")
            truth = from_annotations(frame.record["annotations"], depth)
            if self.mesh and self.truth_mesh:
                truth_cads = pose_cads(truth, self.truth_mesh, self.names)
        return cads, draw_panel(canvas, result, cads, self.names, truth, truth_cads)


def _page(title: str, body: str) -> str:
    title = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>\n{body}\n</body></html>\n"
    )


def _entry(name: str, count: int, links: Sequence[str]) -> str:
    """An image on the index page."""
    address = quote(name)
    targets = " ".join(f'<a href="{address}.{each}">{each}</a>' for each in links)
    return (
        f"<h2>{html.escape(name)}</h2>\n<p>{count} objects: {targets}</p>\n"
        f'<a href="{address}.{links[0]}"><img src="{address}.png" alt=""></a>'
    )


def _image_page(
    title: str,
    results: dict[str, Any],
    cads: Sequence[PosedCad],
    picture: bytes,
    scene: str,
) -> str:
    """The 3D scene, the picture and a table of the objects, all inside one file."""
    colors = {cad.row: "#" + cad.color.tobytes().hex() for cad in cads}
    rows = []
    for row, found in enumerate(results["objects"]):
        cad = found.get("cad") or found.get("wild_cad") or {}
        position = found.get("translation")
        size = found.get("scale")
        cells = [
            found["class"],
            f"{found['score']:.0%}",
            ", ".join(f"{value:.2f}" for value in position) if position else "none",
            ", ".join(f"{value:.2f}" for value in size) if size else "none",
            "/".join(cad.values()) or "none",
        ]
        color = f'<td class="color" style="background:{colors.get(row, "none")}"></td>'
        rows.append(f"<tr>{color}{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    heads = ("", "class", "score", "position x, y, z (m)", "scale x, y, z", "CAD model")
    table = f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(rows)}"
    encoded = base64.b64encode(picture).decode()
    return _page(
        title,
        "<p>Drag to turn, right button to move, wheel to come closer.</p>\n"
        f'<iframe srcdoc="{html.escape(scene)}"></iframe>\n<table>{table}</table>\n'
        f'<img src="data:image/png;base64,{encoded}" alt="">',
    )
