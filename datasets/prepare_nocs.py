#!/usr/bin/env python
"""Adds to the NOCS folders what is published without: poses of training images, mug re-centring.

    python datasets/prepare_nocs.py
    python datasets/prepare_nocs.py --splits real/test --results nocs_results/real_test

Writes obj_models/mug_meta.pkl (if it is missing), <frame>_label.pkl, <split>_list.txt,
<split>_list_all.txt and <split>/mug_handle.pkl in the formats of Shape Prior Deformation and its
successors, which the *_spd datasets read. The result does not depend on --workers.
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from roca_nocs.data.cad_meshes import nocs_mesh
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.builtin import NOCS_SPLITS, dataset_root
from roca_nocs.data.datasets.nocs_models import MUG_META, write_mug_meta
from roca_nocs.data.nocs_labels import write_labels

SPLITS = ["/".join(split) for split in NOCS_SPLITS]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="folder (default: $DETECTRON2_DATASETS/nocs)")
    parser.add_argument(
        "--splits", nargs="+", choices=SPLITS, help="default: all that are in the folder"
    )
    parser.add_argument(
        "--results",
        type=Path,
        help="folder of published results_<split>_*.pkl, whose poses and visibilities of handles "
        "are taken instead of those of gts/ (needs one --splits)",
    )
    parser.add_argument(
        "--z-not-mirrored",
        action="store_true",
        help="the maps hold z, not 1 - z as those of the official data (needs "
        "load_nocs(..., coord_z_mirrored=False) too)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes (default: one per usable core)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files; returns the exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    root = options.root or dataset_root() / "nocs"
    splits = options.splits or [split for split in SPLITS if (root / split).is_dir()]
    if options.results is not None and len(splits) != 1:
        parser.error("--results belongs to one split: give one with --splits")
    if options.results is not None and not options.results.is_dir():
        parser.error(f"--results: there is no folder {options.results}")
    try:
        if not splits:
            raise DatasetError(f"{root} holds none of {', '.join(SPLITS)}.")
        if not (root / MUG_META).is_file():
            count = write_mug_meta(root, lambda *model: nocs_mesh(root / "obj_models", *model)[0])
            print(f"{root / MUG_META}: {count} mugs")
        for split in splits:
            dataset, subset = split.split("/")
            report = write_labels(
                root,
                dataset,
                subset,
                results=options.results,
                coord_z_mirrored=not options.z_not_mirrored,
                workers=options.workers,
            )
            print(f"{split}: {len(report.written)} images ({_listed(report.sources)})")
            if report.left_out:
                print(f"{split}: left out {_listed(report.left_out)}")
    except (DatasetError, ValueError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
