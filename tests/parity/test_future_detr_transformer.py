"""Deformable transformer, with and without refinement, against the published code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from parity.future_detr_arrays import Arrays, load, numbered, parameters
from roca_nocs.engine.convert_detr import DETECTOR, rename_deformable_detr
from roca_nocs.layers.transformer import DetrMLP
from roca_nocs.modeling.transformer.deformable_transformer import DeformableTransformer
from roca_nocs.modeling.transformer.feature_levels import FeatureLevels, flatten_levels

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}


class Network(nn.Module):
    """A transformer and its box heads, which do not share anything in the files."""

    def __init__(self, golden: Arrays, refine: bool) -> None:
        super().__init__()
        width, layers = int(golden["d_model"]), int(golden["dec_layers"])
        self.transformer = DeformableTransformer(
            embed_dim=width,
            num_heads=int(golden["n_heads"]),
            enc_layers=int(golden["enc_layers"]),
            dec_layers=layers,
            feedforward_dim=int(golden["d_ffn"]),
            dropout=0.0,
            num_feature_levels=int(golden["n_levels"]),
            enc_points=int(golden["n_points"]),
            dec_points=int(golden["n_points"]),
        )
        self.bbox_embed = nn.ModuleList(DetrMLP(width, width, 4, 3) for _ in range(layers))
        state = rename_deformable_detr(parameters(golden))
        self.load_state_dict({k.removeprefix(DETECTOR): v for k, v in state.items()})
        if refine:
            self.transformer.decoder.attach_box_heads(self.bbox_embed)

    def encode(self, golden: Arrays) -> FeatureLevels:
        positions = self.transformer.level_positions(numbered(golden, "pos"))
        levels = flatten_levels(numbered(golden, "src"), numbered(golden, "mask"), positions)
        return levels._replace(tokens=self.transformer.encoder(levels))


@pytest.mark.parametrize("refine", [False, True], ids=["plain", "refine"])
def test_deformable_transformer(golden_dir: Path, refine: bool) -> None:
    kind = "refine" if refine else "plain"
    golden = load(golden_dir / "future_detr" / f"deformable_transformer_{kind}.npz")
    network = Network(golden, refine).eval()
    with torch.no_grad():
        levels = network.encode(golden)
        queries = network.transformer.learned_queries(golden["query_embed"], len(levels.tokens))
        hs, boxes = network.transformer.decoder(
            queries.query_embed, queries.reference, levels, network.bbox_embed
        )
    torch.testing.assert_close(levels.tokens, golden["out_memory"], **TOLERANCE)
    initial = queries.reference.sigmoid()
    torch.testing.assert_close(initial, golden["out_init_reference"], **TOLERANCE)
    torch.testing.assert_close(hs, golden["out_hs"], **TOLERANCE)
    torch.testing.assert_close(boxes, golden["out_boxes"], **TOLERANCE)
    # With refinement a layer refers to the boxes of the one before, without it to the first point.
    references = boxes if refine else initial.expand(len(boxes), -1, -1, -1)
    torch.testing.assert_close(references, golden["out_inter_references"], **TOLERANCE)
