"""Monocular 3D boxes R50-FPN on all six datasets of Omni3D at once: 50 classes.

What a dataset has no category for is neither learned nor counted in its images. The schedule is
the one published for Cube R-CNN on all datasets: batches of 192 images.
"""

from .omni3d_indoor_r50_fpn import (
    dataloader,
    hooks,
    lr_multiplier,
    model,
    optimizer,
    train,
    trainer,
)

__all__ = ["dataloader", "hooks", "lr_multiplier", "model", "optimizer", "train", "trainer"]

_datasets = ("sunrgbd", "hypersim", "arkitscenes", "objectron", "kitti", "nuscenes")
dataloader.train.dataset.names = [
    f"omni3d_all_{name}_{split}" for name in _datasets for split in ("train", "val")
]
dataloader.test.dataset.names = [f"omni3d_all_{name}_test" for name in _datasets]
dataloader.train.total_batch_size = 192

model.roi_heads.num_classes = 50

optimizer.lr = 0.12

train.output_dir = "./output/mono3d_omni3d_all_r50_fpn"
