"""Statistics of the classes for 3D boxes in configs of the old kind (``CfgNode``)."""

from __future__ import annotations

from detectron2.config import CfgNode

from roca_nocs.data.mono3d_priors import dataset_priors
from roca_nocs.modeling.meta_arch import Mono3DRCNN

__all__ = ["set_dataset_priors"]


def set_dataset_priors(model: Mono3DRCNN, cfg: CfgNode) -> None:
    """Compute the priors of a model from ``cfg.DATASETS.TRAIN``, before a training without weights.

    LazyConfigs name the function themselves (``model.roi_heads.priors``), which a ``CfgNode``
    cannot do.

    Args:
        model: built from ``cfg``.
        cfg: with the keys of ``modeling.mono3d_config.add_mono3d_config``.

    Raises:
        DatasetError: no 3D box is annotated.
        ValueError: ``cfg.DATASETS.TRAIN`` is empty, or has other classes than the model.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("cfg.DATASETS.TRAIN is empty; priors need a training set")
    sides, head = cfg.INPUT.MIN_SIZE_TRAIN, cfg.MODEL.ROI_CUBE_HEAD
    priors = dataset_priors(
        list(cfg.DATASETS.TRAIN),
        shortest_side=sum(sides) / len(sides),
        virtual_focal=head.VIRTUAL_FOCAL,
        num_clusters=head.CLUSTER_BINS,
    )
    model.roi_heads.priors.set(priors)
