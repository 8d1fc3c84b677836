"""`tabletop_r18_gan` with a discriminator that sees the depth of the objects."""

from detectron2.config import LazyCall as L

from roca_nocs.modeling.nocs_gan.discriminators import DepthAwareDiscriminator

from .tabletop_r18_gan import dataloader, lr_multiplier, model, optimizer, train, trainer

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train", "trainer"]

model.roi_heads.critique.discriminator = L(DepthAwareDiscriminator)(features=16, context_size=16)

dataloader.train.mapper.depth = True

train.output_dir = "./output/nocs_tabletop_r18_gan_depth"
