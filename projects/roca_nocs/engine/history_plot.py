"""The curves of a training as a picture."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["plot_history"]

logger = logging.getLogger(__name__)

_MAX_CURVES = 10  # the colours of matplotlib's cycle


def plot_history(
    rows: Sequence[Mapping[str, Any]],
    evaluations: Mapping[int, Mapping[str, float | None]],
    metric: str | None = None,
) -> bytes | None:
    """Draw losses, other training means, evaluation results and learning rate over iterations.

    Args:
        rows, evaluations: of a history, see `roca_nocs.engine.history`.
        metric: evaluation result that is drawn in any case, and first; there may be more than a
            panel has room for.

    Returns:
        A PNG file; None without anything to draw or without matplotlib.
    """
    if not rows and not evaluations:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        logger.info("history.png needs matplotlib: pip install 'roca_nocs[viz]'")
        return None
    trained = {row["iteration"]: row["train"] for row in rows}
    rates = {row["iteration"]: {"lr": row["lr"]} for row in rows}
    train = {name for values in trained.values() for name in values}
    results = {name for values in evaluations.values() for name in values}
    losses = {name for name in train if "loss" in name}
    panels = {
        "losses": (trained, losses),
        "measures of the training": (trained, {name for name in train if "/" in name} - losses),
        "evaluation": (evaluations, results - {"num_nan"}),
        "learning rate": (rates, {"lr"}),
    }
    figure = Figure(figsize=(11, 7))
    FigureCanvasAgg(figure)
    for axes, (title, (measured, names)) in zip(
        figure.subplots(2, 2, gridspec_kw={"hspace": 0.35}).flat, panels.items(), strict=True
    ):
        axes.set_title(title)
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
        # Per-class results would drown the others: short names come first.
        order = sorted(names, key=lambda n: (n != metric, n.count("-"), len(n), n))
        for name in order[:_MAX_CURVES]:
            points = [
                (iteration, value)
                for iteration, values in measured.items()
                if (value := values.get(name)) is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=name)
        if axes.lines:
            axes.legend(fontsize="x-small")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()
