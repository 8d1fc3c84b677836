"""The HTML pages of the demo, each in one file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

_STYLE = """
body { font-family: sans-serif; margin: 1.5em auto; max-width: 1300px; padding: 0 1em; color: #222 }
img, iframe { width: 100%; border: 1px solid #ccc; box-sizing: border-box }
iframe { height: 65vh }
table { border-collapse: collapse; margin: 1em 0 }
video { width: 100% }
td, th { padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: left }
.color { width: 1em }
"""


def page(title: str, body: str) -> str:
    """A whole HTML document."""
    title = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>\n{body}\n</body></html>\n"
    )


def index_entry(name: str, count: int, links: Sequence[str], picture: str = "png") -> str:
    """An image or clip on the index page.

    Args:
        name: of its files.
        count: objects found.
        links: suffixes of the files to link, the first one from the picture too.
        picture: suffix of the file to show.
    """
    address = quote(name)
    targets = " ".join(f'<a href="{address}.{each}">{each}</a>' for each in links)
    shown = f'<a href="{address}.{links[0]}"><img src="{address}.{picture}" alt=""></a>'
    if picture == "mp4":
        shown = film_entry(f"{name}.mp4")
    return f"<h2>{html.escape(name)}</h2>\n<p>{count} objects: {targets}</p>\n{shown}"


def film_entry(file_name: str) -> str:
    """A film on the index page."""
    return f'<video src="{quote(file_name)}" controls loop></video>'


def image_page(
    title: str,
    results: Mapping[str, Any],
    colors: Mapping[int, str],
    picture: bytes,
    scene: str,
) -> str:
    """The 3D scene, the picture and a table of the objects.

    Args:
        title: of the page.
        results: of ``results_json.frame_results``.
        colors: of the objects that the scene shows, by row.
        picture: PNG file.
        scene: HTML document.
    """
    cells = [_cells(found) for found in results["objects"]]
    heads = list(cells[0]) if cells else ["class", "score"]
    rows = []
    for row, values in enumerate(cells):
        color = f'<td class="color" style="background:{colors.get(row, "none")}"></td>'
        texts = "".join(f"<td>{html.escape(text)}</td>" for text in values.values())
        rows.append(f"<tr>{color}{texts}</tr>")
    table = f"<tr><th></th>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(rows)}"
    encoded = base64.b64encode(picture).decode()
    return page(
        title,
        "<p>Drag to turn, right button to move, wheel to come closer.</p>\n"
        f'<iframe srcdoc="{html.escape(scene)}"></iframe>\n<table>{table}</table>\n'
        f'<img src="data:image/png;base64,{encoded}" alt="">',
    )


def _cells(found: Mapping[str, Any]) -> dict[str, str]:
    """Texts of an object by column; all objects of an image have the same columns."""
    cells = {"class": found["class"], "score": f"{found['score']:.0%}"}
    if "has_alignment" in found:
        cad = found["cad"] or found["wild_cad"] or {}
        cells["position x, y, z (m)"] = _numbers(found["translation"])
        cells["scale x, y, z"] = _numbers(found["scale"])
        cells["CAD model"] = "/".join(cad.values()) or "none"
    if "box3d" in found:
        box = found["box3d"] or {}
        cells["centre x, y, z (m)"] = _numbers(box.get("center"))
        if "box3d_failure" in found:
            cells["size x, y, z (m)"] = _numbers(box.get("extents"))
        else:
            heading = box.get("rotation_y")
            cells["width, height, length (m)"] = _numbers(box.get("dimensions"))
            cells["heading (degrees)"] = "none" if heading is None else f"{np.degrees(heading):.0f}"
    return cells


def _numbers(values: Sequence[float] | None) -> str:
    return ", ".join(f"{value:.2f}" for value in values) if values else "none"
