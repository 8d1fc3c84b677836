#!/usr/bin/env python
"""Statistics of registered datasets: a table of numbers and a plot of distributions.

    tools/dataset_statistics.py --dataset rooms_train rooms_val --output statistics.png

Objects per image, instances per class, box areas; occlusion and truncation of objects with CAD
models; depth of datasets with depth maps. The table is Markdown, one column per dataset.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from roca_nocs.data.cad_meshes import mesh_finder
from roca_nocs.data.statistics import (
    DEPTH_BIN,
    DatasetStatistics,
    bin_shares,
    collect_statistics,
    depth_quantile,
)

EDGES = np.linspace(0, 1, 6)
"""Bins of the visibility and of the truncation in the table; the plot has four times as many."""


def statistics_of(dataset: str, images: int | None) -> DatasetStatistics:
    """Count over all images of a registered dataset, or over so many, evenly spread."""
    records = DatasetCatalog.get(dataset)
    if not records:
        raise SystemExit(f"{dataset} has no images")
    if images is not None and images < len(records):
        chosen = np.linspace(0, len(records) - 1, images).round().astype(int)
        records = [records[index] for index in chosen]
    print(f"{dataset}: counting over {len(records)} images", file=sys.stderr)
    classes = MetadataCatalog.get(dataset).thing_classes
    return collect_statistics(records, classes, mesh_finder(dataset))


def table_rows(statistics: DatasetStatistics) -> dict[str, str]:
    """Name and value of each line of the table."""
    per_image, areas = statistics.objects_per_image, 100 * statistics.box_shares
    rows = {
        "images": str(len(per_image)),
        "objects": str(per_image.sum()),
        "objects per image: mean": f"{per_image.mean():.2f}",
        "objects per image: smallest, largest": f"{per_image.min()}, {per_image.max()}",
        "images without objects": str(np.count_nonzero(per_image == 0)),
    }
    counted = zip(statistics.classes, statistics.instances_per_class, strict=True)
    rows |= {f"instances: {name}": str(count) for name, count in counted}
    if len(areas):
        quantiles = "{:.2f}, {:.2f}, {:.2f}".format(*np.quantile(areas, (0.05, 0.5, 0.95)))
        rows["box area, % of the image: 5 %, median, 95 %"] = quantiles
    for name in ("visibility", "truncation"):
        values = getattr(statistics, name)
        if len(values):
            rows |= {f"{name}: mean": f"{values.mean():.3f}"} | share_rows(name, values)
    if len(statistics.depth_counts):
        nearest, farthest = statistics.depth_limits
        quantiles = [depth_quantile(statistics.depth_counts, share) for share in (0.05, 0.5, 0.95)]
        rows["depth, m: smallest, largest"] = f"{nearest:.2f}, {farthest:.2f}"
        rows["depth, m: 5 %, median, 95 % of the pixels"] = "{:.2f}, {:.2f}, {:.2f}".format(
            *quantiles
        )
    return rows


def share_rows(name: str, values: np.ndarray) -> dict[str, str]:
    """The share of the objects in each bin of :data:`EDGES`."""
    shares = bin_shares(values, EDGES)
    return {
        f"{name} {low:.1f}-{high:.1f}, % of the objects": f"{100 * share:.1f}"
        for low, high, share in zip(EDGES, EDGES[1:], shares, strict=False)
    }


def markdown_table(statistics: dict[str, DatasetStatistics]) -> str:
    """All datasets side by side."""
    columns = {name: table_rows(each) for name, each in statistics.items()}
    titles = list(dict.fromkeys(title for rows in columns.values() for title in rows))
    lines = [["", *columns], ["---", *("---:" for _ in columns)]]
    lines += [[title, *(rows.get(title, "") for rows in columns.values())] for title in titles]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def plot(statistics: dict[str, DatasetStatistics], file_name: str) -> None:
    """Write the distributions of all datasets as one picture.

    Raises:
        ImportError: there is no matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "The plot needs matplotlib: pip install 'matplotlib>=3.8', or leave out --output."
        ) from error
    figure = Figure(figsize=(10.5, 6.4), layout="constrained")
    panels = figure.subplots(2, 3)
    for name, each in statistics.items():
        counts = np.bincount(each.objects_per_image) / len(each.objects_per_image)
        panels[0, 0].plot(counts, marker="o", markersize=3, label=name)
        bins = np.geomspace(1e-3, 1, 25)
        clipped = np.clip(each.box_shares, bins[0], bins[-1])
        panels[0, 2].stairs(bin_shares(clipped, bins), 100 * bins)
        fine = np.linspace(0, 1, 4 * (len(EDGES) - 1) + 1)
        for panel, values in ((panels[1, 0], each.visibility), (panels[1, 1], each.truncation)):
            if len(values):
                panel.stairs(bin_shares(values, fine), fine)
        if len(each.depth_counts):
            middles = DEPTH_BIN * (np.arange(len(each.depth_counts)) + 0.5)
            panels[1, 2].plot(middles, each.depth_counts / each.depth_counts.sum())
    _class_bars(panels[0, 1], statistics)
    panels[0, 2].set_xscale("log")
    labels = {
        "objects per image": "images",
        "class": "objects",
        "box area, % of the image": "objects",
        "visibility (share of the object's pixels)": "objects",
        "truncation (share of the box outside)": "objects",
        "depth, m": "pixels",
    }
    for panel, (label, of_what) in zip(panels.flat, labels.items(), strict=True):
        panel.set_xlabel(label)
        panel.set_ylabel(f"share of the {of_what}")
        panel.grid(alpha=0.3)
    for panel in panels[1, :2]:
        panel.set_yscale("log")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4, fontsize="small")
    figure.savefig(file_name, dpi=80)


def _class_bars(panel: Any, statistics: dict[str, DatasetStatistics]) -> None:
    """Share of each class in the objects; datasets need not have the same classes."""
    classes = list(dict.fromkeys(name for each in statistics.values() for name in each.classes))
    width = 0.8 / len(statistics)
    for column, each in enumerate(statistics.values()):
        shares = each.instances_per_class / max(each.instances_per_class.sum(), 1)
        places = np.array([classes.index(name) for name in each.classes])
        panel.bar(places + (column + 0.5) * width - 0.4, shares, width)
    panel.set_xticks(range(len(classes)), classes, rotation=90, fontsize="small")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, write the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, nargs="+", help="registered names")
    parser.add_argument("--images", type=int, help="so many of each dataset (default: all)")
    parser.add_argument("--output", help="picture to write")
    args = parser.parse_args(arguments)
    if args.images is not None and args.images < 1:
        parser.error(f"--images is {args.images}; at least one is needed")
    statistics = {name: statistics_of(name, args.images) for name in args.dataset}
    print(markdown_table(statistics), end="")
    if args.output:
        plot(statistics, args.output)


if __name__ == "__main__":
    main()
