"""The small models whose weights and results are in the golden files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from detectron2.modeling import ResNet
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock
from torch import nn

from roca_nocs.layers.neck import ChannelMapper
from roca_nocs.layers.position import PositionEmbeddingSine
from roca_nocs.layers.transformer import DetrMLP
from roca_nocs.modeling.criteria import AlignDETRCriterion, MixedMatcher
from roca_nocs.modeling.meta_arch import AlignDETR
from roca_nocs.modeling.transformer.align_detr_transformer import AlignDETRTransformer
from roca_nocs.modeling.transformer.decoder import DeformableDecoder
from roca_nocs.modeling.transformer.encoder import DeformableEncoder

Golden = Mapping[str, np.ndarray]


def state_dict(golden: Golden) -> dict[str, torch.Tensor]:
    """The weights of a golden file."""
    return {
        key.removeprefix("sd/"): torch.from_numpy(golden[key])
        for key in golden
        if key.startswith("sd/")
    }


def build_transformer(golden: Golden) -> AlignDETRTransformer:
    """A transformer of the file's sizes, without heads."""
    sizes = {
        name: int(golden[name])
        for name in (
            "embed_dim",
            "num_heads",
            "feedforward_dim",
            "num_feature_levels",
            "num_points",
        )
    }
    return AlignDETRTransformer(
        DeformableEncoder(num_layers=int(golden["encoder_layers"]), **sizes),
        DeformableDecoder(num_layers=int(golden["decoder_layers"]), **sizes),
        num_feature_levels=sizes["num_feature_levels"],
        two_stage_num_proposals=int(golden["num_queries"]),
    )


def build_transformer_with_heads(golden: Golden) -> AlignDETRTransformer:
    """A transformer with the weights of the file, its heads included."""
    transformer = build_transformer(golden)
    embed_dim, count = int(golden["embed_dim"]), int(golden["decoder_layers"]) + 1
    transformer.decoder.attach_heads(
        nn.ModuleList(nn.Linear(embed_dim, int(golden["num_classes"])) for _ in range(count)),
        nn.ModuleList(DetrMLP(embed_dim, embed_dim, 4, 3) for _ in range(count)),
    )
    transformer.load_state_dict(state_dict(golden))
    return transformer


def build_model(golden: Golden) -> AlignDETR:
    """A detector with the weights of the file."""
    stem = int(golden["backbone_stem_channels"])
    channels = golden["backbone_stage_out_channels"].tolist()
    stages = [
        ResNet.make_stage(
            BottleneckBlock,
            int(golden["backbone_blocks_per_stage"]),
            in_channels=before,
            out_channels=after,
            bottleneck_channels=middle,
            stride_per_block=[1 if number == 0 else 2],
            norm="FrozenBN",
        )
        for number, (before, after, middle) in enumerate(
            zip(
                [stem, *channels[:-1]],
                channels,
                golden["backbone_stage_bottleneck_channels"].tolist(),
                strict=True,
            )
        )
    ]
    features = ["res3", "res4", "res5"]
    embed_dim, num_classes = int(golden["embed_dim"]), int(golden["num_classes"])
    model = AlignDETR(
        backbone=ResNet(
            BasicStem(3, stem, norm="FrozenBN"), stages, out_features=features, freeze_at=1
        ),
        position_embedding=PositionEmbeddingSine(embed_dim // 2),
        neck=ChannelMapper(
            features,
            channels[1:],
            embed_dim,
            int(golden["num_feature_levels"]),
            num_groups=int(golden["neck_gn_groups"]),
        ),
        transformer=build_transformer(golden),
        criterion=AlignDETRCriterion(
            num_classes, MixedMatcher(), golden["match_num"].tolist(), float(golden["tau"])
        ),
        embed_dim=embed_dim,
        num_classes=num_classes,
        num_queries=int(golden["num_queries"]),
        dn_number=int(golden["dn_number"]),
        label_noise_ratio=float(golden["label_noise_ratio"]),
        box_noise_scale=float(golden["box_noise_scale"]),
        select_box_nums_for_evaluation=int(golden["topk"]),
    )
    missing, unexpected = model.load_state_dict(state_dict(golden), strict=False)
    # The file names the heads once, by their place in the transformer.
    assert all(name.startswith(("class_embed.", "bbox_embed.")) for name in missing)
    assert not unexpected
    return model
