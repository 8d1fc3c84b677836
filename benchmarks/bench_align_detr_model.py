"""AlignDETR R50 with four levels on an image of 800x1333: compiled operator against grid_sample."""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest import mock

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Instances
from timing import compare
from torch import nn

from roca_nocs.layers import ms_deform_attn as operator

CONFIG = Path(__file__).parents[1] / "configs" / "aligndetr" / "r50_12ep.py"
HEIGHT, WIDTH = 800, 1333


def untrained_model() -> nn.Module:
    """The model with what is zero at the start drawn at random: points that follow the query."""
    torch.manual_seed(0)
    model = instantiate(LazyConfig.load(str(CONFIG)).model).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and not parameter.any():
            nn.init.normal_(parameter, std=0.05 if "attention_weights" in name else 0.01)
    return model


def check_equal(found: Instances, expected: Instances) -> None:
    """Raise AssertionError unless both hold the same detections up to rounding.

    Detections and proposals of almost equal scores may change places, and a proposal's place
    decides which learned vector it gets; so a few may differ.
    """
    distance = (found.pred_boxes.tensor[:, None] - expected.pred_boxes.tensor).abs().amax(dim=-1)
    scores = (found.scores[:, None] - expected.scores).abs()
    same = (distance < 0.1) & (scores < 1e-4)
    same &= found.pred_classes[:, None] == expected.pred_classes
    share = same.any(dim=0).float().mean().item()
    assert share > 0.98, f"only {share:.1%} of the detections are the same"
    print(f"{share:.1%} of {len(expected)} detections are the same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device = parser.parse_args().device
    model = untrained_model().to(device)
    image = torch.randint(256, (3, HEIGHT, WIDTH), dtype=torch.uint8)

    @torch.no_grad()
    def compiled() -> Instances:
        return model([{"image": image}])[0]["instances"]

    def plain() -> Instances:
        with mock.patch.object(operator, "ms_deform_attn", operator.ms_deform_attn_reference):
            return compiled()

    check_equal(compiled(), plain())
    compare(
        f"AlignDETR R50, {HEIGHT}x{WIDTH}, inference, vs ms_deform_attn_reference",
        plain,
        compiled,
        device=device,
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
