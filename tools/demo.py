#!/usr/bin/env python
"""Shows what a trained model finds in photos, videos, images or clips of a dataset.

    tools/demo.py --run output/rooms_r18                                  # its test dataset
    tools/demo.py --run output/roca --input photo.jpg --fov 65 --output found
    tools/demo.py --config-file configs/roca/rooms.py --weights model.pth \\
        --input photos/ video.mp4 --intrinsics fx,fy,cx,cy --cads cads --output found

Each image gets a picture and a JSON file, and from models with 3D poses or boxes a page with the
scene to turn around and a GLB file. Models of the future get clips of a dataset, each of which
becomes an animation and a JSON file. index.html shows all. See docs/demo.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn
from tqdm import tqdm

import roca_nocs  # noqa: F401  (registers data sets and models)
from roca_nocs.data.bev_mapper import BevClipMapper
from roca_nocs.data.cad_meshes import mesh_finder
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.engine.checkpoint import Checkpointer
from roca_nocs.engine.config import ConfigError, load_config
from roca_nocs.engine.ema import build_average
from roca_nocs.engine.launch import resolve_device
from roca_nocs.visualization import inputs
from roca_nocs.visualization.output_folder import OutputFolder
from roca_nocs.visualization.predictor import CAMERA_NEEDED, ClipPredictor, Predictor
from roca_nocs.visualization.video import VideoReader

ASSUMED_FOCAL = 2.0
"""Focal length over the height of the image where it is not known, as Cube R-CNN's demo has it."""
CAMERA_ASSUMED = (
    "warning: the camera is not known (--intrinsics or --fov), and a focal length of twice the "
    "height of the image is assumed: distances and sizes are right up to a factor"
)
IMAGE_OPTIONS = ("input", "intrinsics", "fov", "depth", "cads", "scene")
"""What only models of images take."""


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path, help="output folder of a training: its newest weights")
    which.add_argument("--config-file", type=Path, help="config of the model, with --weights")
    parser.add_argument("--weights", help="checkpoint file, .pth or .safetensors")
    parser.add_argument("--input", nargs="+", help="images, videos, or folders of them")
    parser.add_argument(
        "--dataset",
        help="registered name, if there is no --input; default: the test dataset of the config",
    )
    parser.add_argument("--count", type=int, default=6, help="images or clips to take of a dataset")
    parser.add_argument(
        "--intrinsics", help="fx,fy,cx,cy of --input in pixels, or a file with a matrix"
    )
    parser.add_argument("--fov", type=float, help="or its horizontal field of view, degrees")
    parser.add_argument(
        "--depth",
        type=Path,
        help="measured depth of --input for models that use it: a PNG with 16 bits, millimetres, "
        "or a folder with one of the same name for each image",
    )
    parser.add_argument(
        "--cads",
        type=Path,
        help="CAD catalogue to choose from: file stem or folder; default: that of the dataset",
    )
    parser.add_argument("--scene", help="choose among the CAD models of this scene only")
    parser.add_argument("--threshold", type=float, default=0.5, help="smallest score to show")
    parser.add_argument(
        "--animation", choices=("gif", "webp", "mp4"), default="gif", help="files of clips"
    )
    parser.add_argument("--output", type=Path, help="folder to write to; default: RUN/demo")
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    return parser


def load_model(args: argparse.Namespace) -> tuple[Any, nn.Module]:
    """The config and its model with the weights, in evaluation mode."""
    config_file = args.config_file or args.run / "config.yaml"
    if not config_file.is_file():
        raise ConfigError(f"{config_file} does not exist")
    cfg = load_config(config_file)
    model = instantiate(cfg.model).to(resolve_device(args.device))
    checkpointer = Checkpointer(model, str(args.run or ""), save_to_disk=False)
    weights = args.weights or checkpointer.newest_checkpoint()
    if not weights:
        raise ConfigError(f"{args.run} holds no checkpoint: train first, or give --weights")
    loaded = checkpointer.load(weights, checkpointables=[])
    if cfg.train.ema.enabled and "ema_state" in loaded:
        average = build_average(model, cfg.train.ema.decay)
        average.load_state_dict(loaded["ema_state"])
        model = average.module
    return cfg, model.eval()


def find_dataset(cfg: Any, name: str | None) -> str:
    """The dataset given, else the (first) one that the config tests on."""
    tested = cfg.dataloader.test.dataset
    while "records" in tested:  # some of the records of a dataset
        tested = tested.records
    names = name or tested.names
    dataset = names if isinstance(names, str) else names[0]
    if dataset not in DatasetCatalog.list():
        raise ConfigError(f"the dataset {dataset!r} is not registered")
    if not MetadataCatalog.get(dataset).get("thing_classes"):
        DatasetCatalog.get(dataset)  # some know their classes only once they are read
    return dataset


def write_images(
    sources: Sequence[Callable[[], inputs.Frame]], predictor: Predictor, folder: OutputFolder
) -> Iterator[Exception]:
    """Write the results of images; yields what went wrong."""
    for read in tqdm(sources, unit="image", disable=not sources):
        try:
            frame = read()
            result = predictor(frame)
        except inputs.InputError as error:
            yield error
        else:
            folder.write_image(frame, result)


def write_videos(
    paths: Sequence[Path],
    camera: inputs.CameraChoice,
    scene: str | None,
    predictor: Predictor,
    folder: OutputFolder,
) -> Iterator[Exception]:
    """Write the results of videos; yields what went wrong."""
    for name, path in zip(inputs.unique_names([each.stem for each in paths]), paths, strict=True):
        try:
            reader = VideoReader(path)
            frames = reader.frames(name, camera, scene)
            progress = tqdm(frames, desc=path.name, unit="frame", total=reader.count or None)
            folder.write_video(name, progress, reader.rate, predictor)
        except ImportError as error:
            yield inputs.InputError(f"{path}: {error}")
        except inputs.InputError as error:
            yield error


def spread(records: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of the records, at equal distances."""
    rows = np.linspace(0, len(records), min(count, len(records)), endpoint=False)
    return [records[int(row)] for row in rows]


def show_images(
    args: argparse.Namespace,
    files: tuple[list[Path], list[Path]],
    camera: inputs.CameraChoice,
    predictor: Predictor,
    dataset: str,
    output: Path,
) -> tuple[OutputFolder, list[Exception]]:
    """Write the results of images and videos; returns the folder and what went wrong."""
    images, videos = files
    if args.depth and not predictor.reads_depth:
        raise ConfigError("--depth: this model makes no use of measured depth")
    if args.intrinsics is None and args.fov is None:
        if args.input and predictor.needs_camera:
            raise inputs.InputError(CAMERA_NEEDED)
        if args.input and predictor.assumes_camera:
            print(CAMERA_ASSUMED, file=sys.stderr)
        if predictor.assumes_camera:
            camera = inputs.CameraChoice(focal_share=ASSUMED_FOCAL)
    mesh, scenes = None, frozenset()
    if predictor.retrieves_cads:
        by_scene = bool(args.scene) or not args.input
        mesh, scenes = predictor.use_cads(args.cads, dataset, by_scene=by_scene)
    if args.scene and args.scene not in scenes:
        raise ConfigError(
            f"--scene {args.scene}: its CAD models are not known; there are {len(scenes)} scenes: "
            f"{', '.join(sorted(scenes)[:5])}"
        )
    if args.input:
        sources = inputs.file_sources(images, camera, args.scene, args.depth)
    else:
        chosen = spread(DatasetCatalog.get(dataset), args.count)
        sources = inputs.record_sources(chosen, camera, scenes, depth=predictor.reads_depth)
    folder = OutputFolder(
        output,
        MetadataCatalog.get(dataset).thing_classes,
        mesh,
        mesh_finder(dataset) if mesh and not args.input else None,
    )
    problems = list(write_images(sources, predictor, folder))
    problems += write_videos(videos, camera, args.scene, predictor, folder)
    return folder, problems


def show_clips(
    args: argparse.Namespace, predictor: ClipPredictor, cfg: Any, dataset: str, output: Path
) -> tuple[OutputFolder, list[Exception]]:
    """Write the results of clips; returns the folder and what went wrong."""
    for name in IMAGE_OPTIONS:
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name}: this model takes clips of a dataset, no images")
    named = args.dataset is not None
    records = DatasetCatalog.get(dataset) if named else instantiate(cfg.dataloader.test.dataset)
    if records and records[0].get("layout") != "bev":
        raise ConfigError(f"{dataset} has no clips of rasters in bird's-eye view, see docs/demo.md")
    folder = OutputFolder(output, MetadataCatalog.get(dataset).thing_classes)
    problems: list[Exception] = []
    for record in tqdm(spread(records, args.count), unit="clip"):
        try:
            sample, result = predictor(record)
            channels = record["meta"].input_channels
            folder.write_clip(sample, result, channels, args.animation)
        except inputs.InputError as error:
            problems.append(error)
        except ImportError as error:
            raise ConfigError(f"--animation {args.animation}: {error}") from error
    return folder, problems


def run(args: argparse.Namespace) -> int:
    """Write everything; returns how many inputs could not be used."""
    matrix = inputs.parse_intrinsics(args.intrinsics) if args.intrinsics is not None else None
    camera = inputs.CameraChoice(matrix, args.fov)
    files = inputs.find_inputs(args.input or ())
    cfg, model = load_model(args)
    dataset = find_dataset(cfg, args.dataset)
    mapper = instantiate(cfg.dataloader.test.mapper)
    output = args.output or args.run / "demo"
    if isinstance(mapper, BevClipMapper):
        clips = ClipPredictor(model, mapper, args.threshold)
        folder, problems = show_clips(args, clips, cfg, dataset, output)
    else:
        predictor = Predictor(model, mapper, args.threshold)
        folder, problems = show_images(args, files, camera, predictor, dataset, output)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    print(f"see {folder.write_index()}")
    return len(problems)


def main() -> None:
    parser = argument_parser()
    args = parser.parse_args()
    if args.config_file and not args.weights:
        parser.error("--config-file needs --weights")
    if not args.run and not args.output:
        parser.error("--config-file needs --output")
    try:
        problems = run(args)
    except (ConfigError, DatasetError, inputs.InputError) as error:
        sys.exit(f"error: {error}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
