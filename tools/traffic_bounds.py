#!/usr/bin/env python
"""Print what can be reached on the embedded traffic: IoU and VPQ of a tracker without mistakes.

tools/traffic_bounds.py --dataset traffic_test

The tracker finds every agent that is observed, up to the noise of the simulator, and predicts with
the motion that a row names; all rows but the first end where the raster of a step will be.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from tabulate import tabulate

from roca_nocs.data.bev_clip import read_clip
from roca_nocs.data.bev_mapper import BevClipMapper
from roca_nocs.data.synthetic.traffic import JITTER, MISSED_SHARE
from roca_nocs.evaluation.bev_baselines import constant_velocity
from roca_nocs.evaluation.bev_evaluator import BevEvaluator
from roca_nocs.evaluation.ideal_tracker import MOTIONS, drawn, ideal_tracks
from roca_nocs.modeling.future.coverage import cells_ahead

ANNOTATED = "annotated boxes, constant velocity (the baseline)"


def evaluate(dataset: str, seed: int, generous: bool) -> dict[str, BevEvaluator]:
    """The evaluators of all rows, by name."""
    rng = np.random.default_rng(seed)
    rows = {ANNOTATED: BevEvaluator(), f"{ANNOTATED}, covered cells": BevEvaluator()}
    rows |= {f"ideal tracker, {name}": BevEvaluator() for name in MOTIONS}
    for record in DatasetCatalog.get(dataset):
        meta = record["meta"]
        observed, steps = meta.time_receptive_field, meta.n_future_frames
        sample = BevClipMapper(observed, steps)(record)
        clip = read_clip(record["root"], record["clip_id"], meta)
        poses = torch.from_numpy(clip.ego_pose[None, :observed])
        covered = cells_ahead(poses, None, steps, meta.grid)[0].numpy()
        tracks = ideal_tracks(
            clip,
            observed,
            meta.frame_dt,
            rng,
            missed=MISSED_SHARE,
            jitter=JITTER,
            generous=generous,
        )
        annotated = constant_velocity(sample)
        predicted = [annotated, annotated * covered]
        predicted += [drawn(tracks, move(tracks), covered, meta.grid) for move in MOTIONS.values()]
        for evaluator, instances in zip(rows.values(), predicted, strict=True):
            evaluator.process([sample], [{"instances": instances}])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="traffic_test", help="a registered dataset of clips")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument(
        "--generous",
        action="store_true",
        help="agents that are observed once have their annotated velocity, otherwise none",
    )
    arguments = parser.parse_args()
    table = []
    rows = evaluate(arguments.dataset, arguments.seed, arguments.generous)
    for name, evaluator in rows.items():
        found = evaluator.evaluate()
        steps = [value for key, value in found["bev_steps"].items() if key.startswith("VPQ_")]
        table.append([name, found["bev"]["IoU_long"], found["bev"]["VPQ_long"], *steps])
    header = ["", "IoU", "VPQ", *(f"VPQ_{step}" for step in range(len(table[0]) - 3))]
    print(tabulate(table, header, floatfmt=".1f", tablefmt="github"))


if __name__ == "__main__":
    main()
