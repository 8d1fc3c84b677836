#!/usr/bin/env python
"""Train the loss predictor on what the hook `ResultsCache` kept of a training.

tools/train_loss_prediction.py output/nocs/results --output output/loss_prediction.pth
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from roca_nocs.engine.loss_prediction import CachedMaps, fit_loss_predictor
from roca_nocs.modeling.loss_prediction import LossPredictor


def main() -> None:
    """Split the maps at random, train, and write the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cache", type=Path, help="folder of the results")
    parser.add_argument("--output", type=Path, required=True, help="file of the weights")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--validation-share", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    torch.manual_seed(arguments.seed)
    maps = CachedMaps(arguments.cache)
    order = torch.randperm(len(maps)).tolist()
    held_out = max(int(len(maps) * arguments.validation_share), 1)
    training, validation = maps.select(order[held_out:]), maps.select(order[:held_out])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = LossPredictor().to(device)
    fit_loss_predictor(
        predictor, training, validation, epochs=arguments.epochs, batch_size=arguments.batch_size
    )
    torch.save(predictor.cpu().state_dict(), arguments.output)


if __name__ == "__main__":
    main()
