"""Rows of several images in tensors of a fixed size, and the choice of class and bin."""

import logging

import pytest
import torch

from modeling.mono3d.random_batches import BINS, CLASSES, random_images
from roca_nocs.modeling.mono3d.padding import (
    GT_FIELDS,
    pad_ground_truth,
    pad_proposals,
    pad_rows,
)
from roca_nocs.modeling.mono3d.selection import select_class_from_prediction


def test_rows_come_first_and_padding_is_filled() -> None:
    rows = [torch.ones(2, 3), torch.ones(0, 3), torch.arange(15.0).view(5, 3)]
    padded, valid = pad_rows(rows, 4, fill=-1)
    assert padded.shape == (3, 4, 3) and valid.shape == (3, 4, 1) and valid.dtype == torch.bool
    assert valid.squeeze(2).sum(dim=1).tolist() == [2, 0, 4]
    assert (padded[0, 2:] == -1).all() and (padded[1] == -1).all()
    assert torch.equal(padded[2], rows[2][:4])


def test_ground_truth() -> None:
    images = random_images([3, 0, 5], seed=0)
    gt = pad_ground_truth(images)
    assert gt["valid"].squeeze(2).sum(dim=1).tolist() == [3, 0, 5]
    for name, shape in GT_FIELDS.items():
        assert gt[name].shape == (3, 5, *shape) and gt[name].dtype == images[0][name].dtype
        for row, image in zip(gt[name], images, strict=True):
            assert torch.equal(row[: len(image[name])], image[name])
        assert (gt[name][1] == (-1 if name == "category" else 0)).all()


def test_batch_without_objects_has_a_padded_row() -> None:
    gt = pad_ground_truth(random_images([0, 0], seed=0))
    assert gt["bbox2d"].shape == (2, 1, 4) and not gt["valid"].any()


def test_largest_boxes_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    images = random_images([4, 6], seed=1)
    with caplog.at_level(logging.WARNING):
        gt = pad_ground_truth(images, 4)
    assert "image 1 of the batch has 6 objects; the 4 with the largest" in caplog.text
    assert "image 0" not in caplog.text
    box = images[1]["bbox2d"]
    areas = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    kept = areas.topk(4).indices.sort().values
    for name in GT_FIELDS:
        assert torch.equal(gt[name][1], images[1][name][kept])
    assert gt["valid"].all()


def test_bad_ground_truth() -> None:
    images = random_images([2, 2], seed=0)
    del images[1]["alpha"]
    with pytest.raises(KeyError, match="image 1 lacks 'alpha'"):
        pad_ground_truth(images)
    images = random_images([2, 2], seed=0)
    images[0]["bbox3d"] = images[0]["bbox3d"][:, :5]
    with pytest.raises(ValueError, match=r"'bbox3d' of image 0 has shape \(2, 5\)"):
        pad_ground_truth(images)


def test_best_proposals_are_kept_in_order() -> None:
    boxes = [torch.arange(20.0).view(5, 4), torch.ones(2, 4)]
    logits = [torch.tensor([0.0, 3, 1, 3, -1]), torch.tensor([-2.0, 5])]
    padded = pad_proposals(boxes, logits, 3)
    assert torch.equal(padded["rpn_bbox2d"][0], boxes[0][[1, 3, 2]])
    assert padded["rpn_object_logit"].squeeze(2).tolist() == [[3, 3, 1], [5, -2, 0]]
    assert padded["rpn_valid"].squeeze(2).tolist() == [[True] * 3, [True, True, False]]
    assert not padded["rpn_bbox2d"][1, 2].any()


def head_outputs(*shape: int) -> dict[str, torch.Tensor]:
    return {
        "bbox3d": torch.randn(*shape, CLASSES, 6),
        "yaw_logit": torch.randn(*shape, CLASSES, BINS),
        "yaw_resi": torch.randn(*shape, CLASSES, BINS),
        "pose6d": torch.randn(*shape, CLASSES, 6),
        "uncertainty": torch.randn(*shape, CLASSES),
        "category_logit": torch.randn(*shape, CLASSES + 1),
    }


@pytest.mark.parametrize("shape", [(2, 7), (7,), (0,)], ids=str)
def test_selection(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    outputs = head_outputs(*shape)
    category = torch.randint(-1, CLASSES + 1, shape)
    yaw_bin = torch.randint(BINS, shape)
    own = select_class_from_prediction(outputs, category, yaw_bin)
    predicted = select_class_from_prediction(outputs, category)
    sizes = {name: tuple(value.shape[len(shape) :]) for name, value in own.items()}
    assert sizes == {
        "bbox3d": (6,),
        "yaw_logit": (BINS,),
        "yaw_resi": (1,),
        "pose6d": (6,),
        "uncertainty": (1,),
        "category_logit": (CLASSES + 1,),
        "yaw_bin": (1,),
    }
    assert own["category_logit"] is outputs["category_logit"]
    for row in torch.cartesian_prod(*(torch.arange(n) for n in shape)).view(-1, len(shape)):
        at = tuple(row)
        which = int(category[at])
        if not 0 <= which < CLASSES:
            continue
        for name in ("bbox3d", "yaw_logit", "pose6d"):
            assert torch.equal(own[name][at], outputs[name][at][which])
        assert own["uncertainty"][at] == outputs["uncertainty"][at][which]
        assert own["yaw_resi"][at] == outputs["yaw_resi"][at][which, yaw_bin[at]]
        best = outputs["yaw_logit"][at][which].argmax()
        assert predicted["yaw_bin"][at] == best
        assert predicted["yaw_resi"][at] == outputs["yaw_resi"][at][which, best]


def test_selection_takes_what_there_is() -> None:
    outputs = head_outputs(3)
    own = select_class_from_prediction(
        {name: outputs[name] for name in ("bbox3d", "pose6d")}, torch.zeros(3, dtype=torch.int64)
    )
    assert set(own) == {"bbox3d", "pose6d"}
