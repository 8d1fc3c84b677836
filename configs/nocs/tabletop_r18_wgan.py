"""`tabletop_r18` in the Wasserstein game, with a discriminator of its own for each class."""

import torch
from detectron2.config import LazyCall as L

from roca_nocs.engine.adversarial import discriminator_parameters
from roca_nocs.modeling.nocs_gan.discriminators import ConvDiscriminator, PerClassDiscriminators
from roca_nocs.modeling.nocs_gan.objectives import Wasserstein

from .tabletop_r18_gan import dataloader, lr_multiplier, model, optimizer, train, trainer

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train", "trainer"]

# A batch has few objects of a class, and the penalty looks at each by itself: no batch statistics.
_networks = [L(ConvDiscriminator)(features=16, num_outputs=1, batch_norm=False) for _ in range(6)]
model.roi_heads.critique.discriminator = L(PerClassDiscriminators)(discriminators=_networks)
model.roi_heads.critique.objective = L(Wasserstein)(gradient_penalty=10.0, weight_clip=None)

trainer.discriminator_optimizer = L(torch.optim.RMSprop)(
    params=L(discriminator_parameters)(model="${optimizer.params.model}"), lr=5e-5, alpha=0.99
)
trainer.steps_per_batch = 5

train.output_dir = "./output/nocs_tabletop_r18_wgan"
