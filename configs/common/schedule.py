"""Learning rate schedules, relative to `optimizer.lr`; see `roca_nocs.engine.schedule`."""

from detectron2.config import LazyCall as L

from roca_nocs.engine.schedule import flat_cosine, multi_step

# For training small models from scratch, of any length.
flat_then_cosine = L(flat_cosine)(
    max_iter="${train.max_iter}",
    warmup=40,
    flat=0.7,
    final=0.1,
)

# The "1x" schedule of detectron2: 90000 iterations of 16 images, about 12 passes over COCO.
coco_1x = L(multi_step)(
    max_iter="${train.max_iter}",
    milestones=[60000, 80000],
    warmup=1000,
)

# The published training of ROCA.
roca = L(multi_step)(
    max_iter="${train.max_iter}",
    milestones=[60000],
    warmup=1000,
)


def _detr(milestone, warmup=0):
    return L(multi_step)(max_iter="${train.max_iter}", milestones=[milestone], warmup=warmup)


# DETR-like detectors: 7500 iterations of 16 images are called an epoch, the last tenth or so is
# trained ten times slower.
detr = _detr(82500)  # after 11 of 12 epochs
# The others of detrex, for 375000 iterations and with a warm-up of a thousandth of an epoch.
detr_50ep = _detr(300000)  # after 40 epochs
detr_12ep_warmup = _detr(82500, warmup=7.5)
detr_50ep_warmup = _detr(300000, warmup=7.5)

# One rate, which the stages of the official training of NOCS each have.
constant = L(multi_step)(
    max_iter="${train.max_iter}",
    milestones=[],
    warmup=0,
)
