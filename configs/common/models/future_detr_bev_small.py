"""FutureDETR for rasters of about 96x96 cells, trained from scratch on a CPU."""

from .future_detr_bev import model

model.detector.backbone.width = 32  # the stages at full resolution are most of a step
model.detector.num_queries = 30
model.detector.hidden_dim = 128
model.detector.enc_layers = 2
model.detector.dec_layers = 2
model.detector.dim_feedforward = 512
# Inner products learn to tell instances apart in far fewer iterations than attention maps.
model.detector.mask_type = "dot"
model.detector.mask_dim = 32
model.rollout.num_layers = 1
# After a short training existence probabilities stay below the published 0.7 and 0.6.
model.tracker.score_thresh = 0.5
model.tracker.filter_score_thresh = 0.4
