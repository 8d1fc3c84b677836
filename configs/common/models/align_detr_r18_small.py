"""AlignDETR for images of about 160x120 pixels, trained from scratch on a CPU."""

from .align_detr_r50 import model

# From scratch the normalisation must learn: frozen statistics would be those of no data.
model.backbone.stem.norm = "BN"
model.backbone.stages.depth = 18
model.backbone.freeze_at = 0

model.embed_dim = 128
model.num_queries = 100
model.dn_number = 30
model.position_embedding.num_pos_feats = 64
# Given here, not left to the backbone: the neck then draws its weights before the transformer, as
# in the runs of docs/results.md.
model.neck.in_channels = [128, 256, 512]
for _part in (model.transformer.encoder, model.transformer.decoder):
    _part.num_heads = 4
    _part.feedforward_dim = 512
    _part.num_layers = 3
model.criterion.match_num = [2, 2, 2, 1]

model.pixel_mean = [110.0, 110.0, 110.0]
model.pixel_std = [58.0, 58.0, 58.0]
model.select_box_nums_for_evaluation = 100
