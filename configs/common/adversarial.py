"""Adversarial training of the NOCS head, with the settings of the ganocs project.

`critique` goes to `model.roi_heads.critique`, and `trainer` beside it: one without the other is an
error. Where the discriminator wins (`discriminator/real_accuracy`, `fake_accuracy` near 1), lower
`trainer.steps_per_batch` or its learning rate.
"""

import torch
from detectron2.config import LazyCall as L

from roca_nocs.engine.adversarial import (
    AdversarialTrainer,
    discriminator_parameters,
    generator_parameters,
)
from roca_nocs.modeling.criteria.step_schedule import StepSchedule
from roca_nocs.modeling.nocs_gan.critique import Critique
from roca_nocs.modeling.nocs_gan.discriminators import ConvDiscriminator
from roca_nocs.modeling.nocs_gan.objectives import BinaryCrossEntropy

critique = L(Critique)(
    discriminator=L(ConvDiscriminator)(features=64, num_outputs=1, batch_norm=True),
    objective=L(BinaryCrossEntropy)(),
    weight=L(StepSchedule)(rates=[0.25, 1.0], inflections=[5000]),
)

# Of the model; what is trained against the discriminator has the low momentum of DCGAN.
optimizer = L(torch.optim.Adam)(
    params=L(generator_parameters)(
        model=None,  # filled in by tools/train_net.py; the discriminators' parameters refer to it
        adversarial="roi_heads.nocs_head.",
        betas=(0.5, 0.99),
    ),
    lr=1e-4,
    betas=(0.9, 0.99),
    weight_decay=1e-6,
)

trainer = L(AdversarialTrainer)(
    discriminator_optimizer=L(torch.optim.Adam)(
        params=L(discriminator_parameters)(model="${optimizer.params.model}"),
        lr=1e-4,
        betas=(0.5, 0.999),
    ),
    steps_per_batch=5,
    discriminator_schedule=None,
    picture_period=500,
)
