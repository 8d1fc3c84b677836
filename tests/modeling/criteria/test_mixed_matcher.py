"""The matcher: independence of images, crowded and empty images, other costs, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from modeling.criteria.detector_outputs import Targets, random_layers, random_targets
from roca_nocs.modeling.criteria.matcher import Matches, MixedMatcher, Predictions

COUNTS = [3, 0, 12, 1, 5, 25]
QUERIES = 20


def predictions(batch: int, *ks: int, seed: int = 3) -> list[Predictions]:
    generator = torch.Generator().manual_seed(seed)
    layers = random_layers(len(ks), batch, QUERIES, generator)
    return [
        Predictions(f"layer {number}", layer["pred_logits"], layer["pred_boxes"], k)
        for number, (layer, k) in enumerate(zip(layers, ks, strict=True))
    ]


def of_image(outputs: list[Predictions], image: int | list[int]) -> list[Predictions]:
    images = [image] if isinstance(image, int) else image
    return [each._replace(logits=each.logits[images], boxes=each.boxes[images]) for each in outputs]


def pairs(matches: Matches, image: int) -> list[tuple[int, int, int]]:
    """(output, target, query) of the pairs of one image."""
    rows = matches.image == image
    columns = (column[rows].tolist() for column in (matches.output, matches.target, matches.query))
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("cost_class_type", ["focal_loss_cost", "ce_cost"])
def test_images_are_matched_alone_as_together(cost_class_type: str) -> None:
    matcher = MixedMatcher(cost_class_type=cost_class_type)
    outputs, targets = predictions(len(COUNTS), 2, 3, 1), random_targets(COUNTS)
    together = matcher(outputs, targets)
    for image in range(len(COUNTS)):
        alone = matcher(of_image(outputs, image), targets[image : image + 1])
        assert pairs(together, image) == pairs(alone, 0)


def test_order_of_images_and_targets() -> None:
    outputs, targets = predictions(len(COUNTS), 2, 1), random_targets(COUNTS)
    matches = MixedMatcher()(outputs, targets)
    images = [4, 2, 0, 5, 1, 3]
    orders = [torch.randperm(count) for count in COUNTS]
    shuffled: Targets = [{k: v[orders[i]] for k, v in targets[i].items()} for i in images]
    other = MixedMatcher()(of_image(outputs, images), shuffled)
    for new, old in enumerate(images):
        renamed = [(o, int(orders[old][t]), q) for o, t, q in pairs(other, new)]
        assert sorted(renamed) == pairs(matches, old)


def test_number_of_pairs_and_their_order() -> None:
    matches = MixedMatcher()(predictions(len(COUNTS), 1, 3), random_targets(COUNTS))
    for output, wanted_k in enumerate((1, 3)):
        for image, count in enumerate(COUNTS):
            rows = (matches.output == output) & (matches.image == image)
            # No query has two targets.
            assert len(set(matches.query[rows].tolist())) == rows.sum()
            if count > QUERIES:
                assert rows.sum() == QUERIES
                assert len(set(matches.target[rows].tolist())) == QUERIES
            elif count:
                k = max(1, min(wanted_k, QUERIES // (2 * count)))
                assert np.bincount(matches.target[rows]).tolist() == [k] * count
            else:
                assert rows.sum() == 0
    order = np.lexsort((matches.query, matches.target, matches.image, matches.output))
    assert order.tolist() == list(range(len(order)))


def test_batch_without_targets() -> None:
    matches = MixedMatcher()(predictions(2, 2, 1), random_targets([0, 0]))
    assert [column.shape for column in matches] == [(0,)] * 4


def test_outputs_with_other_numbers_of_queries() -> None:
    targets = random_targets([4, 2])
    (first,), (second,) = predictions(2, 1), predictions(2, 2, seed=4)
    second = second._replace(logits=second.logits[:, :7], boxes=second.boxes[:, :7])
    both = MixedMatcher()([first, second], targets)
    rows = both.output == 1
    alone = MixedMatcher()([second], targets)
    assert both.query[rows].tolist() == alone.query.tolist()
    assert both.target[rows].tolist() == alone.target.tolist()


def test_class_costs_alone() -> None:
    """Without the costs of boxes the likeliest query of the class wins."""
    (output,), targets = predictions(1, 1), random_targets([1])
    label = int(targets[0]["labels"][0])
    for kind, score in (("focal_loss_cost", "sigmoid"), ("ce_cost", "softmax")):
        matcher = MixedMatcher(cost_bbox=0, cost_giou=0, cost_class_type=kind)
        dense = output.logits[0].sigmoid() if score == "sigmoid" else output.logits[0].softmax(-1)
        assert matcher([output], targets).query.tolist() == [int(dense[:, label].argmax())]


def test_class_agnostic_output() -> None:
    (output,), targets = predictions(2, 1), random_targets([4, 3])
    zeros = [{**target, "labels": torch.zeros_like(target["labels"])} for target in targets]
    agnostic = MixedMatcher()([output._replace(class_agnostic=True)], targets)
    assert agnostic.query.tolist() == MixedMatcher()([output], zeros).query.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_matched_in_single_precision(dtype: torch.dtype) -> None:
    outputs, targets = predictions(2, 2, 1), random_targets([4, 3])
    half = [each._replace(logits=each.logits.to(dtype)) for each in outputs]
    single = [each._replace(logits=each.logits.float()) for each in half]
    with torch.autocast("cpu", dtype):
        matches = MixedMatcher()(half, targets)
    for ours, expected in zip(matches, MixedMatcher()(single, targets), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_extreme_logits_can_be_matched() -> None:
    outputs, targets = predictions(2, 2, 1), random_targets([4, 3])
    extreme = [each._replace(logits=1e4 * each.logits) for each in outputs]
    assert len(MixedMatcher()(extreme, targets).query) == 3 * 7


@pytest.mark.parametrize("broken", ["logits", "boxes"])
def test_nan_names_the_output(broken: str) -> None:
    outputs, targets = predictions(2, 2, 1), random_targets([4, 3])
    values = getattr(outputs[1], broken).clone()
    values[1] = float("nan")
    outputs[1] = outputs[1]._replace(**{broken: values})
    with pytest.raises(FloatingPointError, match=r"'layer 1' for image 1 of the batch are NaN"):
        MixedMatcher()(outputs, targets)
    with EventStorage(17), pytest.raises(FloatingPointError, match="at iteration 17 are NaN"):
        MixedMatcher()(outputs, targets)


def test_unknown_cost() -> None:
    with pytest.raises(ValueError, match=r"cost_class_type must be one of .* got 'l2'"):
        MixedMatcher(cost_class_type="l2")
