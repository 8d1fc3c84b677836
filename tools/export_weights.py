#!/usr/bin/env python
"""Write the weights of a training as a small file to share, with a description beside it.

    tools/export_weights.py --run output/roca_rooms_r18_long \\
        --config configs/roca/rooms_r18_long.py --output models/roca_rooms_r18.safetensors \\
        --command "tools/train_net.py --config-file configs/roca/rooms_r18_long.py --num-gpus 0"

The weights (the averaged ones where the training keeps them) are rounded to half precision. The
JSON file beside them tells config, command, seed, iterations, data and metrics. The same training
gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate

import roca_nocs  # noqa: F401  (registers data sets and models)
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.builtin import builtin_datasets, dataset_root
from roca_nocs.data.synthetic.manifest import data_hash, read_manifest
from roca_nocs.engine.atomic_file import replace_file
from roca_nocs.engine.checkpoint import Checkpointer, find_damage
from roca_nocs.engine.config import ConfigError, load_config
from roca_nocs.engine.convert import ConversionError, convert
from roca_nocs.engine.weights_file import SUFFIX, to_half, write_weights
from roca_nocs.evaluation.summary import find_metric

ROOT = Path(__file__).resolve().parents[1]

# Columns of models/README.md.
COLUMNS = {
    "box AP50": "frame_box/AP50",
    "mask AP50": "frame_mask/AP50",
    "depth, cm": "depth/mean",
    "alignment, visible": "alignment_visible/instance",
    "retrieval": "detections/retrieval_accuracy",
}


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="output folder of the training")
    parser.add_argument(
        "--config", type=Path, required=True, help="config file that was trained; it must fit"
    )
    parser.add_argument("--command", required=True, help="that trains these weights, to describe")
    parser.add_argument(
        "--output", type=Path, required=True, help=f"file to write, ending in {SUFFIX}"
    )
    parser.add_argument("--checkpoint", type=Path, help="default: the newest one of the run")
    parser.add_argument(
        "--results", type=Path, help="results.json of these weights; default: that of the run"
    )
    return parser


def newest_checkpoint(run: Path) -> Path:
    found = Checkpointer(torch.nn.Module(), str(run), save_to_disk=False).newest_checkpoint()
    if not found:
        raise ConfigError(f"{run} holds no checkpoint")
    return Path(found)


def read_checkpoint(path: Path, *, averaged: bool) -> tuple[dict[str, torch.Tensor], int]:
    """The weights to export, and after how many iterations they were saved."""
    if not path.is_file():
        raise ConfigError(f"{path} does not exist")
    if damage := find_damage(path):
        raise ConfigError(f"{path} is damaged ({damage})")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if "iteration" not in content:
        raise ConfigError(f"{path} is not from a training: it does not tell its iteration")
    state = content["model"]
    if averaged:
        if "ema_state" not in content:
            raise ConfigError(f"{path} holds no averaged weights, although train.ema is enabled")
        prefix = "module."
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in content["ema_state"].items()
            if name.startswith(prefix)
        }
    return state, content["iteration"] + 1


def data_versions(config: DictConfig) -> dict[str, Any]:
    """What the embedded datasets of training and test were made of, by their folder."""
    names = set()
    for part in ("train", "test"):
        used = OmegaConf.select(config, f"dataloader.{part}.dataset.names") or []
        names |= {used} if isinstance(used, str) else set(used)
    versions = {}
    for dataset in builtin_datasets():
        if dataset.name in names and dataset.command and dataset.folder not in versions:
            manifest = read_manifest(dataset_root() / dataset.folder, dataset.command)
            versions[dataset.folder] = {
                "generator_version": manifest.generator_version,
                "hash": data_hash(manifest.files),
                "arguments": manifest.arguments.as_dict(),
            }
    return versions


def table_row(name: str, info: Mapping[str, Any]) -> str:
    """The row of models/README.md, under its header."""
    values = [find_metric(info["results"], key) for key in COLUMNS.values()]
    row = [
        f"`{name}`",
        f"`{info['config']}`",
        info["iterations"],
        f"{info['parameters'] / 1e6:.2f} M",
        f"{info['bytes'] / 1e6:.1f} MB",
        *("-" if value is None else f"{value:.1f}" for value in values),
    ]
    header = ["file", "config", "iterations", "parameters", "size", *COLUMNS]
    return tabulate([row], header, tablefmt="github", disable_numparse=True)


def export(args: argparse.Namespace) -> None:
    """Write the weights and their description."""
    if args.output.suffix != SUFFIX:
        raise ConfigError(f"--output {args.output} must end in {SUFFIX}")
    results_file = args.results or args.run / "results.json"
    if not results_file.is_file():
        raise ConfigError(
            f"{results_file} does not exist: evaluate the weights first (tools/train_net.py "
            "--eval-only), or name the file by --results"
        )
    results = json.loads(results_file.read_text())
    trained = load_config(args.run / "config.yaml")  # with what the command line changed
    path = args.checkpoint or newest_checkpoint(args.run)
    state, iterations = read_checkpoint(path, averaged=trained.train.ema.enabled)
    model = instantiate(load_config(args.config).model)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    tensors, subnormals = to_half(convert(state, shapes))
    config = args.config.resolve()
    info = {
        "config": str(config.relative_to(ROOT) if config.is_relative_to(ROOT) else args.config),
        "command": args.command,
        "seed": trained.train.seed,
        "iterations": iterations,
        "averaged": trained.train.ema.enabled,
        "data": data_versions(trained),
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_weights(args.output, tensors, info)
    content = args.output.read_bytes()
    info |= {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "results": results,
    }
    with replace_file(args.output.with_suffix(".json")) as file:
        file.write((json.dumps(info, indent=2) + "\n").encode())

    print(f"{path}: {len(tensors)} tensors written to {args.output}")
    if subnormals:
        largest = max(subnormals, key=subnormals.__getitem__)
        total = sum(tensor.numel() for tensor in tensors.values())
        print(
            f"{sum(subnormals.values())} of {total} values are below the normal numbers of half "
            f"precision (rounded to 3e-8), most of them in {largest}"
        )
    print(table_row(args.output.name, info))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser()
    args = parser.parse_args(arguments)
    if args.checkpoint and not args.results:
        parser.error("--checkpoint needs --results: those of the run may be of other weights")
    try:
        export(args)
    except (ConfigError, ConversionError, DatasetError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
