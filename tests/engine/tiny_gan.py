"""An adversarial training of milliseconds a step, on the data of `tiny_training`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.tiny_training import TinyDetector, write_project
from roca_nocs.modeling.nocs_gan.critique import Critique
from roca_nocs.modeling.roi_heads.nocs_targets import NocsTargets

SIZE = 24

_ADVERSARIAL = """
from engine.tiny_gan import TinyNocsDetector
from roca_nocs.engine.adversarial import (
    AdversarialTrainer, discriminator_parameters, generator_parameters
)
from roca_nocs.modeling.nocs_gan.critique import Critique
from roca_nocs.modeling.nocs_gan.discriminators import ConvDiscriminator, PerClassDiscriminators
from roca_nocs.modeling.criteria.step_schedule import StepSchedule
from roca_nocs.modeling.nocs_gan.objectives import BinaryCrossEntropy, Wasserstein
import torch

model._target_ = TinyNocsDetector
model.critique = L(Critique)(
    discriminator={discriminator},
    objective={objective},
    weight=L(StepSchedule)(rates=[0.25, 1.0], inflections=[3]),
)
optimizer = L(torch.optim.Adam)(
    params=L(generator_parameters)(model=None, adversarial="nocs.", betas=(0.5, 0.99)),
    lr=1e-3,
    betas=(0.9, 0.99),
)
trainer = L(AdversarialTrainer)(
    discriminator_optimizer=L({optimizer})(
        params=L(discriminator_parameters)(model="${{optimizer.params.model}}"), lr=1e-3
    ),
    discriminator_schedule="${{lr_multiplier}}",
    steps_per_batch=2,
    picture_period=4,
)
train.max_iter = 8
train.checkpointer.period = 2
train.eval_period = 0
"""

GAMES = {
    "cross_entropy": dict(
        discriminator="L(ConvDiscriminator)(features=4, num_outputs=2)",
        objective="L(BinaryCrossEntropy)()",
        optimizer="torch.optim.Adam",
    ),
    "wasserstein": dict(
        discriminator="L(PerClassDiscriminators)(discriminators=["
        "L(ConvDiscriminator)(features=4, batch_norm=False) for _ in range(2)])",
        objective="L(Wasserstein)()",
        optimizer="torch.optim.RMSprop",
    ),
}


class TinyNocsDetector(TinyDetector):
    """Predicts one map of coordinates an image too; every other image has no labels of them."""

    def __init__(self, critique: Critique, **options: Any) -> None:
        super().__init__(**options)
        self.nocs = nn.Linear(4, 3 * SIZE * SIZE)
        self.critique = critique

    def _losses(
        self, features: torch.Tensor, samples: list[dict[str, Any]]
    ) -> dict[str, torch.Tensor]:
        targets = nocs_targets(samples)
        maps = self.nocs(features).sigmoid().unflatten(1, (3, SIZE, SIZE))
        return super()._losses(features, samples) | self.critique(maps, targets)


def nocs_targets(samples: list[dict[str, Any]]) -> NocsTargets:
    """Ramps from the corner of an object's box, within a square."""
    boxes = torch.stack([s["instances"].gt_boxes.tensor[0] for s in samples])
    line = torch.linspace(0, 1, SIZE)
    y, x = torch.meshgrid(line, line, indexing="ij")
    ramps = torch.stack([x, y, x * y]) * (boxes[:, :3] / 32).clamp(0, 1)[..., None, None]
    mask = ((x - 0.5).abs() < 0.4) & ((y - 0.5).abs() < 0.3)
    return NocsTargets(
        coordinates=ramps * mask,
        mask=mask.expand(len(samples), -1, -1),
        classes=torch.stack([s["instances"].gt_classes[0] for s in samples]),
        labelled=torch.tensor([s["image_id"] % 4 < 2 for s in samples]),
    )


def write_adversarial_project(folder: Path, game: str, **options: Any) -> Path:
    """The project of `tiny_training` with one of the games; path of its config."""
    config = write_project(folder, **options)
    config.write_text(config.read_text() + _ADVERSARIAL.format(**GAMES[game]))
    return config
