"""The curves of a training as a picture."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["plot_history"]

logger = logging.getLogger(__name__)

_MAX_CURVES = 10  # the colours of matplotlib's cycle


def plot_history(rows: Sequence[Mapping[str, Any]], metric: str | None = None) -> bytes | None:
    """Draw losses, other training means, evaluation results and learning rate over iterations.

    Args:
        rows: of a history, see `roca_nocs.engine.history`.
        metric: evaluation result that is drawn in any case, and first; there may be more than a
            panel has room for.

    Returns:
        A PNG file; None without rows or without matplotlib.
    """
    if not rows:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        logger.info("history.png needs matplotlib: pip install 'roca_nocs[viz]'")
        return None
    train = {name for row in rows for name in row["train"]}
    losses = {name for name in train if "loss" in name}
    panels = {
        "losses": ("train", losses),
        "measures of the training": ("train", {name for name in train if "/" in name} - losses),
        "evaluation": ("val", {name for row in rows for name in row["val"]} - {"num_nan"}),
        "learning rate": ("", {"lr"}),
    }
    figure = Figure(figsize=(11, 7))
    FigureCanvasAgg(figure)
    for axes, (title, (group, names)) in zip(
        figure.subplots(2, 2, gridspec_kw={"hspace": 0.35}).flat, panels.items(), strict=True
    ):
        axes.set_title(title)
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
        # Per-class results would drown the others: short names come first.
        order = sorted(names, key=lambda n: (n != metric, n.count("-"), len(n), n))
        for name in order[:_MAX_CURVES]:
            points = [
                (row["iteration"], value)
                for row in rows
                if (value := (row[group] if group else row).get(name)) is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=name)
        if axes.lines:
            axes.legend(fontsize="x-small")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()
