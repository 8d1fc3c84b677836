"""All losses of a training step, and their gradients, against the published implementation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.aligndetr_arrays import Arrays, cases, load, targets
from roca_nocs.modeling.criteria import AlignDETRCriterion, MixedMatcher


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Arrays:
    return load(golden_dir / "aligndetr" / "criterion.npz")


@pytest.fixture(scope="module")
def loss_names(golden_dir: Path) -> dict[str, list[str]]:
    with np.load(golden_dir / "aligndetr" / "criterion.npz") as arrays:
        return {k: arrays[k].tolist() for k in arrays.files if k.endswith("loss_names")}


def layers(leaves: Arrays, prefix: str) -> dict[str, Any]:
    """The outputs of the decoder: the last layer, and the ones before it."""
    logits, boxes = leaves[f"{prefix}pred_logits"], leaves[f"{prefix}pred_boxes"]
    each = [{"pred_logits": a, "pred_boxes": b} for a, b in zip(logits, boxes, strict=True)]
    return {**each[-1], "aux_outputs": each[:-1]}


def test_losses_and_gradients(golden: Arrays, loss_names: dict[str, list[str]]) -> None:
    for prefix, case in cases(golden):
        predicted = ("pred_logits", "pred_boxes")
        kinds = [kind for kind in ("", "enc_", "dn_") if f"{kind}pred_logits" in case]
        leaves = {f"{k}{p}": case[f"{k}{p}"].requires_grad_() for k in kinds for p in predicted}
        outputs = layers(leaves, "")
        outputs["enc_outputs"] = {name: leaves[f"enc_{name}"] for name in predicted}
        outputs["dn_outputs"] = None
        if "dn_" in kinds:
            outputs["dn_outputs"] = layers(leaves, "dn_")
            outputs["dn_outputs"]["single_padding"] = int(case["dn_single_padding"])
            outputs["dn_outputs"]["num_groups"] = int(case["dn_num_groups"])
        criterion = AlignDETRCriterion(
            num_classes=case["pred_logits"].shape[-1],
            matcher=MixedMatcher(),
            match_num=case["match_num"].tolist(),
            tau=float(case["tau"]),
        )
        losses = criterion(outputs, targets(case))
        weighted = case["loss_values_unweighted"] * case["loss_weights"]
        names = loss_names[f"{prefix}loss_names"]
        assert set(losses) == set(names)
        for name, value in zip(names, weighted.tolist(), strict=True):
            assert losses[name].item() == pytest.approx(value, rel=1e-5), prefix + name
        total = sum(losses.values())
        assert total.item() == pytest.approx(float(case["total_weighted"]), rel=1e-5)
        total.backward()
        for name, leaf in leaves.items():
            torch.testing.assert_close(leaf.grad, case[f"grad_{name}"], rtol=0, atol=2e-6)
