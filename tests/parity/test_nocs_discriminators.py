"""Discriminators and their objectives against the ganocs project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from roca_nocs.modeling.nocs_gan.discriminators import (
    ConvDiscriminator,
    DepthAwareDiscriminator,
    PerClassDiscriminators,
)
from roca_nocs.modeling.nocs_gan.objectives import (
    AdversarialBatch,
    BinaryCrossEntropy,
    Wasserstein,
)

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
Arrays = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Arrays:
    with np.load(golden_dir / "nocs" / "discriminators_ganocs.npz") as arrays:
        numeric = [name for name in arrays.files if arrays[name].dtype.kind in "if"]
        return {name: torch.from_numpy(arrays[name]) for name in numeric}


@pytest.fixture(scope="module")
def full_size(golden_dir: Path) -> dict[str, np.ndarray]:
    with np.load(golden_dir / "nocs" / "discriminators_ganocs.npz") as arrays:
        return {name: arrays[name] for name in arrays.files if name.startswith("full_")}


def below(golden: Arrays, prefix: str) -> Arrays:
    """The arrays of a part of the file, without its name."""
    return {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}


def convolutional(state: Arrays) -> ConvDiscriminator:
    features, channels = state["model.0.weight"].shape[:2]
    outputs = len(state["model.13.bias"])
    model = ConvDiscriminator(features=features, num_outputs=outputs, with_depth=channels == 4)
    model.load_state_dict(state)
    return model


def depth_aware(state: Arrays) -> DepthAwareDiscriminator:
    features = len(state["_contextual_layers.0.layer.0.weight"])
    context = len(state["_depth_encoder.layers.5.bias"])
    model = DepthAwareDiscriminator(features=features, context_size=context)
    model.load_state_dict(state)
    return model


def batch_of(golden: Arrays) -> AdversarialBatch:
    labelled = torch.ones(len(golden["x"]), dtype=torch.bool)
    return AdversarialBatch(golden["x"], golden["real"], labelled, golden["classes"], None)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_single_discriminator(golden: Arrays, mode: str) -> None:
    model = convolutional(below(golden, "vanilla/state/")).train(mode == "train")
    scores = model(golden["x"], golden["classes"])
    expected = golden[f"vanilla_nosigmoid/out_{mode}"].flatten()
    torch.testing.assert_close(scores, expected, **TOLERANCE)
    expected = golden[f"vanilla/out_{mode}"].flatten()
    torch.testing.assert_close(scores.sigmoid(), expected, **TOLERANCE)


def test_output_of_the_class(golden: Arrays) -> None:
    """Published class ids begin at 1 and output 0 is never used: they are indices as they are."""
    model = convolutional(below(golden, "multiclass/state/"))
    assert model.class_specific
    scores = model(golden["x"], golden["classes"])
    torch.testing.assert_close(scores.sigmoid(), golden["multiclass/selected_train"], **TOLERANCE)
    loss = BinaryCrossEntropy().generator_loss(scores)
    torch.testing.assert_close(loss, golden["multiclass/critique_train"], **TOLERANCE)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_outputs_of_all_classes(golden: Arrays, mode: str) -> None:
    model = convolutional(below(golden, "multiclass/state/")).train(mode == "train")
    scores = model.model(golden["x"]).sigmoid()
    torch.testing.assert_close(scores, golden[f"multiclass_all_logits/out_{mode}"], **TOLERANCE)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_depth_aware_discriminator(golden: Arrays, mode: str) -> None:
    model = depth_aware(below(golden, "depth_aware/state/")).train(mode == "train")
    if mode == "eval":
        context = model._depth_encoder(golden["depth_ctx"])
        torch.testing.assert_close(context, golden["depth_aware/context_eval"], **TOLERANCE)
    scores = model(golden["x"], golden["classes"], golden["depth_ctx"])
    expected = golden[f"depth_aware/out_{mode}"].flatten()
    torch.testing.assert_close(scores.sigmoid(), expected, **TOLERANCE)


def test_update_by_cross_entropy(golden: Arrays) -> None:
    """The generator's loss, then a step on real and one on predicted maps."""
    model = convolutional(below(golden, "vanilla/state/"))
    objective, batch = BinaryCrossEntropy(), batch_of(golden)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.5, 0.999))
    with torch.no_grad():
        critique = objective.generator_loss(model(batch.fake, batch.classes))
    torch.testing.assert_close(critique, golden["bce/critique_before"], **TOLERANCE)

    logged: Arrays = {}
    for losses, accuracies in objective.updates(model, batch):
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        logged |= {k: v.detach() for k, v in (losses | accuracies).items()}
    for ours, theirs in (
        ("loss_real", "bce/logged_real_loss"),
        ("loss_fake", "bce/logged_fake_loss"),
        ("real_accuracy", "bce/logged_real_acc"),
        ("fake_accuracy", "bce/logged_fake_acc"),
    ):
        torch.testing.assert_close(logged[ours].double(), golden[theirs], **TOLERANCE)
    mean = (logged["loss_real"] + logged["loss_fake"]) / 2
    torch.testing.assert_close(mean, golden["bce/update_loss"], **TOLERANCE)
    expected = below(golden, "bce/state_after_one_update/")
    assert expected.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-4)


def test_wasserstein_with_a_network_for_each_class(golden: Arrays) -> None:
    count = int(golden["classes"].max())
    states = [below(golden, f"wass/state_class{k + 1}/") for k in range(count)]
    model = PerClassDiscriminators([convolutional(state) for state in states]).eval()
    objective = Wasserstein(gradient_penalty=0)
    classes = golden["classes"] - 1
    loss = objective.generator_loss(model(golden["x"], classes))
    torch.testing.assert_close(loss, golden["wass/critique_eval"], **TOLERANCE)

    batch = batch_of(golden)
    batch = AdversarialBatch(batch.fake, batch.real, batch.labelled, classes, None)
    ((losses, _),) = objective.updates(model, batch)
    expected = golden["wass/update_loss_eval_sign_real_minus_fake"]
    torch.testing.assert_close(sum(losses.values()), expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "build"),
    [("vanilla", ConvDiscriminator), ("depth_aware", DepthAwareDiscriminator)],
)
def test_full_size(
    full_size: dict[str, np.ndarray], name: str, build: Callable[[], nn.Module]
) -> None:
    names, shapes = (full_size[f"full_{name}_param_{k}"].tolist() for k in ("names", "shapes"))
    model = build()
    found = {key: str(tuple(tensor.shape)) for key, tensor in model.state_dict().items()}
    assert found == dict(zip(names, shapes, strict=True))
    count = sum(p.numel() for p in model.parameters())
    assert count == int(full_size[f"full_{name}_num_params"])
