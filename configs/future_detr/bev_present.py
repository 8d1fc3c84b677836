"""FutureDETR on the embedded traffic, second stage: the present, between `bev_motion.py` and
`bev_stack.py`.

The rollout keeps the weights of the first stage. Without future steps an iteration takes half the
time.
"""

from .bev_stack import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.num_future = 0

lr_multiplier.flat = 0.4

optimizer.lr = 8e-4

train.output_dir = "./output/future_detr_bev_present"
train.init_checkpoint = "./output/future_detr_bev_motion/model_final.pth"
train.max_iter = 7500
train.eval_period = 1500
