"""Adversarial configs: every parameter has its optimizer, and discriminators fit the maps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine import hooks
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

from roca_nocs.engine.adversarial import AdversarialTrainer
from roca_nocs.engine.config import load_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs/nocs").glob("*gan*.py"))
ADVERSARIAL = [path for path in CONFIGS if "trainer" in load_config(path)]


def sample(labelled: bool) -> dict[str, Any]:
    """A square before nothing."""
    instances = Instances((96, 128))
    instances.gt_boxes = Boxes(torch.tensor([[20.0, 30.0, 70.0, 80.0]]))
    instances.gt_classes = torch.tensor([2])
    mask = torch.zeros(1, 96, 128, dtype=torch.bool)
    mask[0, 30:80, 20:70] = True
    instances.gt_masks = BitMasks(mask)
    result = {"image": torch.randint(0, 255, (3, 96, 128), dtype=torch.uint8)}
    if labelled:
        result["nocs"] = (torch.rand(3, 96, 128) - 0.5) * mask
        result["depth"] = 1 + torch.rand(96, 128)
    return {**result, "instances": instances}


def test_there_are_adversarial_configs() -> None:
    assert {"ganocs_r50_fpn_gan", "tabletop_r18_gan", "tabletop_r18_gan_depth"} < {
        path.stem for path in ADVERSARIAL
    }


@pytest.mark.parametrize("path", ADVERSARIAL, ids=lambda path: path.stem)
def test_depth_is_loaded_where_it_is_judged(path: Path) -> None:
    config = load_config(path)
    discriminator = instantiate(config.model.roi_heads.critique.discriminator)
    assert config.dataloader.train.mapper.get("depth", False) == discriminator.uses_depth
    assert discriminator.uses_depth == ("depth" in path.stem)


def build(path: Path, loader: list[Any]) -> AdversarialTrainer:
    """The trainer of a config without its data."""
    config = load_config(path)
    config.model.class_sizes = None
    config.model.roi_heads.nocs_loss.rotations = None
    torch.manual_seed(0)
    model = config.optimizer.params.model = instantiate(config.model)
    optimizer = instantiate(config.optimizer)
    return instantiate(
        {**config.trainer, "model": model, "data_loader": loader, "optimizer": optimizer}
    )


@pytest.mark.parametrize("path", ADVERSARIAL, ids=lambda path: path.stem)
def test_optimizers_share_out_the_parameters(path: Path) -> None:
    trainer = build(path, [])
    model, optimizer = trainer.model, trainer.optimizer
    assert isinstance(trainer, AdversarialTrainer)

    groups = {
        name: {p for group in each.param_groups for p in group["params"]}
        for name, each in (
            ("model", optimizer),
            ("discriminator", trainer.discriminator_optimizer),
        )
    }
    critique = model.roi_heads.critique
    assert trainer.critique is critique
    assert groups["discriminator"] == set(critique.parameters())
    assert groups["model"] == {p for p in model.parameters() if p.requires_grad}
    assert not groups["model"] & groups["discriminator"]
    head = set(model.roi_heads.nocs_head.parameters())
    betas = {g["betas"]: {*g["params"]} for g in optimizer.param_groups}
    assert betas.keys() == {(0.9, 0.99), (0.5, 0.99)} and betas[0.5, 0.99] == head

    # A map of each class can be judged.
    config = load_config(path)
    size = 2 * config.model.roi_heads.nocs_pooler.output_size
    count = config.model.roi_heads.num_classes
    maps = torch.rand(count, 3, size, size)
    scores = critique.discriminator(maps, torch.arange(count), maps[:, :1])
    assert scores.shape == (count,)


SMALL = [path for path in ADVERSARIAL if path.stem.startswith("tabletop")]


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_first_iterations(path: Path) -> None:
    """Both sides learn; an image without labels adds predicted maps, alone it teaches nothing.

    Without depth it adds none where depth is judged.
    """
    both, unlabelled = [sample(True), sample(False)], [sample(False)]
    trainer = build(path, [both, unlabelled])
    discriminator = trainer.critique.discriminator
    head = next(trainer.model.roi_heads.nocs_head.parameters())
    states = []

    def record(_: Any) -> None:
        parameters = nn.utils.parameters_to_vector(discriminator.parameters())
        states.append((head.detach().clone(), parameters.detach().clone()))

    record(None)
    trainer.register_hooks([hooks.CallbackHook(after_step=record)])
    trainer.train(0, 2)
    (head_0, own_0), (head_1, own_1), (head_2, own_2) = states
    assert not torch.equal(head_0, head_1) and not torch.equal(own_0, own_1)
    judged = not trainer.critique.uses_depth
    assert not torch.equal(head_1, head_2) and torch.equal(own_1, own_2)
    counts = {
        name: trainer.storage.history(f"discriminator/regions_{name}").values()
        for name in ("real", "fake")
    }
    (real, _), (none, _) = counts["real"]
    (fake, _), (others, _) = counts["fake"]
    assert fake >= real > none == 0 and (fake > real) == (others > 0) == judged
    latest = trainer.storage.latest()
    assert all(math.isfinite(latest[name][0]) for name in ("total_loss", "loss_nocs_critique"))
