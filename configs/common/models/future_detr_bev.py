"""FutureDETR for rasters in the bird's-eye view: three observed frames, four future ones.

Rasters need no photographs' features: a ResNet-18 from scratch, normalised by groups because a
batch holds few clips, without reduction in the stem. Masks have the resolution of the raster.
"""

from detectron2.config import LazyCall as L

from roca_nocs.modeling.backbone.raster_resnet import build_raster_resnet
from roca_nocs.modeling.criteria import ClipCriterion, MixedMatcher
from roca_nocs.modeling.future.clip_results import ClipResults
from roca_nocs.modeling.future.rollout import FutureRollout
from roca_nocs.modeling.meta_arch import FutureDETR
from roca_nocs.modeling.tracking.propagation import TrackPropagation
from roca_nocs.modeling.tracking.query_interaction import QueryInteraction
from roca_nocs.modeling.tracking.runtime_tracker import RuntimeTracker
from roca_nocs.modeling.transformer.future_detector import FutureDetector

model = L(FutureDETR)(
    detector=L(FutureDetector)(
        backbone=L(build_raster_resnet)(
            depth=18, in_channels=5, stem_stride=1, dilation=False, norm="GN", freeze_at=0
        ),
        num_classes=1,
        num_queries=100,
        hidden_dim=256,
        nheads=8,
        enc_layers=6,
        dec_layers=6,
        dim_feedforward=1024,
        dropout=0.0,
        num_feature_levels=4,
        enc_n_points=4,
        dec_n_points=4,
        with_box_refine=True,
        two_stage=False,
        extra_track_attn=False,
        mask_type="conv",
        seg_stride=8,
        skip_mode="lateral",
        x_source="memory",
        mask_chunk=32,
        mask_dim=None,
        mask_window=False,
        gn_groups=8,
        num_semantic_classes=2,  # background, vehicles
        semantic_levels="all",
        semantic_dim=None,
    ),
    criterion=L(ClipCriterion)(
        matcher=L(MixedMatcher)(cost_class=2.0, cost_bbox=5.0, cost_giou=2.0),
        weight_class=2.0,
        weight_bbox=5.0,
        weight_giou=2.0,
        weight_mask=10.0,
        weight_dice=1.0,
        weight_flow=0.1,
        weight_consistency=0.5,
        weight_semantic=1.0,
        semantic_class_weights=[1.0, 2.0],
        semantic_hardest=0.25,
        future_discount=0.95,
        match_future_masks=True,
    ),
    propagation=L(TrackPropagation)(
        interaction=L(QueryInteraction)(
            embed_dim="${...detector.hidden_dim}",
            feedforward_dim="${...detector.dim_feedforward}",
            num_heads="${...detector.nheads}",
            dropout=0.0,
            update_query_pos=True,
        ),
        drop=0.1,
        fp_ratio=0.3,
        fp_id_excluded=False,
        motion_bias=False,
    ),
    rollout=L(FutureRollout)(
        embed_dim="${..detector.hidden_dim}",
        num_heads="${..detector.nheads}",
        feedforward_dim="${..detector.dim_feedforward}",
        dropout=0.0,
        num_feature_levels="${..detector.num_feature_levels}",
        num_points="${..detector.enc_n_points}",
        num_layers=2,
        max_steps="${..num_future}",
        update_query_pos=True,
        mode="autoregressive",
        future_skips="warped",
    ),
    tracker=L(RuntimeTracker)(score_thresh=0.7, filter_score_thresh=0.6, miss_tolerance=5),
    results=L(ClipResults)(
        min_score=0.35,
        min_value=0.3,
        min_area=4,
        max_masks=100,
        foreground_class=1,  # vehicles, where the model has a semantic head
    ),
    temporal_fusion="streaming",
    num_frames=None,
    num_future=4,
    future_births=True,
    freeze_detector=False,
    train_motion_only=False,
    use_checkpoint=False,
    pixel_mean=[0.0],
    pixel_std=[1.0],
)
