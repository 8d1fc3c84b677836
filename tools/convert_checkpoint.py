#!/usr/bin/env python
"""Turn a published checkpoint into one for our configs.

    tools/convert_checkpoint.py roca model_best.pth roca.pth
    tools/train_net.py --config-file configs/roca/roca_r50_fpn_scan2cad.py --eval-only \
        train.init_checkpoint=roca.pth

    tools/convert_checkpoint.py aligndetr model_final.pth aligndetr.pth
    tools/convert_checkpoint.py ganocs checkpoint.pth nocs.pth
    tools/convert_checkpoint.py nocs mask_rcnn_nocs.h5 nocs_branches.pth
    tools/convert_checkpoint.py deformable_detr r50_deformable_detr.pth detr.pth
    tools/convert_checkpoint.py detr_segm detr-r50-panoptic.pth panoptic.pth
    tools/convert_checkpoint.py motr_qim motr_mot17.pth interaction.pth
    tools/convert_checkpoint.py cube_rcnn cubercnn_Res34_FPN.pth cube_rcnn.pth

Every tensor of the model must be in the file with its shape, and no other. Of AlignDETR, tensors
that depend on the classes or the number of queries are left out, and named, if the model of
`--config` has other ones; training starts them anew. Of the official NOCS only the NOCS and mask
branches are converted, for its detector differs from ours. Deformable DETR, DETR and MOTR give a
part of FutureDETR; what the model has besides is named, and training starts it anew. Published
weights have licences of their own (ROCA: CC BY-NC-SA 3.0); none are part of this project.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import LazyConfig, instantiate

import roca_nocs  # noqa: F401  (registers data sets and models)
from roca_nocs.engine.atomic_file import replace_file
from roca_nocs.engine.convert import (
    CONVERSIONS,
    ConversionError,
    convert,
    leave_out_replaceable,
    unify_names,
)

ROOT = Path(__file__).resolve().parents[1]


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="checkpoint", required=True)
    for name, conversion in CONVERSIONS.items():
        command = commands.add_parser(name, help=conversion.description)
        command.add_argument("source", metavar="IN", type=Path, help="file as published")
        command.add_argument("target", metavar="OUT", type=Path, help="file to write (.pth)")
        command.add_argument(
            "--config",
            type=Path,
            default=ROOT / conversion.config,
            help="config of the model that the tensors must fit; default %(default)s",
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    args = argument_parser().parse_args(arguments)
    conversion = CONVERSIONS[args.checkpoint]
    try:
        state = unify_names(conversion.read(args.source), conversion.aliases)
        state = conversion.rename(state)
        model = instantiate(LazyConfig.load(str(args.config)).model)
        state, changes = conversion.fit(state, model.state_dict())
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        kept, left_out = leave_out_replaceable(state, shapes, conversion.replaceable)
        needed = {
            name: shape
            for name, shape in shapes.items()
            if name in kept or (name.startswith(conversion.parts) and name not in state)
        }
        converted = convert(kept, needed, conversion.dropped)
    except (ConversionError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    with replace_file(args.target) as file:
        torch.save({"model": converted}, file)
    for line in changes:
        print(f"fitted: {line}")
    for line in left_out:
        print(f"left out: {line}")
    if anew := [name for name in shapes if name not in converted and name not in state]:
        print(f"not in the file, {len(anew)} tensors: {', '.join(_modules(anew))}")
    print(f"{len(converted)} tensors written to {args.target}")


def _modules(names: Sequence[str]) -> list[str]:
    """The modules of parameters, down to two names, in order and once each."""
    return [*dict.fromkeys(".".join(name.split(".")[:-1][:2]) or name for name in names)]


if __name__ == "__main__":
    main()
