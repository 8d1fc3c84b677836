"""Properties of the NOCS losses: invariance, gradients, empty and degenerate input."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.geometry.symmetry import axis_rotations, class_rotations
from roca_nocs.layers.coordinate_bins import (
    decode_bins,
    decode_outputs,
    encode_bins,
    soft_argmax,
)
from roca_nocs.modeling.criteria.nocs_loss import (
    NocsLoss,
    euclidean_error,
    mean_loss,
    rotate_coordinates,
    symmetric_bin_loss,
    symmetric_distance_loss,
    symmetric_expectation_loss,
    symmetric_offset_loss,
)
from roca_nocs.modeling.criteria.step_schedule import StepSchedule

NAMES = ["round", "box", "prism"]
TABLE = class_rotations(
    NAMES,
    {"round": {"axis": "y", "order": "inf"}, "prism": {"axis": (1.0, 0.0, 1.0), "order": 3}},
)
BINS, SIDE = 8, 5
NAMED = ("logits", "coordinates", "mask", "classes", "labelled")
KINDS = ("bins", "offsets", "regression")


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
    """(3,), with offsets (4,)."""
    losses = NocsLoss(rotations=TABLE, **options)(*(example[name] for name in NAMED))
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


def with_offsets(data: dict[str, torch.Tensor], seed: int = 3) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    offsets = torch.randn(data["logits"].shape, generator=random)
    return {**data, "logits": torch.stack([data["logits"], offsets], dim=2)}


@pytest.mark.parametrize("rule", ["centre", "nocs"])
def test_perfect_places_cost_nothing(rule: str) -> None:
    data = example([0, 1, 2])
    rotations = TABLE[data["classes"]]
    truth = rotate_coordinates(data["coordinates"], data["mask"], rotations[:, [2]])[:, 0]
    bins = encode_bins(truth, BINS, rule)[:, :, None]
    logits = torch.zeros(3, 3, BINS, SIDE, SIDE).scatter(2, bins, 50.0)
    # Wrong places of the other bins do not count.
    offsets = torch.full_like(logits, 9.0)
    places = (truth[:, :, None] * BINS - bins).clamp(0, 1)
    outputs = torch.stack([logits, offsets.scatter(2, bins, places.logit())], dim=2)
    data["logits"] = outputs.requires_grad_()
    losses = NocsLoss(rotations=TABLE, bin_rule=rule)(*(data[name] for name in NAMED))
    assert list(losses) == ["loss_nocs_x", "loss_nocs_y", "loss_nocs_z", "loss_nocs_offset"]
    assert all(loss < 1e-6 for loss in losses.values())
    sum(losses.values()).backward()
    assert data["logits"].grad.isfinite().all()
    decoded = decode_outputs(outputs.detach(), rule)
    assert ((decoded - truth).abs() * data["mask"][:, None]).max() < 1e-6


@pytest.mark.parametrize("distance", ["smooth_l1", "l1", "l2"])
def test_only_the_place_in_the_right_bin_learns(distance: str) -> None:
    data = with_offsets(example([0, 1, 2, 0]))
    outputs = data["logits"].requires_grad_()
    arguments = (data["coordinates"], data["mask"], TABLE[data["classes"]])
    entropy, offset = symmetric_offset_loss(outputs, *arguments, distance=distance)
    # The bins, and the rotation that they choose, are those of the loss without places.
    logits = outputs[:, :, 0].detach().requires_grad_()
    expected = symmetric_bin_loss(logits, *arguments)
    assert torch.equal(entropy, expected)
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    right = gradient.argmin(dim=2, keepdim=True)

    (found,) = torch.autograd.grad(offset.sum(), outputs, retain_graph=True)
    assert not found[:, :, 0].any()
    assert not found[:, :, 1].scatter(2, right, 0.0).any()
    place = outputs.detach()[:, :, 1].gather(2, right).sigmoid()[:, :, 0]
    side = found[:, :, 1].gather(2, right)[:, :, 0].sign()
    # Of some turned ground truth, by 1 bin at most, on the side that the gradient says.
    difference = {"l1": offset, "l2": offset.sqrt()}.get(distance)
    if difference is None:
        difference = torch.where(offset < 0.05, (0.2 * offset).sqrt(), offset + 0.05)
    value = (right[:, :, 0] + place - side * difference) / BINS
    turns = [rotate_coordinates(*arguments[:2], arguments[2][:, [k]])[:, 0] for k in range(6)]
    errors = torch.stack([(turn - value).abs().flatten(1).amax(dim=1) for turn in turns], dim=1)
    assert errors.amin(dim=1).max() < 1e-5
    assert (errors.argmin(dim=1) > 0).any()
    (whole,) = torch.autograd.grad(entropy.sum(), outputs)
    assert not whole[:, :, 1].any()


def test_places_are_normalized_like_bins() -> None:
    data = with_offsets(example([0, 1, 2]))
    data["labelled"][1] = False
    for normalization in ("per_roi", "per_pixel"):
        loss = NocsLoss(rotations=TABLE, normalization=normalization, loss_weight=2.0)
        found = loss(*(data[name] for name in NAMED))["loss_nocs_offset"]
        _, values = loss.of_cells(*(data[name] for name in NAMED[:-1]))
        cells = [values[row][:, data["mask"][row]] for row in (0, 2)]
        if normalization == "per_roi":
            expected = sum(each.mean(dim=1).sum() for each in cells) / 2
        else:
            expected = torch.cat(cells, dim=1).mean(dim=1).sum()
        torch.testing.assert_close(found, 2 * expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("region", ["mask", "roi"])
@pytest.mark.parametrize("normalization", ["per_roi", "per_pixel"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["no regions", "no labels", "no cells"])
def test_nothing_to_learn(case: str, kind: str, normalization: str, region: str) -> None:
    data = example([] if case == "no regions" else [0, 1])
    if case == "no labels":
        data["labelled"][:] = False
        data["coordinates"][:] = 0
    if case == "no cells":
        data["mask"][:] = False
        region = "mask"  # otherwise the background is learned
    if kind == "offsets":
        data = with_offsets(data)
    pred = data["logits"][:, :, 0].sigmoid() if kind == "regression" else data["logits"]
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


@pytest.mark.parametrize("offsets", [False, True])
def test_autocast_computes_in_float32(offsets: bool) -> None:
    data = example([0, 1, 2])
    if offsets:
        data = with_offsets(data)
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


def test_distance_of_the_expectation() -> None:
    """To the turned ground truth of least cross-entropy; turning the annotation changes nothing."""
    given_values = example([0, 1, 2])
    loss = NocsLoss(rotations=TABLE, distance="l2", distance_weight=3.0)
    losses = loss(*(given_values[name] for name in NAMED))
    plain = NocsLoss(rotations=TABLE)(*(given_values[name] for name in NAMED))
    assert losses.keys() - plain.keys() == {"loss_nocs_distance"}
    assert all(torch.equal(losses[name], value) for name, value in plain.items())

    logits, coordinates, mask = (given_values[name] for name in NAMED[:3])
    rotations = loss.class_rotations(given_values["classes"])
    values = []
    for row in range(3):
        turned = rotate_coordinates(coordinates[[row]], mask[[row]], rotations[[row]])[0]
        costs = [
            symmetric_bin_loss(logits[[row]], each[None], mask[[row]], torch.eye(3)[None, None])
            for each in turned
        ]
        best = turned[min(range(len(costs)), key=lambda k: (costs[k] * mask[row]).sum().item())]
        squares = (soft_argmax(logits[[row]])[0] - best).square() * mask[row]
        values.append(squares.sum() / mask[row].sum())
    expected = 3 * torch.stack(values).mean()
    torch.testing.assert_close(losses["loss_nocs_distance"], expected, rtol=1e-4, atol=1e-6)

    right = 100 * torch.nn.functional.one_hot(encode_bins(coordinates, BINS), BINS).movedim(-1, 2)
    cells = symmetric_expectation_loss(right.float(), coordinates, mask, rotations, distance="l1")
    assert (cells * mask[:, None]).max() <= 0.5 / BINS + 1e-6


def test_weights_follow_their_schedules() -> None:
    values = [example([0, 1])[name] for name in NAMED]
    weights = {
        "loss_weight": StepSchedule([1.0, 0.5], [3]),
        "distance_weight": StepSchedule([2.0], []),
    }
    loss = NocsLoss(rotations=TABLE, **weights)
    with EventStorage(0) as storage:
        first = loss(*values)
        storage.iter = 3
        second = loss(*values)
    for name, value in first.items():
        factor = 1.0 if name == "loss_nocs_distance" else 0.5
        torch.testing.assert_close(second[name], factor * value)
