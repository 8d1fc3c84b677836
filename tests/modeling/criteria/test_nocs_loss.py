"""Properties of the NOCS losses: invariance, gradients, empty and degenerate input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.geometry.symmetry import axis_rotations, class_rotations
from roca_nocs.layers.coordinate_bins import decode_bins, encode_bins
from roca_nocs.modeling.criteria.nocs_loss import (
    NocsLoss,
    euclidean_error,
    mean_loss,
    rotate_coordinates,
    symmetric_bin_loss,
    symmetric_distance_loss,
)

NAMES = ["round", "box", "prism"]
TABLE = class_rotations(
    NAMES,
    {"round": {"axis": "y", "order": "inf"}, "prism": {"axis": (1.0, 0.0, 1.0), "order": 3}},
)
BINS, SIDE = 8, 5


def example(classes: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    count = len(classes)
    directions = torch.randn(count, 3, SIDE, SIDE, generator=random, dtype=torch.float64)
    radii = 0.5 * torch.rand(count, 1, SIDE, SIDE, generator=random, dtype=torch.float64)
    mask = torch.rand(count, SIDE, SIDE, generator=random) < 0.7
    coordinates = 0.5 + radii * directions / directions.norm(dim=1, keepdim=True)
    return {
        "logits": torch.randn(count, 3, BINS, SIDE, SIDE, generator=random),
        "coordinates": (coordinates * mask[:, None]).float(),
        "mask": mask,
        "classes": torch.tensor(classes, dtype=torch.int64),
        "labelled": torch.ones(count, dtype=torch.bool),
    }


def by_axis(example: dict[str, torch.Tensor], **options: object) -> torch.Tensor:
    """(3,)."""
    names = ("logits", "coordinates", "mask", "classes", "labelled")
    losses = NocsLoss(rotations=TABLE, **options)(*(example[name] for name in names))
    return torch.stack([*losses.values()])


def total(example: dict[str, torch.Tensor], **options: object) -> torch.Tensor:
    return by_axis(example, **options).sum()


@settings(max_examples=10)
@given(turn=st.integers(1, 5), seed=st.integers(0, 100), bins=st.booleans())
def test_turning_a_symmetric_object_changes_nothing(turn: int, seed: int, bins: bool) -> None:
    data = example([0, 0], seed)
    if not bins:
        data["logits"] = data["logits"].softmax(dim=2)[:, :, 0]
    turned = dict(data)
    angle = axis_rotations("y", 6)[turn].float().expand(2, 1, 3, 3)
    turned["coordinates"] = rotate_coordinates(data["coordinates"], data["mask"], angle)[:, 0]
    torch.testing.assert_close(total(turned), total(data), rtol=1e-4, atol=1e-5)
    for each in (data, turned):
        each["classes"] = torch.tensor([1, 1])
    assert (by_axis(turned) - by_axis(data)).abs().max() > 1e-4


@pytest.mark.parametrize("bins", [True, False])
def test_the_loss_is_the_smallest_over_the_group(bins: bool) -> None:
    data = example([0, 1, 2, 0])
    rotations = TABLE[data["classes"]]
    pred = data["logits"] if bins else data["logits"].sigmoid()[:, :, 0]
    function = symmetric_bin_loss if bins else symmetric_distance_loss
    mask = data["mask"][:, None]

    def sums(table: torch.Tensor) -> torch.Tensor:
        values = function(pred, data["coordinates"], data["mask"], table)
        return (values * mask).sum(dim=(1, 2, 3))

    each = torch.stack([sums(rotations[:, [k]]) for k in range(6)], dim=1)
    torch.testing.assert_close(sums(rotations), each.amin(dim=1))
    assert (each.argmin(dim=1) > 0).any()


def test_gradient_of_the_bins_is_that_of_the_cross_entropy() -> None:
    data = example([0, 1, 2])
    logits = data["logits"].requires_grad_()
    rotations = TABLE[data["classes"]]
    loss = symmetric_bin_loss(logits, data["coordinates"], data["mask"], rotations)
    weights = torch.rand(loss.shape, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad((loss * weights).sum(), logits)
    # The chosen bins are where the gradient is negative.
    chosen = found.argmin(dim=2)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), chosen.flatten(0, 1), reduction="none"
    ).unflatten(0, (3, 3))
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), logits)
    torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize("region", ["mask", "roi"])
@pytest.mark.parametrize("normalization", ["per_roi", "per_pixel"])
@pytest.mark.parametrize("bins", [True, False])
@pytest.mark.parametrize("case", ["no regions", "no labels", "no cells"])
def test_nothing_to_learn(case: str, bins: bool, normalization: str, region: str) -> None:
    data = example([] if case == "no regions" else [0, 1])
    if case == "no labels":
        data["labelled"][:] = False
        data["coordinates"][:] = 0
    if case == "no cells":
        data["mask"][:] = False
        region = "mask"  # otherwise the background is learned
    pred = data["logits"] if bins else data["logits"][:, :, 0].sigmoid()
    data["logits"] = pred.requires_grad_()
    loss = total(data, normalization=normalization, region=region)
    assert loss == 0
    loss.backward()
    assert data["logits"].grad.isfinite().all() and not data["logits"].grad.any()


def test_unlabelled_regions_do_not_count() -> None:
    data = example([0, 1, 2])
    data["labelled"][1] = False
    data["coordinates"][1] = 0.9
    loss = total(data)
    kept = {name: value[[0, 2]] for name, value in data.items()}
    torch.testing.assert_close(loss, total(kept))
    logits = data["logits"].requires_grad_()
    total(data).backward()
    assert not logits.grad[1].any() and logits.grad[0].any() and logits.grad.isfinite().all()


def test_normalizations() -> None:
    values = torch.ones(2, 3, 2, 2)
    values[1] = 3
    mask = torch.tensor([[[True, False], [False, False]], [[True, True], [True, False]]])
    labelled = torch.ones(2, dtype=torch.bool)
    per_roi = mean_loss(values, mask, labelled, "per_roi")
    torch.testing.assert_close(per_roi, torch.full((3,), 2.0), rtol=1e-4, atol=0)
    per_pixel = mean_loss(values, mask, labelled, "per_pixel")
    torch.testing.assert_close(per_pixel, torch.full((3,), 2.5))


def test_autocast_computes_in_float32() -> None:
    data = example([0, 1, 2])
    expected = total(data)
    data["logits"] = data["logits"].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = total(data)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_perfect_predictions() -> None:
    data = example([0, 1, 2])
    rotations = TABLE[data["classes"]]
    errors = euclidean_error(data["coordinates"], data["coordinates"], data["mask"], rotations)
    assert errors.max() < 1e-6
    bins = encode_bins(data["coordinates"], 256)
    near = euclidean_error(decode_bins(bins, 256), data["coordinates"], data["mask"], rotations)
    assert near.max() < math.sqrt(3) / 512


@pytest.mark.parametrize("option", ["distance", "normalization", "region", "bin_rule"])
def test_unknown_options(option: str) -> None:
    with pytest.raises(ValueError, match=rf"{option} is 'other'; expected one of"):
        NocsLoss(**{option: "other"})
