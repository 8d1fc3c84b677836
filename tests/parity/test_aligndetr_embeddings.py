"""Sine embeddings of positions and boxes against those of the published code."""

from pathlib import Path

import numpy as np
import torch

from roca_nocs.layers.position import PositionEmbeddingSine, sine_box_embedding


def test_position_embedding(golden_dir: Path) -> None:
    golden = np.load(golden_dir / "aligndetr" / "embeddings_and_boxes.npz")
    for case in range(int(golden["num_sine_cases"])):
        prefix = f"sine{case}_"
        normalize, offset = bool(golden[prefix + "normalize"]), float(golden[prefix + "offset"])
        embedding = PositionEmbeddingSine(
            int(golden[prefix + "num_pos_feats"]),
            float(golden[prefix + "temperature"]),
            normalize,
            offset,
        )
        mask = torch.from_numpy(golden[prefix + "mask"])
        found = embedding(mask)
        expected = torch.from_numpy(golden[prefix + "output"])
        assert found.shape == expected.shape
        if normalize and offset:  # padded cells are ill-conditioned
            valid = (~mask)[:, None].expand_as(found)
            found, expected = found[valid], expected[valid]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_box_embedding(golden_dir: Path) -> None:
    golden = np.load(golden_dir / "aligndetr" / "embeddings_and_boxes.npz")
    for case in range(int(golden["num_box_cases"])):
        prefix = f"box{case}_"
        found = sine_box_embedding(
            torch.from_numpy(golden[prefix + "input"]),
            int(golden[prefix + "num_pos_feats"]),
            temperature=float(golden[prefix + "temperature"]),
            exchange_xy=bool(golden[prefix + "exchange_xy"]),
        )
        expected = torch.from_numpy(golden[prefix + "output"])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
