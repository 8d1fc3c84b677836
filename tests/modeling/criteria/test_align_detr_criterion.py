"""The criterion at the edges: empty images, precision, options, host synchronisation."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modeling.criteria.detector_outputs import (
    NUM_CLASSES,
    leaves_of,
    map_tensors,
    random_outputs,
    random_targets,
)
from roca_nocs.modeling.criteria import AlignDETRCriterion, MixedMatcher

CLS_LOSSES = ["ia_bce", "align", "focal"]
SUFFIXES = ["", "_0", "_1", "_enc", "_dn", "_dn_0", "_dn_1"]
KEYS = {f"loss_{kind}{suffix}" for kind in ("class", "bbox", "giou") for suffix in SUFFIXES}


def make_criterion(**options: Any) -> AlignDETRCriterion:
    settings = {"match_num": [2, 2, 2, 1], "tau": 1.5} | options
    return AlignDETRCriterion(NUM_CLASSES, MixedMatcher(), **settings)


def select(outputs: dict[str, Any], images: list[int]) -> dict[str, Any]:
    return map_tensors(outputs, lambda each: each[images])


def check_gradients(losses: dict[str, torch.Tensor], leaves: list[torch.Tensor]) -> None:
    for name, loss in losses.items():
        assert loss.shape == () and loss.isfinite(), name
        assert loss.requires_grad, name
    sum(losses.values()).backward()
    for leaf in leaves:
        assert leaf.grad is not None and leaf.grad.isfinite().all()


@pytest.mark.parametrize("cls_loss", CLS_LOSSES)
@pytest.mark.parametrize("counts", [[3, 0, 5], [0, 1, 0], [12, 25, 3]])
def test_empty_and_crowded_images(counts: list[int], cls_loss: str) -> None:
    outputs = random_outputs(3, single_padding=2 * max(counts))
    leaves = leaves_of(outputs)
    losses = make_criterion(cls_loss=cls_loss)(outputs, random_targets(counts))
    assert set(losses) == KEYS
    check_gradients(losses, leaves)


@pytest.mark.parametrize("cls_loss", CLS_LOSSES)
def test_batch_without_targets(cls_loss: str) -> None:
    outputs = random_outputs(2)
    leaves = leaves_of(outputs)
    losses = make_criterion(cls_loss=cls_loss)(outputs, random_targets([0, 0]))
    assert set(losses) == KEYS
    for name, loss in losses.items():
        has_value = name.startswith("loss_class") and "dn" not in name
        assert (loss > 0) == has_value, name
    check_gradients(losses, leaves)


def test_images_do_not_depend_on_each_other() -> None:
    counts = [3, 0, 12, 1]
    outputs, targets = random_outputs(4), random_targets(counts)
    criterion = make_criterion()
    together = criterion(outputs, targets)
    alone = [criterion(select(outputs, [image]), [targets[image]]) for image in range(4)]
    for name, loss in together.items():
        # A loss is divided by the number of targets, at least 1.
        sums = sum(each[name] * max(count, 1) for each, count in zip(alone, counts, strict=True))
        torch.testing.assert_close(loss, sums / sum(counts))


def test_order_of_images_and_targets_does_not_matter() -> None:
    outputs, targets = random_outputs(3, single_padding=10), random_targets([3, 0, 5])
    expected = make_criterion()(outputs, targets)
    images = [2, 0, 1]
    moved = select(outputs, images)
    moved["dn_outputs"] = None
    shuffled = [{k: v.flip(0) for k, v in targets[image].items()} for image in images]
    for name, loss in make_criterion()(moved, shuffled).items():
        # Denoising queries are tied to the order of the targets.
        if "dn" not in name:
            torch.testing.assert_close(loss, expected[name])


@pytest.mark.parametrize("cls_loss", CLS_LOSSES)
def test_extreme_outputs(cls_loss: str) -> None:
    outputs = random_outputs(2, single_padding=10)
    outputs = map_tensors(outputs, lambda each: 1e4 * each if each.shape[-1] != 4 else each.round())
    leaves = leaves_of(outputs)
    targets = random_targets([3, 5])
    targets[0]["boxes"][0, 2:] = 0
    check_gradients(make_criterion(cls_loss=cls_loss)(outputs, targets), leaves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_single_precision(dtype: torch.dtype) -> None:
    half = map_tensors(random_outputs(2, single_padding=10), lambda each: each.to(dtype))
    single = map_tensors(half, lambda each: each.float())
    targets = random_targets([3, 5])
    leaves = leaves_of(half)
    with torch.autocast("cpu", dtype):
        losses = make_criterion()(half, targets)
    expected = make_criterion()(single, targets)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=0, atol=0)
    check_gradients(losses, leaves)


class SynchronisingCalls(TorchDispatchMode):
    """Records operators whose result or output size the host has to wait for."""

    NAMES = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        name = function.overloadpacket.__name__
        masks = [each for each in args[1] or [] if each is not None] if name == "index" else []
        by_mask = any(each.dtype == torch.bool for each in masks)
        if by_mask or any(name.startswith(each) for each in self.NAMES):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("cls_loss", CLS_LOSSES)
def test_one_copy_to_the_host(cls_loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []

    def record(name: str) -> None:
        original = getattr(torch.Tensor, name)

        def recorded(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            copies.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, recorded)

    outputs, targets = random_outputs(3, single_padding=10), random_targets([3, 0, 5])
    leaves_of(outputs)
    for name in ("cpu", "item", "tolist", "__int__", "__float__", "__bool__"):
        record(name)
    with SynchronisingCalls() as calls:
        sum(make_criterion(cls_loss=cls_loss)(outputs, targets).values()).backward()
    assert copies == ["cpu"]
    assert calls.found == []


def test_without_auxiliary_and_encoder_outputs() -> None:
    outputs = random_outputs(2, single_padding=10)
    expected = make_criterion()(outputs, targets := random_targets([3, 5]))
    del outputs["aux_outputs"], outputs["enc_outputs"], outputs["dn_outputs"]["aux_outputs"]
    losses = make_criterion()(outputs, targets)
    assert set(losses) == {key for key in KEYS if key.endswith(("class", "bbox", "giou", "dn"))}
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])
    outputs["dn_outputs"] = None
    assert set(make_criterion()(outputs, targets)) == set(losses)
    del outputs["dn_outputs"]
    assert set(make_criterion()(outputs, targets)) == {"loss_class", "loss_bbox", "loss_giou"}


def test_encoder_output_with_another_number_of_queries() -> None:
    outputs, targets = random_outputs(2), random_targets([3, 5])
    expected = make_criterion()(outputs, targets)
    encoder = outputs["enc_outputs"]
    # Queries that are surely background and far from all targets are matched by none.
    extra = {
        "pred_logits": torch.full((2, 9, NUM_CLASSES), -60.0),
        "pred_boxes": torch.ones(2, 9, 4),
    }
    outputs["enc_outputs"] = {k: torch.cat([encoder[k], extra[k]], dim=1) for k in encoder}
    for name, loss in make_criterion()(outputs, targets).items():
        torch.testing.assert_close(loss, expected[name])


def test_class_agnostic_encoder_leaves_the_targets_alone() -> None:
    outputs, targets = random_outputs(2, single_padding=10), random_targets([3, 5])
    labels = [target["labels"].clone() for target in targets]
    losses = make_criterion(two_stage_binary_cls=True)(outputs, targets)
    for target, before in zip(targets, labels, strict=True):
        assert torch.equal(target["labels"], before)
    zeros = [{**target, "labels": torch.zeros_like(target["labels"])} for target in targets]
    with_labels, without = (make_criterion()(outputs, each) for each in (targets, zeros))
    for name, loss in losses.items():
        expected = without if name.endswith("_enc") else with_labels
        torch.testing.assert_close(loss, expected[name])
    assert without["loss_class_enc"] != with_labels["loss_class_enc"]
    assert without["loss_class_dn"] != with_labels["loss_class_dn"]


def test_weights() -> None:
    outputs, targets = random_outputs(2, single_padding=10), random_targets([3, 5])
    weights = {"loss_class": 3.0, "loss_bbox": 0.5, "loss_giou": 7.0}
    single = {"loss_class_enc": 0.0, "loss_bbox_dn": 11.0, "loss_giou_0": 13.0}
    plain, weighted = (
        make_criterion(weight_dict=each)(outputs, targets)
        for each in (dict.fromkeys(weights, 1.0), weights | single)
    )
    for name, loss in weighted.items():
        kind = "_".join(name.split("_")[:2])
        torch.testing.assert_close(loss, plain[name] * single.get(name, weights[kind]))


def test_weights_without_a_loss(caplog: pytest.LogCaptureFixture) -> None:
    """Named once; published configs weigh the encoder's denoising, which no model has."""
    weights = {"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_giou_dn_enc": 2.0}
    outputs, targets = random_outputs(2, single_padding=10), random_targets([3, 5])
    caplog.set_level(logging.WARNING)
    make_criterion(weight_dict=weights)(outputs, targets)
    assert not caplog.records
    criterion = make_criterion(weight_dict=weights | {"loss_giuo": 1.0, "loss_bbox_7": 1.0})
    for _ in range(2):
        criterion(outputs, targets)
    (record,) = caplog.records
    assert "['loss_giuo', 'loss_bbox_7'] are no losses" in record.getMessage()


def test_outputs_as_detrex_has_them() -> None:
    outputs, targets = random_outputs(2, single_padding=10), random_targets([3, 5])
    expected = make_criterion()(outputs, targets)
    known = outputs.pop("dn_outputs")
    meta = {"single_padding": known.pop("single_padding"), "dn_num": known.pop("num_groups")}
    meta["output_known_lbs_bboxes"] = known
    losses = make_criterion()(outputs | {"dn_meta": meta}, targets)
    assert losses == expected
    for none in (None, {}, {"single_padding": 0, "dn_num": 0}):
        losses = make_criterion()(outputs | {"dn_meta": none}, targets)
        assert losses == make_criterion()(outputs | {"dn_outputs": None}, targets)
    assert "loss_class_dn" not in make_criterion()(outputs, targets)


def test_perfect_boxes_have_no_box_loss() -> None:
    targets = random_targets([4, 2])
    outputs = random_outputs(2, queries=4)
    for target, boxes in zip(targets, outputs["pred_boxes"], strict=True):
        boxes[: len(target["boxes"])] = target["boxes"]
    final = {name: outputs[name] for name in ("pred_logits", "pred_boxes")}
    criterion = make_criterion()
    criterion.matcher.cost_class = 0.0
    losses = criterion(final, targets)
    assert losses["loss_bbox"] == 0
    # The epsilon of the overlap leaves 1e-6 / area.
    assert 0 <= losses["loss_giou"] < 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match_num": [2, 2, 1]}, "match_num needs 4 numbers .* got"),
        ({"match_num": [0, 2, 2, 1]}, "match_num must hold positive numbers"),
        ({"match_num": [1]}, "match_num must hold positive numbers"),
        ({"tau": 0.0}, "tau must be positive, got 0.0"),
        ({"cls_loss": "bce"}, "cls_loss must be one of .* got 'bce'"),
        ({"weight_dict": {"loss_class": 1.0, "loss_bbox": 1.0}}, "weight_dict has no loss_giou"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_criterion(**options)(random_outputs(1), random_targets([1]))


def test_outputs_that_do_not_fit() -> None:
    outputs, targets = random_outputs(2, single_padding=10), random_targets([3, 5])
    criterion = AlignDETRCriterion(9, MixedMatcher(), match_num=[2, 2, 2, 1], tau=1.5)
    with pytest.raises(ValueError, match=r"'outputs' has 6 classes, the .* num_classes is 9"):
        criterion(outputs, targets)
    outputs["dn_outputs"]["num_groups"] = 3
    with pytest.raises(ValueError, match=r"'dn_outputs' has 20 queries in 3 groups of 10"):
        make_criterion()(outputs, targets)
    for number in (1, 3):
        with pytest.raises(ValueError, match=rf"{number} targets for a batch of 2 images"):
            make_criterion()(random_outputs(2), random_targets([2] * number))


@pytest.mark.parametrize(("single_padding", "most"), [(10, 5), (11, 5)])
def test_denoising_has_a_positive_slot_for_each_target(single_padding: int, most: int) -> None:
    """The second half of a group are negatives, which have no target."""
    outputs = random_outputs(1, single_padding=single_padding)
    make_criterion()(outputs, random_targets([most]))
    message = f"up to {most + 1} targets in an image.* the {most} positive slots"
    with pytest.raises(ValueError, match=message):
        make_criterion()(outputs, random_targets([most + 1]))


@pytest.mark.parametrize(
    ("name", "row", "value", "message"),
    [
        ("labels", 1, NUM_CLASSES, rf"label {NUM_CLASSES}, num_classes is {NUM_CLASSES}: labels"),
        ("labels", 1, -1, rf"label -1, num_classes is {NUM_CLASSES}: labels count from 0"),
        ("boxes", 0, [0.5, 0.5, -0.1, 0.2], r"its box \[0.5, 0.5, -0.1.*within \[0, 1\]"),
        ("boxes", 0, [0.9, 0.5, 0.4, 0.2], r"its box \[0.8.*within \[0, 1\]"),
        ("boxes", 0, [20.0, 30.0, 10.0, 10.0], r"its box \[20.0.*within \[0, 1\]"),
        ("boxes", 0, [float("nan")] * 4, r"its box \[nan, .*within \[0, 1\]"),
    ],
)
def test_impossible_targets(name: str, row: int, value: Any, message: str) -> None:
    outputs, targets = random_outputs(3), random_targets([3, 0, 2])
    targets[2][name][row] = torch.tensor(value)
    with pytest.raises(ValueError, match=f"image 2 of the batch has a target of .*{message}"):
        make_criterion()(outputs, targets)


def test_nan_names_the_output() -> None:
    outputs, targets = random_outputs(2), random_targets([3, 5])
    outputs["aux_outputs"][1]["pred_logits"][0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"'aux_outputs\[1\]' for image 0"):
        make_criterion()(outputs, targets)
