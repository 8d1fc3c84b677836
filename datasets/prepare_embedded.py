#!/usr/bin/env python
"""Makes the embedded datasets: rooms, table tops, streets and traffic with exact ground truth.

    python datasets/prepare_embedded.py --kind rooms --preset demo
    python datasets/prepare_embedded.py --kind street --preset demo
    python datasets/prepare_embedded.py --kind traffic --preset demo
    python datasets/prepare_embedded.py --kind tabletop --train 400 --val 100 --size 320x240
    python datasets/prepare_embedded.py --kind rooms --preset demo --verify

The same command resumes an interrupted run and repairs damaged scenes. The result does not depend
on --workers.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.builtin import dataset_root
from roca_nocs.data.synthetic.generate import generate
from roca_nocs.data.synthetic.manifest import Manifest, check_dataset
from roca_nocs.data.synthetic.presets import (
    KINDS,
    PRESETS,
    DatasetArguments,
    folder_name,
    preset_arguments,
)


def image_size(text: str) -> tuple[int, int]:
    """``160x120`` as (width, height)."""
    width, separator, height = text.lower().partition("x")
    if not (separator and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write WIDTHxHEIGHT, e.g. 160x120")
    return int(width), int(height)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--preset", choices=PRESETS, default="demo", help="default: demo")
    parser.add_argument("--train", type=int, help="training images (default: the preset's)")
    parser.add_argument("--val", type=int, help="images of each validation split")
    parser.add_argument(
        "--size", type=image_size, metavar="WxH", help="image size in pixels, of traffic in cells"
    )
    parser.add_argument("--seed", type=int, help="default: 0")
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes (default: one per usable core)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder (default: $DETECTRON2_DATASETS/<kind>[_<preset>], where the registered "
        "names look)",
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare every file with the manifest, make nothing"
    )
    return parser


def dataset_arguments(options: argparse.Namespace) -> DatasetArguments:
    """The preset with what the command line replaces.

    Raises:
        ValueError: a number makes no sense.
    """
    replaced = {
        name: getattr(options, name)
        for name in ("train", "val", "seed")
        if getattr(options, name) is not None
    }
    if options.size is not None:
        replaced["width"], replaced["height"] = options.size
    return dataclasses.replace(preset_arguments(options.kind, options.preset), **replaced)


def describe(root: Path, manifest: Manifest) -> str:
    """What a dataset holds, in one line."""
    arguments = manifest.arguments
    splits = ", ".join(f"{split} {count}" for split, count in arguments.images_of_split().items())
    megabytes = sum(size for size, _ in manifest.files.values()) / 1e6
    return (
        f"{root}: {arguments.kind} {arguments.width}x{arguments.height}, images: {splits}; "
        f"{len(manifest.files)} files, {megabytes:.1f} MB"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Make or verify a dataset; returns the exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    root = options.output or dataset_root() / folder_name(options.kind, options.preset)
    try:
        wanted = dataset_arguments(options)
        started = time.monotonic()
        if options.verify:
            manifest = check_dataset(root, wanted.command(str(root)), contents=True)
        else:
            manifest = generate(root, wanted, workers=options.workers)
    except (DatasetError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    verb = "Verified" if options.verify else "Made"
    print(f"{verb} in {time.monotonic() - started:.1f} s. {describe(root, manifest)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
