"""DETR for panoptic segmentation: its transformer against torch's, batches, segments."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import ImageList
from torch import nn

from roca_nocs.modeling.backbone.raster_resnet import build_raster_resnet
from roca_nocs.modeling.meta_arch.detr_panoptic import DetrPanoptic
from roca_nocs.modeling.transformer.detr_transformer import DetrTransformer


def build_model() -> DetrPanoptic:
    torch.manual_seed(0)
    return DetrPanoptic(
        backbone=build_raster_resnet(18, norm="BN", freeze_at=0),
        num_classes=5,
        num_things=3,
        num_queries=6,
        hidden_dim=128,
        nheads=8,
        enc_layers=1,
        dec_layers=2,
        dim_feedforward=64,
        score_threshold=0.15,
        mask_chunk=4,
    ).eval()


def torch_layer(layer: nn.Module, ours: nn.Module) -> nn.Module:
    """A layer of torch with the weights of ours."""
    layer.self_attn.load_state_dict(ours.attentions[0].attn.state_dict())
    if len(ours.attentions) == 2:
        layer.multihead_attn.load_state_dict(ours.attentions[1].attn.state_dict())
    layer.linear1.load_state_dict(ours.ffns[0].layers[0][0].state_dict())
    layer.linear2.load_state_dict(ours.ffns[0].layers[1].state_dict())
    for number, norm in enumerate(ours.norms, start=1):
        getattr(layer, f"norm{number}").load_state_dict(norm.state_dict())
    return layer.eval()


def test_transformer_without_positions_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = DetrTransformer(32, 4, 2, 2, 48).eval()
    for parameter in ours.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.0)  # norms and biases that do something
    tokens, none = torch.randn(2, 7, 32), torch.zeros(2, 7, 32)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = True
    with torch.no_grad():
        states, memory = ours(tokens, none, padding, torch.zeros(5, 32))
        expected = tokens
        for layer in ours.encoder.layers:
            reference = torch_layer(
                nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), layer
            ).train()
            reference.requires_grad_(False)
            for each in reference.modules():
                if isinstance(each, nn.Dropout | nn.MultiheadAttention):
                    each.eval()  # the fast path of torch zeroes padded tokens
            expected = reference(expected, src_key_padding_mask=padding)
        torch.testing.assert_close(memory, expected, atol=1e-5, rtol=1e-4)
        queries = torch.zeros(2, 5, 32)
        for layer in ours.decoder.layers:
            reference = torch_layer(nn.TransformerDecoderLayer(32, 4, 48, batch_first=True), layer)
            queries = reference(queries, expected, memory_key_padding_mask=padding)
        torch.testing.assert_close(states, ours.decoder.norm(queries), atol=1e-5, rtol=1e-4)


def test_positions_choose_what_is_attended_to() -> None:
    """They are part of queries and keys, not of values: equal tokens give equal results."""
    torch.manual_seed(0)
    ours = DetrTransformer(32, 4, 1, 1, 48).eval()
    padding = torch.zeros(1, 7, dtype=torch.bool)
    query_embed, positions = torch.randn(5, 32), torch.randn(1, 7, 32)
    with torch.no_grad():
        same = torch.randn(1, 1, 32).expand(-1, 7, -1)
        states, memory = ours(same, positions, padding, query_embed)
        torch.testing.assert_close(memory, memory[:, :1].expand_as(memory))
        torch.testing.assert_close(states, states[:, :1].expand_as(states), atol=1e-5, rtol=1e-4)
        states, memory = ours(torch.randn(1, 7, 32), positions, padding, query_embed)
        assert (states[:, 0] - states[:, 1]).abs().max() > 1e-3
        other, _ = ours(torch.randn(1, 7, 32), positions.flip(1), padding, query_embed)
        assert (states - other).abs().max() > 1e-3


def test_batch_of_different_sizes() -> None:
    model = build_model()
    # Every query names a class with certainty, so that segments do not hang on a threshold.
    nn.init.normal_(model.class_embed.weight, std=1.0)
    images = [torch.rand(3, 64, 96) * 255, torch.rand(3, 64, 64) * 255]
    inputs = [
        {"image": images[0], "height": 128, "width": 192},
        {"image": images[1]},
    ]
    with torch.no_grad():
        results = model(inputs)
    for result, size in zip(results, [(128, 192), (64, 64)], strict=True):
        ids, segments = result["panoptic_seg"]
        assert ids.shape == size and ids.dtype == torch.int32
        assert {each["id"] for each in segments} == set(ids.unique().tolist()) - {0}
        assert segments
        for each in segments:
            assert each["area"] == (ids == each["id"]).sum() >= 5
            assert each["isthing"] == (each["category_id"] < 3)
            assert each["category_id"] < 5


def test_masks_do_not_depend_on_chunks() -> None:
    model = build_model()
    batch = ImageList.from_tensors([torch.randn(3, 64, 96), torch.randn(3, 64, 64)])
    with torch.no_grad():
        logits, boxes, states, maps = model.predict(batch)
        rows, images = states.flatten(0, 1), torch.arange(2).repeat_interleave(6)
        found = model.masks(rows, images, *maps)
        model.mask_chunk = 100
        torch.testing.assert_close(found, model.masks(rows, images, *maps))
    assert found.shape == (12, 16, 24)
    assert logits.shape == (2, 6, 6)
    assert boxes.shape == (2, 6, 4)


def test_training_is_refused() -> None:
    with pytest.raises(RuntimeError, match="for inference"):
        build_model().train()([])
