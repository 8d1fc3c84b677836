"""Random outputs and targets of a set-prediction detector."""

from __future__ import annotations

from typing import Any

import torch

NUM_CLASSES = 6

Targets = list[dict[str, torch.Tensor]]


def random_boxes(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """(*shape, 4) cxcywh inside the unit square."""
    low, high = torch.rand(2, *shape, 2, generator=generator).sort(dim=0).values
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def random_targets(counts: list[int], seed: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "labels": torch.randint(NUM_CLASSES, (count,), generator=generator),
            "boxes": random_boxes(count, generator=generator),
        }
        for count in counts
    ]


def random_layers(
    num_layers: int, batch: int, queries: int, generator: torch.Generator
) -> list[dict[str, torch.Tensor]]:
    return [
        {
            "pred_logits": 2 * torch.randn(batch, queries, NUM_CLASSES, generator=generator),
            "pred_boxes": random_boxes(batch, queries, generator=generator),
        }
        for _ in range(num_layers)
    ]


def random_outputs(
    batch: int, *, queries: int = 20, single_padding: int | None = None, seed: int = 1
) -> dict[str, Any]:
    """A two-stage detector with three decoder layers and two groups of denoising queries.

    Args:
        single_padding: denoising queries of a group, None for a batch without them.
    """
    generator = torch.Generator().manual_seed(seed)
    *aux, last, encoder = random_layers(4, batch, queries, generator)
    outputs = {**last, "aux_outputs": aux, "enc_outputs": encoder, "dn_outputs": None}
    if single_padding is not None:
        *aux, last = random_layers(3, batch, 2 * single_padding, generator)
        meta = {"single_padding": single_padding, "num_groups": 2}
        outputs["dn_outputs"] = {**last, "aux_outputs": aux, **meta}
    return outputs


def map_tensors(outputs: Any, function: Any) -> Any:
    """The same structure with the function applied to each tensor."""
    if isinstance(outputs, torch.Tensor):
        return function(outputs)
    if isinstance(outputs, dict):
        return {name: map_tensors(each, function) for name, each in outputs.items()}
    if isinstance(outputs, list):
        return [map_tensors(each, function) for each in outputs]
    return outputs


def leaves_of(outputs: Any) -> list[torch.Tensor]:
    """All tensors of the structure, now with gradients."""
    leaves: list[torch.Tensor] = []
    map_tensors(outputs, lambda each: leaves.append(each.requires_grad_()))
    return leaves
