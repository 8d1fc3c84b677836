"""The model of the published weights has their tensors and the published optimizer groups."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from roca_nocs.engine.config import load_config
from roca_nocs.modeling.meta_arch import AlignDETR

CONFIG = Path(__file__).parents[2] / "configs/aligndetr/r50_12ep.py"


@pytest.fixture(scope="module")
def model() -> AlignDETR:
    with torch.device("meta"):
        return instantiate(load_config(CONFIG).model)


def test_names_and_shapes(golden_dir: Path, model: AlignDETR) -> None:
    lines = (golden_dir / "aligndetr" / "checkpoint_keys.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    expected = {name: tuple(map(int, shape.split("x"))) for name, shape, _ in rows}
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected

    parameters = dict(model.named_parameters(remove_duplicate=False))
    kinds = {
        name: "buffer"
        if name not in parameters
        else "param"
        if parameters[name].requires_grad
        else "frozen_param"
        for name in expected
    }
    assert kinds == {name: kind for name, _, kind in rows}


def test_number_of_parameters(model: AlignDETR) -> None:
    assert sum(p.numel() for p in model.parameters()) == 47_650_316
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 47_640_908


def test_optimizer_groups(model: AlignDETR) -> None:
    """Tensors that have two names are in a group once."""
    config = load_config(CONFIG)
    config.optimizer.params.model = model
    groups = instantiate(config.optimizer).param_groups
    found = {
        (group["lr"], group["weight_decay"]): (
            len(group["params"]),
            sum(p.numel() for p in group["params"]),
        )
        for group in groups
    }
    assert len(groups) == 3
    assert {(round(lr, 12), decay): size for (lr, decay), size in found.items()} == {
        (1e-5, 1e-4): (52, 23_445_504),
        (1e-4, 1e-4): (241, 24_176_972),
        (1e-4, 0.0): (72, 18_432),
    }
