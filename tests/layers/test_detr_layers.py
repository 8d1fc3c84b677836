"""Neck, position embeddings and transformer blocks by their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from roca_nocs.layers import transformer
from roca_nocs.layers.neck import ChannelMapper
from roca_nocs.layers.position import (
    PositionEmbeddingLearned,
    PositionEmbeddingSine,
    sine_box_embedding,
)
from roca_nocs.layers.transformer import CrossAttention, DetrMLP, FeedForward, SelfAttention


def test_levels_of_the_neck() -> None:
    """The first extra level comes from the last feature, the next from the level before."""
    torch.manual_seed(0)
    neck = ChannelMapper(["b", "c"], [6, 10], 8, num_outs=4, num_groups=2)
    assert [conv.conv.in_channels for conv in neck.extra_convs] == [10, 8]
    features = {
        "a": torch.randn(2, 3, 20, 26),
        "b": torch.randn(2, 6, 10, 13),
        "c": torch.randn(2, 10, 5, 7),
    }
    levels = neck(features)
    assert [level.shape[1:] for level in levels] == [(8, 10, 13), (8, 5, 7), (8, 3, 4), (8, 2, 2)]
    expected = neck.extra_convs[0](features["c"])
    torch.testing.assert_close(levels[2], expected)
    torch.testing.assert_close(levels[3], neck.extra_convs[1](expected))
    # No activation: normalised values have mean 0.
    for level in levels:
        assert level.unflatten(1, (2, 4)).mean(dim=(2, 3, 4)).abs().max() < 1e-5
    assert all((conv.conv.bias == 0).all() for conv in neck.convs)


def test_position_counts_valid_cells() -> None:
    mask = torch.tensor([[[False, False, True], [False, False, True], [True, True, True]]])
    embedding = PositionEmbeddingSine(2)(mask)
    y = torch.tensor([0.5, 1.5]) / (2 + 1e-6) * 2 * math.pi
    assert embedding.shape == (1, 4, 3, 3)
    torch.testing.assert_close(embedding[0, 0, :2, :2], y.sin()[:, None].expand(2, 2))
    torch.testing.assert_close(embedding[0, 1, :2, :2], y.cos()[:, None].expand(2, 2))
    torch.testing.assert_close(embedding[0, 2:, :2, :2], embedding[0, :2, :2, :2].mT)


def test_position_does_not_depend_on_padding() -> None:
    alone = PositionEmbeddingSine(8)(torch.zeros(1, 5, 4, dtype=torch.bool))
    mask = torch.ones(1, 9, 6, dtype=torch.bool)
    mask[:, :5, :4] = False
    torch.testing.assert_close(PositionEmbeddingSine(8)(mask)[:, :, :5, :4], alone)


def test_scale_of_positions() -> None:
    mask = torch.zeros(1, 1, 4, dtype=torch.bool)
    embedding = PositionEmbeddingSine(2, scale=3.0, eps=1.0)(mask)
    x = (torch.arange(4) + 0.5) / (4 + 1) * 3
    torch.testing.assert_close(embedding[0, 2, 0], x.sin())


def test_blocks_of_a_box_embedding() -> None:
    box = torch.tensor([0.1, 0.2, 0.3, 0.4])
    embedding = sine_box_embedding(box, 2).view(4, 2)
    angles = 2 * math.pi * box[[1, 0, 2, 3]]
    torch.testing.assert_close(embedding, torch.stack([angles.sin(), angles.cos()], dim=1))


@pytest.mark.parametrize("count", [0, 3, -2])
def test_odd_numbers_of_channels(count: int) -> None:
    with pytest.raises(ValueError, match=f"even number .* got {count}"):
        sine_box_embedding(torch.zeros(4), count)


def test_perceptrons(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6)
    mlp = DetrMLP(6, 7, 3, 3)
    assert {name.split(".")[1] for name in mlp.state_dict()} == {"0", "1", "2"}
    first, second, third = mlp.layers
    torch.testing.assert_close(mlp(x), third(second(first(x).relu()).relu()))
    ffn = FeedForward(6, 9)
    expected = x + ffn.layers[1](ffn.layers[0][0](x).relu())
    torch.testing.assert_close(ffn(x), expected)
    monkeypatch.setattr(transformer, "_PIECE", 4)
    with torch.no_grad():
        torch.testing.assert_close(ffn(x), expected)
        assert ffn(x[:, :0]).shape == (2, 0, 6)


def test_self_attention() -> None:
    """Positions choose what is attended to, and are no part of the result."""
    torch.manual_seed(0)
    attention = SelfAttention(8, 2)
    x, position = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    mask = torch.eye(5, dtype=torch.bool).logical_not()  # each sees itself only
    found = attention(x, query_pos=position, attn_mask=mask)
    weight = attention.attn.in_proj_weight[16:]
    expected = x + attention.attn.out_proj(x @ weight.T)
    torch.testing.assert_close(found, expected)
    nn.init.zeros_(attention.attn.in_proj_weight)
    torch.testing.assert_close(attention(x, query_pos=position), x)


@pytest.mark.parametrize("size", [(3, 5), (5, 5), (9, 12)])
def test_learned_positions(size: tuple[int, int]) -> None:
    """Columns before rows; maps larger than the tables read them stretched, end to end."""
    embedding = PositionEmbeddingLearned(4, table_size=5)
    assert {name: len(x) for name, x in embedding.state_dict().items()} == {
        "row_embed.weight": 5,
        "col_embed.weight": 5,
    }
    height, width = size
    found = embedding(torch.zeros(2, height, width, dtype=torch.bool))
    assert found.shape == (2, 8, height, width)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0, :4, 0], found[0, :4, -1])
    assert torch.equal(found[0, 4:, :, 0], found[0, 4:, :, -1])
    last = [min(length, 5) - 1 for length in size]
    torch.testing.assert_close(found[0, 4:, -1, 0], embedding.row_embed.weight[last[0]])
    torch.testing.assert_close(found[0, :4, 0, -1], embedding.col_embed.weight[last[1]])
    torch.testing.assert_close(found[0, :4, 0, 0], embedding.col_embed.weight[0])


def test_padded_tokens_are_not_seen() -> None:
    """An item of nothing but padding stays finite."""
    torch.manual_seed(0)
    attention = SelfAttention(8, 2)
    x, position = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    padding = torch.tensor([[False, False, False, True, True], [True] * 5])
    found = attention(x, query_pos=position, key_padding_mask=padding)
    alone = attention(x[:1, :3], query_pos=position[:1, :3])
    torch.testing.assert_close(found[:1, :3], alone)
    assert torch.isfinite(found).all()


def test_cross_attention() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(8, 2)
    x, tokens = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    query_pos, token_pos = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[:, 3:] = True
    found = attention(x, tokens, query_pos=query_pos, token_pos=token_pos, key_padding_mask=padding)
    keys = (tokens + token_pos)[:, :3]
    expected = x + attention.attn(x + query_pos, keys, tokens[:, :3])[0]
    torch.testing.assert_close(found, expected)
