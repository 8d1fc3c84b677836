#!/usr/bin/env python
"""Contact sheets of what a model sees of a registered dataset, after augmentation.

    tools/visualize_data.py --dataset rooms_train --output sheet.png
    tools/visualize_data.py --dataset rooms_train --config-file configs/mask_rcnn/rooms_r18.py

Columns: the image, boxes and masks, depth, NOCS map, projected CAD wireframes, as far as the
dataset has them. With a config, its augmentations are used; without one, colour jitter and a small
camera roll.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng

from roca_nocs.data.cad_meshes import Mesh, mesh_finder
from roca_nocs.data.mappers import CHIRAL_MAPS, MAPS, CocoMapper, SceneMapper, find_flip
from roca_nocs.data.transforms import ColorJitter, RandomCameraRoll
from roca_nocs.utils.visualize import (
    contact_sheet,
    depth_picture,
    draw_boxes,
    draw_masks,
    draw_wireframe,
    feature_edges,
    instance_colors,
    nocs_picture,
)


def training_augmentations(config_file: str) -> list[Any]:
    """What the training mapper of a config does to images."""
    mapper = LazyConfig.load(config_file).dataloader.train.mapper
    if "augmentations" in mapper:
        return list(instantiate(mapper.augmentations))
    if "augmentation" in mapper:  # with another list for some of the images
        return list(instantiate(mapper).augmentations.augs)
    raise SystemExit(
        f"{config_file}: dataloader.train.mapper has neither 'augmentations' nor 'augmentation', "
        f"but {', '.join(map(str, mapper))}: leave --config-file out to see the data without it"
    )


def build_mapper(records: list[dict], config_file: str | None) -> Callable[[dict], dict]:
    """A training mapper that reads everything the records have."""
    augmentations: list[Any] = [ColorJitter(), RandomCameraRoll(5)]
    if config_file:
        augmentations = training_augmentations(config_file)
    if "intrinsics" not in records[0]:
        masks = any("segmentation" in each for record in records for each in record["annotations"])
        geometric = [each for each in augmentations if not isinstance(each, RandomCameraRoll)]
        return CocoMapper(
            True,
            augmentations=geometric,
            image_format="RGB",
            use_instance_mask=masks,
            instance_mask_format="bitmask",
        )
    # Mirrored images can have neither poses nor NOCS maps.
    mirrored = find_flip(augmentations) is not None
    maps = [name for name in MAPS if f"{name}_file_name" in records[0]]
    maps = [name for name in maps if not (mirrored and name in CHIRAL_MAPS)]
    posed = all("q" in each for record in records for each in record["annotations"])
    poses = posed and not mirrored
    return SceneMapper(True, augmentations=augmentations, maps=maps, poses=poses)


def draw_cads(image: np.ndarray, sample: dict, mesh: Callable[[str, str], Mesh]) -> np.ndarray:
    """The posed CAD models of a sample as wireframes."""
    instances = sample["instances"]
    colors = instance_colors(len(instances))
    for row, (key, color) in enumerate(zip(instances.gt_cads, colors, strict=True)):
        rotation, translation, scale = (
            getattr(instances, f"gt_{name}")[row].double().numpy()
            for name in ("rotations", "translations", "scales")
        )
        edges = feature_edges(*mesh(*key)) * scale @ rotation.T + translation
        image = draw_wireframe(image, edges, sample["intrinsics"], color.tolist())
    return image


def pictures(sample: dict, names: list[str], mesh: Callable | None) -> dict[str, np.ndarray]:
    """Title and picture of everything in a mapped sample."""
    image = np.ascontiguousarray(sample["image"].permute(1, 2, 0).numpy())
    instances = sample["instances"]
    labels = [names[label] for label in instances.gt_classes.tolist()]
    drawn = image
    if instances.has("gt_masks"):
        drawn = draw_masks(drawn, instances.gt_masks.tensor.numpy())
    result = {
        "image": image,
        "boxes, masks": draw_boxes(drawn, instances.gt_boxes.tensor.numpy(), labels),
    }
    for name in ("depth", "depth_full"):
        if name in sample:
            result[name.replace("_", ", ")] = depth_picture(sample[name].numpy())
    if "nocs" in sample:
        inside = (sample["instance"] > 0).numpy()
        result["NOCS"] = nocs_picture(sample["nocs"].permute(1, 2, 0).numpy(), inside)
    if instances.has("gt_cads") and mesh is not None:
        result["CAD models"] = draw_cads(image, sample, mesh)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="registered name")
    parser.add_argument("--config-file", help="take the training augmentations of this config")
    parser.add_argument("--count", type=int, default=6, help="number of images")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and the augmentations")
    parser.add_argument("--output", default="data.png", help="picture to write")
    args = parser.parse_args()

    seed_all_rng(args.seed)
    records = DatasetCatalog.get(args.dataset)
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(args.seed))
    mapper = build_mapper(records, args.config_file)
    names = MetadataCatalog.get(args.dataset).thing_classes
    mesh = mesh_finder(args.dataset)
    chosen = [records[index] for index in order[: args.count].tolist()]
    rows = [pictures(mapper(record), names, mesh) for record in chosen]
    sheet = contact_sheet([list(row.values()) for row in rows], list(rows[0]))
    if not cv2.imwrite(args.output, sheet[..., ::-1]):
        raise SystemExit(f"cannot write {args.output}")
    print(f"{len(rows)} of {len(records)} images of {args.dataset} drawn to {args.output}")


if __name__ == "__main__":
    main()
