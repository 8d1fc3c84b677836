"""`tabletop_r18` against one discriminator for all classes."""

from ..common.adversarial import critique as _critique
from ..common.adversarial import optimizer, trainer
from .tabletop_r18 import dataloader, lr_multiplier, model, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train", "trainer"]

_critique.discriminator.features = 16
# The first maps are far from real ones, whatever they are compared with.
_critique.weight.rates = [0.05, 0.2]
_critique.weight.inflections = [300]
model.roi_heads.critique = _critique

optimizer.lr = 1e-3
trainer.discriminator_optimizer.lr = 3e-4
trainer.discriminator_schedule = "${lr_multiplier}"
trainer.steps_per_batch = 1
trainer.picture_period = 100

train.output_dir = "./output/nocs_tabletop_r18_gan"
