"""`ganocs_r50_fpn` against a discriminator: predicted coordinates shall look like real ones.

Images without coordinates count too, as predicted ones. The losses are those of the published
multi-loss: cross-entropy and squared distance with weight 1, the discriminator's with 0.25 and from
iteration 5000 on with 1; and the dispersion of the bins with 0.25.
"""

from detectron2.config import LazyCall as L

from roca_nocs.modeling.criteria.dispersion import DispersionLoss

from ..common.adversarial import critique as _critique
from ..common.adversarial import optimizer, trainer
from .ganocs_r50_fpn import dataloader, lr_multiplier, model, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train", "trainer"]

_heads = model.roi_heads
_heads.critique = _critique
_heads.nocs_loss.distance = "l2"
_heads.nocs_loss.distance_weight = 1.0
_heads.dispersion = L(DispersionLoss)(weight=0.25, bin_rule="${..nocs_head.bin_rule}")

train.output_dir = "./output/nocs_ganocs_r50_fpn_gan"
