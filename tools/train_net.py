#!/usr/bin/env python
"""Train or evaluate what a config file describes.

tools/train_net.py --config-file configs/mask_rcnn/rooms_r18.py train.output_dir=output/rooms
tools/train_net.py --config-file ... --num-gpus 8            # processes on GPUs
tools/train_net.py --config-file ... --num-gpus 0 --num-processes 2    # processes on the CPU
tools/train_net.py --config-file ... --resume                # continue after an interruption
tools/train_net.py --config-file ... --eval-only             # newest checkpoint
tools/train_net.py --config-file ... --eval-only train.init_checkpoint=model.safetensors
torchrun --nproc-per-node 2 tools/train_net.py --config-file ...
"""

from __future__ import annotations

import argparse
import functools
import logging
import sys
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine import create_ddp_model, default_setup, hooks
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch import nn

import roca_nocs  # noqa: F401  (registers data sets and models)
from roca_nocs.engine import Trainer, random_state
from roca_nocs.engine.checkpoint import Checkpointer
from roca_nocs.engine.config import ConfigError, check_datasets, load_config
from roca_nocs.engine.ema import build_average, restart_average
from roca_nocs.engine.evaluate import evaluate, models_to_evaluate
from roca_nocs.engine.hooks import (
    BestCheckpointHook,
    CheckpointHook,
    EvaluationHook,
    WeightAverageHook,
)
from roca_nocs.engine.launch import argument_parser, resolve_device, start
from roca_nocs.engine.writers import build_writers

logger = logging.getLogger("roca_nocs.train_net")


def run_evaluation(config: DictConfig, model: nn.Module, weights: str = "") -> dict[str, Any]:
    """Evaluate `weights`; without, the newest checkpoint, or before there is one, what the training
    would start from."""
    train = config.train
    checkpointer = Checkpointer(model, train.output_dir, save_to_disk=False)
    path = weights or checkpointer.newest_checkpoint() or train.init_checkpoint
    if not path:
        raise ConfigError(
            f"--eval-only: there is no checkpoint in {train.output_dir}; "
            "name one by train.init_checkpoint=FILE"
        )
    loaded = checkpointer.load(path)
    average = None
    if train.ema.enabled:
        average = build_average(model, train.ema.decay)
        if "ema_state" in loaded:
            average.load_state_dict(loaded["ema_state"])
        else:
            logger.warning("%s holds no averaged weights: its plain ones are evaluated", path)
    models = models_to_evaluate(model, average, raw=train.ema.evaluate_raw)
    return evaluate(config.dataloader, models, output_dir=train.output_dir)


def run_training(config: DictConfig, model: nn.Module, *, resume: bool) -> Trainer:
    """Train from `train.init_checkpoint`, or with `resume` from where the last run stopped."""
    train = config.train
    config.optimizer.params.model = model
    average = build_average(model, train.ema.decay) if train.ema.enabled else None
    on_cpu = {"device_ids": None} if train.device == "cpu" else {}
    arguments = dict(
        model=create_ddp_model(model, **train.ddp, **on_cpu),
        data_loader=instantiate(config.dataloader.train),
        optimizer=instantiate(config.optimizer),
        autocast_dtype=getattr(torch, train.amp.dtype) if train.amp.enabled else None,
        accumulation_steps=train.accumulation_steps,
        clip_norm=train.clip_gradients.norm,
        clip_value=train.clip_gradients.value,
        clip_norm_per_parameter=train.clip_gradients.per_parameter,
    )
    trainer = instantiate({"_target_": Trainer, **config.get("trainer", {}), **arguments})
    states = {"trainer": trainer} if average is None else {"trainer": trainer, "ema_state": average}
    checkpointer = Checkpointer(model, train.output_dir, **states)
    models = models_to_evaluate(model, average, raw=train.ema.evaluate_raw)
    evaluation = functools.partial(evaluate, config.dataloader, models, output_dir=train.output_dir)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            WeightAverageHook(average) if average else None,
            hooks.LRScheduler(scheduler=instantiate(config.lr_multiplier)),
            *(instantiate(hook) for hook in config.get("hooks", {}).values()),
            # Before the evaluation, so that an error there costs no training.
            CheckpointHook(checkpointer, **train.checkpointer),
            EvaluationHook(train.eval_period, evaluation),
            BestCheckpointHook(checkpointer, only=[*states][1:], **train.best)
            if train.best.metric
            else None,
        ]
    )
    loaded = checkpointer.resume_or_load(train.init_checkpoint, train.init_modules, resume=resume)
    start_iter = loaded["iteration"] + 1 if loaded else 0
    if loaded:
        random_state.resume(loaded.get("random_states"), loaded["iteration"])
    elif average:
        restart_average(average, model)
    if comm.is_main_process():
        wandb = {"project": train.wandb.project, "name": train.wandb.name}
        writers = build_writers(
            train.output_dir, train.max_iter, start_iter, wandb if train.wandb.enabled else None
        )
        trainer.register_hooks([hooks.PeriodicWriter(writers, train.log_period)])
    trainer.train(start_iter, train.max_iter)
    return trainer


def main(args: argparse.Namespace) -> Trainer | dict[str, Any]:
    """Run one process; returns the results of `--eval-only`, else the trainer."""
    config = load_config(args.config_file, args.opts)
    config.train.device = resolve_device(config.train.device)
    check_datasets(
        config, ["test", "evaluator"] + ["train"] * (not args.eval_only), args.config_file
    )
    default_setup(config, args)
    setup_logger(config.train.output_dir, distributed_rank=comm.get_rank(), name="roca_nocs")
    model = instantiate(config.model).to(config.train.device)
    if not args.eval_only:
        return run_training(config, model, resume=args.resume)
    # What a config names is what its training starts from; what the command line names is meant.
    named = any(option.startswith("train.init_checkpoint=") for option in args.opts)
    weights = config.train.init_checkpoint if named and not args.resume else ""
    return run_evaluation(config, model, weights)


if __name__ == "__main__":
    try:
        start(main, argument_parser().parse_args())
    except ConfigError as error:
        sys.exit(f"error: {error}")
