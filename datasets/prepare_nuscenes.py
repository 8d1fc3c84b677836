#!/usr/bin/env python
"""Converts nuScenes or Lyft Level 5 to clips of bird's-eye-view rasters; no dev-kit is needed.

    python datasets/prepare_nuscenes.py --tables nuscenes/v1.0-mini
    python datasets/prepare_nuscenes.py --tables nuscenes/v1.0-trainval --splits splits.json
    python datasets/prepare_nuscenes.py --dataset lyft --tables lyft/train_data

Only the JSON tables are read, no sensor data: the input shows the annotated boxes that can be seen
from the ego vehicle. splits.json holds lists of scene names: {"train": [...], "val": [...]}. The
same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from roca_nocs.data.bev_raster import RASTERS
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.builtin import dataset_root
from roca_nocs.data.nuscenes_conversion import SOURCES, convert


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=SOURCES, default="nuscenes", help="default: nuscenes")
    parser.add_argument("--tables", type=Path, required=True, help="folder of the JSON tables")
    parser.add_argument("--splits", type=Path, help="JSON file with the scenes of the splits")
    parser.add_argument(
        "--raster",
        choices=RASTERS,
        default="centre",
        help="how labels are drawn: by centres of cells (default), or as in published labels",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder (default: $DETECTRON2_DATASETS/<dataset>_bev, where the names look)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert; returns the exit status."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    source = SOURCES[options.dataset]
    output = options.output or dataset_root() / source.name
    try:
        counts = convert(
            options.tables, output, source, raster=options.raster, splits=options.splits
        )
    except (DatasetError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    print(f"{output}: {', '.join(f'{split} {count} clips' for split, count in counts.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
