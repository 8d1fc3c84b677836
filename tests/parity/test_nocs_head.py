"""The NOCS head against that of the ganocs project, weights under their published names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.modeling.roi_heads.nocs_head import NocsHead

CONFIGURATIONS = {"cls": False, "reg": False, "cls_per_class": True}


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, np.ndarray]:
    with np.load(golden_dir / "nocs" / "nocs_head_ganocs.npz") as file:
        return dict(file)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_outputs(golden: dict[str, np.ndarray], name: str, train: bool) -> None:
    prefix = f"{name}/state/"
    state = {
        key.removeprefix(prefix): torch.from_numpy(value)
        for key, value in golden.items()
        if key.startswith(prefix)
    }
    features = torch.from_numpy(golden["x"])
    num_classes = int(golden[f"{name}/num_classes"])
    head = NocsHead(
        in_channels=features.shape[1],
        num_classes=num_classes,
        num_bins=int(golden[f"{name}/num_bins"]),
        conv_dims=golden["layers"].tolist(),
        head_per_class=CONFIGURATIONS[name],
    )
    head.load_state_dict(state, strict=True)
    kind = "train_out" if train else "out"
    expected = [torch.from_numpy(golden[f"{name}/{kind}_{axis}"]) for axis in "xyz"]
    expected = torch.stack(expected, dim=2)  # region, class, axis, bin, row, column
    if head.regresses:
        expected = expected[:, :, :, 0]
    for label in range(num_classes):
        head.load_state_dict(state)  # train mode moves the running statistics
        with torch.no_grad():
            outputs = head.train(train)(features, torch.full((len(features),), label))
        torch.testing.assert_close(outputs, expected[:, label], atol=1e-5, rtol=0)
    mixed = torch.arange(len(features)) % num_classes
    head.load_state_dict(state)
    with torch.no_grad():
        outputs = head.train(train)(features, mixed)
    torch.testing.assert_close(
        outputs, expected[torch.arange(len(mixed)), mixed], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("prefix", "options"),
    [
        ("full_cls_", {"in_channels": 256, "num_classes": 7, "num_bins": 32}),
        ("tiny_reg/", {"style": "tiny", "num_bins": 1}),
    ],
)
def test_names_and_shapes(golden: dict[str, np.ndarray], prefix: str, options: dict) -> None:
    expected = dict(
        zip(
            golden[f"{prefix}param_names"].tolist(),
            golden[f"{prefix}param_shapes"].tolist(),
            strict=True,
        )
    )
    if options.get("style") == "tiny":
        options = {
            "in_channels": golden["x"].shape[1],
            "num_classes": int(golden["reg/num_classes"]),
            **options,
        }
    state = NocsHead(**options).state_dict()
    assert {name: str(tuple(tensor.shape)) for name, tensor in state.items()} == expected
    if prefix == "full_cls_":
        parameters = dict(NocsHead(**options).named_parameters())
        assert sum(each.numel() for each in parameters.values()) == 8_043_936
