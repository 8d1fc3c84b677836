"""ROCA R18-FPN on the embedded rooms: the second stage of the weights in `models/`.

It goes on from `rooms_r18_long.py` on five times as many rooms, 1.5 passes over 12 000 images:

    python datasets/prepare_embedded.py --kind rooms --train 12000 --val 200 --size 160x120 \
        --seed 0 --workers 2 --output large/rooms
    DETECTRON2_DATASETS=large tools/train_net.py --config-file configs/roca/rooms_r18_long2.py \
        --num-gpus 0 --num-processes 2
"""

from .rooms_r18 import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

optimizer.lr = 8e-4
lr_multiplier.flat = 0.5
lr_multiplier.final = 0.01
train.init_checkpoint = "./output/roca_rooms_r18_long/model_final.pth"
train.output_dir = "./output/roca_rooms_r18_long2"
train.max_iter = 2200
