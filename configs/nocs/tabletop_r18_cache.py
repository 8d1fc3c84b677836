"""tabletop_r18 that keeps its bins as spread as the true ones and a sample of its results on disk.

The dispersion loss and the results cache, from which `tools/train_loss_prediction.py` learns.
"""

from detectron2.config import LazyCall as L

from roca_nocs.engine.results_cache import ResultsCache
from roca_nocs.modeling.criteria.dispersion import DispersionLoss

from .tabletop_r18 import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "hooks", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads.dispersion = L(DispersionLoss)(weight=0.25, bin_rule="${..nocs_head.bin_rule}")

train.output_dir = "./output/nocs_tabletop_r18_cache"
hooks = dict(
    cache=L(ResultsCache)(
        folder="${train.output_dir}/results", iterations_per_epoch=100, period=20, max_objects=1000
    )
)
