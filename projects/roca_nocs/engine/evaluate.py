"""Evaluation of a model as the `dataloader` part of a config describes it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import instantiate
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn
from torch.optim.swa_utils import AveragedModel

from . import random_state
from .atomic_file import replace_file

__all__ = ["evaluate", "models_to_evaluate"]

logger = logging.getLogger(__name__)


def evaluate(
    dataloader: DictConfig, models: Mapping[str, nn.Module], *, output_dir: str
) -> dict[str, Any]:
    """Run the test loader and the evaluator of a config; has no effect on a training around it.

    Prints the results and writes them to ``results.json`` in `output_dir`.

    Args:
        dataloader: with `test` and `evaluator`; without an evaluator nothing is done.
        models: by the prefix of the names of their results.
        output_dir: folder of ``results.json``.

    Returns:
        Metrics by task and name on the main process, an empty dict on the others.
    """
    if dataloader.get("evaluator") is None or dataloader.get("test") is None:
        logger.warning("No evaluation: dataloader.test or dataloader.evaluator is missing")
        return {}
    results: dict[str, Any] = {}
    with random_state.preserved():
        loader = instantiate(dataloader.test)
        for prefix, model in models.items():
            _share_buffers(model)
            of_model = inference_on_dataset(model, loader, instantiate(dataloader.evaluator))
            results |= {prefix + task: metrics for task, metrics in of_model.items()}
    if comm.is_main_process():
        print_csv_format(results)
        with replace_file(Path(output_dir) / "results.json") as file:
            file.write(json.dumps(_without_nan(results), indent=2).encode())
    return results


def models_to_evaluate(
    model: nn.Module, average: AveragedModel | None, *, raw: bool
) -> dict[str, nn.Module]:
    """The models by the prefix of their results: the average if there is one, and then with `raw`
    the model itself too."""
    if average is None:
        return {"": model}
    return {"": average.module} | ({"raw/": model} if raw else {})


def _share_buffers(model: nn.Module) -> None:
    """Give all processes the buffers of rank 0, which are those that a checkpoint holds.

    In DDP each process has its own running statistics of batch normalisation; without this each
    would evaluate its part of the data with another model.
    """
    if comm.get_world_size() == 1:
        return
    with torch.no_grad():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for a metric that is not defined."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
