"""Drawing of boxes, masks and labels on images, with matplotlib."""

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from .colormap import random_color
from .drawing import by_decreasing_area, import_matplotlib, to_array, to_bitmaps

__all__ = ["ColorMode", "VisImage", "Visualizer"]

_MIN_KEYPOINT_SCORE = 0.05


class ColorMode(enum.Enum):
    """How instances are coloured."""

    IMAGE = 0
    """A random colour for every instance."""
    SEGMENTATION = 1
    """The colour of the class (metadata ``thing_colors``), more opaque."""
    IMAGE_BW = 2
    """As IMAGE, with everything outside the masks in grey."""


class VisImage:
    """A canvas with an image on it; ``ax`` takes further matplotlib artists, in image pixels."""

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        """
        Args:
            img: RGB ``(H, W, 3)`` in [0, 255].
            scale: size of the canvas relative to the image.
        """
        matplotlib = import_matplotlib()
        self.img = img
        self.scale = scale
        self.height, self.width = img.shape[:2]
        self.fig = matplotlib.figure.Figure(frameon=False)
        self.dpi = self.fig.get_dpi()
        # matplotlib truncates the size in pixels; the addition keeps rounding errors out of it.
        self.fig.set_size_inches(
            (self.width * scale + 1e-2) / self.dpi, (self.height * scale + 1e-2) / self.dpi
        )
        self.canvas = matplotlib.backends.backend_agg.FigureCanvasAgg(self.fig)
        self.ax = self.fig.add_axes((0.0, 0.0, 1.0, 1.0))
        self.ax.axis("off")
        self.reset_image(img)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the image in its own pixels, for ``imshow``."""
        return (0, self.width, self.height, 0)

    def reset_image(self, img: np.ndarray) -> None:
        """Cover the canvas with another image of the same size."""
        self.ax.imshow(img.astype(np.uint8), extent=self.extent, interpolation="nearest")

    def save(self, filepath: str) -> None:
        """Write the canvas to a file; the suffix gives the format."""
        self.fig.savefig(filepath)

    def get_image(self) -> np.ndarray:
        """The canvas as uint8 RGB, ``(H * scale, W * scale, 3)``."""
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[:, :, :3].copy()


class Visualizer:
    """Draws on one image. Coordinates are pixels of the image, whatever the scale."""

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Any = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ) -> None:
        """
        Args:
            img_rgb: RGB ``(H, W, 3)`` in [0, 255].
            metadata: anything with ``get(key, default)``; ``thing_classes`` gives the names and
                ``thing_colors`` (RGB in [0, 255]) the colours of the classes.
            scale: size of the output relative to the image.
            instance_mode: how instances are coloured.
            font_size_scale: factor on the font size.
        """
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = {} if metadata is None else metadata
        self.output = VisImage(self.img, scale=scale)
        self._instance_mode = instance_mode
        readable = max(np.sqrt(self.output.height * self.output.width) / 90, 10 / scale)
        self._font_size = readable * font_size_scale

    def get_output(self) -> VisImage:
        """The canvas with everything drawn so far."""
        return self.output

    def draw_instance_predictions(self, predictions: Any) -> VisImage:
        """Draw the fields pred_boxes, pred_masks, pred_classes, scores that ``Instances`` have."""
        fields = predictions.get_fields()
        classes = fields.get("pred_classes")
        classes = None if classes is None else classes.tolist()
        scores = fields.get("scores")
        labels = self._labels(classes, None if scores is None else scores.tolist())
        masks = fields.get("pred_masks")
        if self._instance_mode is ColorMode.IMAGE_BW:
            self._remove_color_outside(masks)
        self.overlay_instances(
            boxes=fields.get("pred_boxes"),
            labels=labels,
            masks=masks,
            keypoints=fields.get("pred_keypoints"),
            assigned_colors=self._class_colors(classes),
            alpha={ColorMode.SEGMENTATION: 0.8, ColorMode.IMAGE_BW: 0.3}.get(
                self._instance_mode, 0.5
            ),
        )
        return self.output

    def draw_dataset_dict(self, dic: Mapping[str, Any]) -> VisImage:
        """Draw the annotations of a record in detectron2's dataset format."""
        annotations = dic.get("annotations") or []
        if not annotations:
            return self.output
        classes = [annotation.get("category_id") for annotation in annotations]
        classes = None if None in classes else classes
        labels = self._labels(classes, None, [x.get("iscrowd", 0) for x in annotations])
        boxes = None
        if any("bbox" in x for x in annotations):
            boxes = [
                BoxMode.convert(list(x["bbox"]), x["bbox_mode"], BoxMode.XYXY_ABS)
                for x in annotations
            ]
        masks = None
        if any("segmentation" in x for x in annotations):
            masks = [x.get("segmentation", []) for x in annotations]
        self.overlay_instances(
            boxes=boxes, labels=labels, masks=masks, assigned_colors=self._class_colors(classes)
        )
        return self.output

    def overlay_instances(
        self,
        *,
        boxes: Any = None,
        labels: Sequence[str] | None = None,
        masks: Any = None,
        keypoints: Any = None,
        assigned_colors: Sequence[Any] | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draw N instances, the largest first so that the small ones stay visible.

        Args:
            boxes: ``Boxes``, or an array or tensor ``(N, 4)`` in XYXY.
            labels: N texts, put at the top left of the box (or on the mask without boxes).
            masks: ``BitMasks``, ``PolygonMasks``, an array or tensor ``(N, H, W)``, or a list of
                bitmaps, RLE dicts and lists of polygons.
            keypoints: array or tensor ``(N, K, 3)`` of x, y, visibility or score.
            assigned_colors: N matplotlib colours, by default random ones.
            alpha: opacity of the masks.
        """
        box_array = None if boxes is None else to_array(boxes).reshape(-1, 4)
        bitmaps = (
            None if masks is None else to_bitmaps(masks, self.output.height, self.output.width)
        )
        points = None if keypoints is None else to_array(keypoints).reshape(len(keypoints), -1, 3)
        count = self._count_instances(box_array, labels, bitmaps, points, assigned_colors)
        colors = assigned_colors
        if colors is None:
            colors = [random_color(rgb=True, maximum=1) for _ in range(count)]
        for index in by_decreasing_area(box_array, bitmaps, count):
            color = colors[index]
            if box_array is not None:
                self.draw_box(box_array[index], edge_color=color)
            if bitmaps is not None:
                self.draw_binary_mask(bitmaps[index], color=color, alpha=alpha)
            if points is not None:
                for x, y, score in points[index]:
                    if score > _MIN_KEYPOINT_SCORE:
                        self.draw_circle((x, y), color=color)
            if labels is not None:
                self._draw_label(
                    labels[index],
                    None if box_array is None else box_array[index],
                    None if bitmaps is None else bitmaps[index],
                    color,
                )
        return self.output

    def draw_text(
        self,
        text: str,
        position: Sequence[float],
        *,
        font_size: float | None = None,
        color: Any = "g",
        horizontal_alignment: str = "center",
        rotation: float = 0,
    ) -> VisImage:
        """Draw text whose top is at ``position`` (x, y); rotation in degrees, anticlockwise."""
        rgb = np.asarray(import_matplotlib().colors.to_rgb(color))
        brightest = rgb.max()
        # On the dark background only bright text can be read.
        rgb = np.ones(3) if brightest == 0 else np.maximum(rgb / brightest, 0.2)
        self.output.ax.text(
            *position[:2],
            text,
            size=(font_size or self._font_size) * self.output.scale,
            family="sans-serif",
            bbox={"facecolor": "black", "alpha": 0.8, "pad": 0.7, "edgecolor": "none"},
            verticalalignment="top",
            horizontalalignment=horizontal_alignment,
            color=tuple(rgb),
            zorder=10,
            rotation=rotation,
        )
        return self.output

    def draw_box(
        self,
        box_coord: Sequence[float],
        alpha: float = 0.5,
        edge_color: Any = "g",
        line_style: str = "-",
    ) -> VisImage:
        """Draw the outline of a box, XYXY."""
        x0, y0, x1, y1 = (float(x) for x in box_coord)
        rectangle = import_matplotlib().patches.Rectangle(
            (x0, y0),
            x1 - x0,
            y1 - y0,
            fill=False,
            edgecolor=edge_color,
            linewidth=self._line_width(),
            alpha=alpha,
            linestyle=line_style,
        )
        self.output.ax.add_patch(rectangle)
        return self.output

    def draw_line(
        self,
        x_data: Sequence[float],
        y_data: Sequence[float],
        color: Any,
        linestyle: str = "-",
        linewidth: float | None = None,
    ) -> VisImage:
        """Draw a line through the points ``(x_data[i], y_data[i])``."""
        line = import_matplotlib().lines.Line2D(
            x_data,
            y_data,
            linewidth=self._line_width() if linewidth is None else linewidth * self.output.scale,
            color=color,
            linestyle=linestyle,
        )
        self.output.ax.add_line(line)
        return self.output

    def draw_circle(self, circle_coord: Sequence[float], color: Any, radius: float = 3) -> VisImage:
        """Draw a filled circle around (x, y)."""
        x, y = circle_coord
        circle = import_matplotlib().patches.Circle((x, y), radius=radius, fill=True, color=color)
        self.output.ax.add_patch(circle)
        return self.output

    def draw_polygon(
        self, segment: Any, color: Any, edge_color: Any = None, alpha: float = 0.5
    ) -> VisImage:
        """Fill a polygon ``(K, 2)`` of x, y; the edge is opaque and of the same colour."""
        matplotlib = import_matplotlib()
        polygon = matplotlib.patches.Polygon(
            np.asarray(segment).reshape(-1, 2),
            fill=True,
            facecolor=(*matplotlib.colors.to_rgb(color), alpha),
            edgecolor=(*matplotlib.colors.to_rgb(color if edge_color is None else edge_color), 1),
            linewidth=max(self._font_size / 15 * self.output.scale, 1),
        )
        self.output.ax.add_patch(polygon)
        return self.output

    def draw_binary_mask(
        self, binary_mask: Any, color: Any = None, *, text: str | None = None, alpha: float = 0.5
    ) -> VisImage:
        """Tint the non-zero pixels of a mask ``(H, W)``; ``text`` is put in their middle."""
        if color is None:
            color = random_color(rgb=True, maximum=1)
        mask = np.asarray(binary_mask).astype(bool)
        overlay = np.zeros((*mask.shape, 4))
        overlay[mask] = (*import_matplotlib().colors.to_rgb(color), alpha)
        self.output.ax.imshow(overlay, extent=self.output.extent, interpolation="nearest")
        if text is not None:
            self._draw_label(text, None, mask, color)
        return self.output

    def _line_width(self) -> float:
        return max(self._font_size / 4, 1) * self.output.scale

    def _labels(
        self,
        classes: Sequence[int] | None,
        scores: Sequence[float] | None,
        is_crowd: Sequence[int] | None = None,
    ) -> list[str] | None:
        """Texts like ``chair 93%`` or ``chair|crowd``."""
        labels = None
        if classes is not None:
            names = self.metadata.get("thing_classes", None)
            labels = [names[x] if names else str(x) for x in classes]
        if scores is not None:
            percents = [f"{score * 100:.0f}%" for score in scores]
            labels = percents if labels is None else _join(labels, percents)
        if labels is not None and is_crowd is not None:
            labels = [x + "|crowd" * bool(crowd) for x, crowd in zip(labels, is_crowd, strict=True)]
        return labels

    def _class_colors(self, classes: Sequence[int] | None) -> list[tuple[float, ...]] | None:
        colors = self.metadata.get("thing_colors", None)
        if self._instance_mode is not ColorMode.SEGMENTATION or classes is None or not colors:
            return None
        return [tuple(channel / 255 for channel in colors[x]) for x in classes]

    def _remove_color_outside(self, masks: Any) -> None:
        gray = self.img.astype(np.float32).mean(axis=2, keepdims=True).repeat(3, axis=2)
        if masks is not None:
            for bitmap in to_bitmaps(masks, self.output.height, self.output.width):
                gray[bitmap] = self.img[bitmap]
        self.output.reset_image(gray)

    @staticmethod
    def _count_instances(*per_instance: Sequence[Any] | None) -> int:
        lengths = {len(values) for values in per_instance if values is not None}
        if len(lengths) > 1:
            raise ValueError(
                "boxes, labels, masks, keypoints and assigned_colors must have equal lengths, "
                f"got {sorted(lengths)}."
            )
        return lengths.pop() if lengths else 0

    def _draw_label(
        self, text: str, box: np.ndarray | None, bitmap: np.ndarray | None, color: Any
    ) -> None:
        if box is not None:
            self.draw_text(text, box[:2], color=color, horizontal_alignment="left")
        elif bitmap is not None and bitmap.any():
            rows, columns = bitmap.nonzero()
            self.draw_text(text, (np.median(columns), np.median(rows)), color=color)


def _join(first: Sequence[str], second: Sequence[str]) -> list[str]:
    return [f"{a} {b}" for a, b in zip(first, second, strict=True)]
