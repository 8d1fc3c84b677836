"""`ganocs_r50_fpn` against a discriminator: predicted coordinates shall look like real ones.

Images without coordinates count too, as predicted ones.
"""

from ..common.adversarial import critique as _critique
from ..common.adversarial import optimizer, trainer
from .ganocs_r50_fpn import dataloader, lr_multiplier, model, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train", "trainer"]

model.roi_heads.critique = _critique

train.output_dir = "./output/nocs_ganocs_r50_fpn_gan"
