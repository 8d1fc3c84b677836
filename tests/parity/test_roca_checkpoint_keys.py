"""The configuration of the published weights has their parameters, name by name."""

from pathlib import Path

import numpy as np
import torch
from detectron2.config import instantiate

from roca_nocs.engine.config import load_config

CONFIG = Path(__file__).parents[2] / "configs/roca/roca_r50_fpn_scan2cad.py"


def test_names_and_shapes(golden_dir: Path) -> None:
    golden = np.load(golden_dir / "roca" / "checkpoint_keys.npz")
    built = golden["origin"] == "built"
    expected = {
        str(name): tuple(map(int, shape.split(","))) if shape else ()
        for name, shape in zip(golden["names"][built], golden["shapes"][built], strict=True)
    }
    with torch.device("meta"):
        model = instantiate(load_config(CONFIG).model)
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert found == expected
    assert found
