"""AlignDETR on a ResNet-50 with four feature levels, as published.

Image statistics, format and the place of the stride belong to torchvision's ImageNet weights
(`detectron2://ImageNetPretrained/torchvision/R-50.pkl`): RGB on 0-255, stride in the 3x3
convolution.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling import ResNet
from detectron2.modeling.backbone.resnet import BasicStem

from roca_nocs.layers.neck import ChannelMapper
from roca_nocs.layers.position import PositionEmbeddingSine
from roca_nocs.modeling.backbone.resnet_stages import torchvision_stages
from roca_nocs.modeling.criteria import AlignDETRCriterion, MixedMatcher
from roca_nocs.modeling.meta_arch import AlignDETR
from roca_nocs.modeling.transformer.align_detr_transformer import AlignDETRTransformer
from roca_nocs.modeling.transformer.decoder import DeformableDecoder
from roca_nocs.modeling.transformer.encoder import DeformableEncoder

model = L(AlignDETR)(
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(torchvision_stages)(depth=50, norm="${..stem.norm}"),
        out_features=["res3", "res4", "res5"],
        freeze_at=1,
    ),
    position_embedding=L(PositionEmbeddingSine)(
        num_pos_feats=128,  # half of embed_dim
        temperature=10000,
        normalize=True,
        offset=-0.5,
    ),
    neck=L(ChannelMapper)(
        in_features="${..backbone.out_features}",
        in_channels=None,  # those of the backbone
        out_channels="${..embed_dim}",
        num_outs="${..transformer.num_feature_levels}",
        kernel_size=1,
        num_groups=32,
    ),
    transformer=L(AlignDETRTransformer)(
        encoder=L(DeformableEncoder)(
            embed_dim="${...embed_dim}",
            num_heads=8,
            feedforward_dim=2048,
            attn_dropout=0.0,
            ffn_dropout=0.0,
            num_layers=6,
            num_feature_levels="${..num_feature_levels}",
            num_points=4,
            post_norm=False,
        ),
        decoder=L(DeformableDecoder)(
            embed_dim="${...embed_dim}",
            num_heads=8,
            feedforward_dim=2048,
            attn_dropout=0.0,
            ffn_dropout=0.0,
            num_layers=6,
            num_feature_levels="${..num_feature_levels}",
            num_points=4,
            look_forward_twice=True,
        ),
        num_feature_levels=4,
        two_stage_num_proposals="${..num_queries}",
        learnt_init_query=True,
    ),
    embed_dim=256,
    num_classes=80,
    num_queries=900,
    aux_loss=True,
    criterion=L(AlignDETRCriterion)(
        num_classes="${..num_classes}",
        matcher=L(MixedMatcher)(
            cost_class=2.0,
            cost_bbox=5.0,
            cost_giou=2.0,
            cost_class_type="focal_loss_cost",
            alpha=0.25,
            gamma=2.0,
        ),
        match_num=[2, 2, 2, 2, 2, 2, 1],  # encoder, then the decoder's layers
        tau=1.5,
        alpha=0.25,
        gamma=2.0,
        weight_dict=dict(loss_class=1.0, loss_bbox=5.0, loss_giou=2.0),
        two_stage_binary_cls=False,
        cls_loss="ia_bce",
    ),
    dn_number=100,
    label_noise_ratio=0.5,
    box_noise_scale=1.0,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
    prior_init=0.01,
    select_box_nums_for_evaluation=300,
)
