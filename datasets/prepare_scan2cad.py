#!/usr/bin/env python
"""Converts ScanNet25k, Scan2CAD and ShapeNetCore v2 to the layout that scan2cad_* is read from.

    python datasets/prepare_scan2cad.py --scannet scannet_frames_25k \\
        --annotations full_annotations.json --shapenet ShapeNetCore.v2 \\
        --train-scenes scannetv2_train.txt --val-scenes scannetv2_val.txt

The same command resumes an interrupted run. The result does not depend on --workers. Scenes that
cannot be converted are listed at the end; the dataset is finished when there are none.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.builtin import dataset_root
from roca_nocs.data.scan2cad_conversion.convert import (
    Sources,
    convert,
    read_frame_list,
    read_scene_list,
    summary,
)
from roca_nocs.data.scan2cad_conversion.scenes import SceneSettings


def image_size(text: str) -> tuple[int, int]:
    """``480x360`` as (width, height)."""
    width, separator, height = text.lower().partition("x")
    if not (separator and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write WIDTHxHEIGHT, e.g. 480x360")
    return int(width), int(height)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scannet", type=Path, required=True, help="folder with <scene>/{color,pose} (25k frames)"
    )
    parser.add_argument(
        "--annotations", type=Path, required=True, help="full_annotations.json of Scan2CAD"
    )
    parser.add_argument(
        "--shapenet",
        type=Path,
        required=True,
        help="folder with <synset>/<model>/models/model_normalized.obj",
    )
    parser.add_argument("--train-scenes", type=Path, required=True, help="text file, an id a line")
    parser.add_argument("--val-scenes", type=Path, required=True, help="text file, an id a line")
    parser.add_argument(
        "--val-images",
        type=Path,
        help="text file with lines '<scene> <number>': the validation frames (default: all)",
    )
    parser.add_argument(
        "--output", type=Path, help="folder (default: $DETECTRON2_DATASETS/scan2cad)"
    )
    parser.add_argument(
        "--size", type=image_size, default=(480, 360), metavar="WxH", help="default: 480x360"
    )
    parser.add_argument("--nocs", action="store_true", help="write NOC maps too")
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes (default: one per usable core)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert; returns the exit status."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    root = options.output or dataset_root() / "scan2cad"
    width, height = options.size
    try:
        sources = Sources(
            scannet=options.scannet,
            annotations=options.annotations,
            shapenet=options.shapenet,
            scenes={
                "train": read_scene_list(options.train_scenes),
                "val": read_scene_list(options.val_scenes),
            },
            frames={"val": read_frame_list(options.val_images)} if options.val_images else {},
        )
        settings = SceneSettings(height, width, options.nocs)
        report = convert(root, sources, settings, workers=options.workers)
    except (DatasetError, ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    print(f"{root}: {summary(report)}")
    for name, error in report.errors.items():
        print(f"error: {name}: {error}", file=sys.stderr)
    if report.errors:
        print(
            "The dataset is not finished. Mend the raw data, or take the scenes out of the lists, "
            "and run the same command again.",
            file=sys.stderr,
        )
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
