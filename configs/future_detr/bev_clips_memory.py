"""Stage 2 of FutureDETR on the embedded traffic with the memory of the frame before.

As `bev_clips.py`, and each frame's encoder starts with an attention to the memory of the last one,
aligned with the vehicle's motion. See `bev_detection.py` for the recipe.
"""

from detectron2.config import LazyCall as L

from roca_nocs.modeling.tracking.memory_fusion import MemoryFusion

from .bev_clips import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.temporal_fusion = "memory"
model.fusion = L(MemoryFusion)(
    embed_dim="${..detector.hidden_dim}",
    num_heads="${..detector.nheads}",
    num_feature_levels="${..detector.num_feature_levels}",
    num_points="${..detector.enc_n_points}",
    dropout="${..detector.dropout}",
)

train.output_dir = "./output/future_detr_bev_clips_memory"
