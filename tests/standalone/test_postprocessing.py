"""Detections at the output resolution."""

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import Boxes, Instances


def detections(**fields) -> Instances:
    boxes = torch.tensor([[0.0, 0, 10, 20], [5, 5, 15, 15]])
    return Instances((20, 40), pred_boxes=Boxes(boxes), scores=torch.tensor([0.9, 0.8]), **fields)


def test_boxes_are_scaled_and_clipped():
    results = detections()
    results.pred_boxes.tensor[0] = torch.tensor([-4.0, 2, 50, 10])
    output = detector_postprocess(results, 40, 20)
    assert output.image_size == (40, 20)
    assert output.pred_boxes.tensor.tolist() == [[0, 4, 20, 20], [2.5, 10, 7.5, 30]]
    assert output.scores.tolist() == results.scores.tolist()


def test_empty_boxes_vanish_with_all_their_fields():
    results = detections(gt_pose=torch.tensor([1, 2]))
    results.pred_boxes.tensor[0] = torch.tensor([50.0, 2, 60, 10])
    output = detector_postprocess(results, 20, 40)
    assert output.gt_pose.tolist() == [2]
    torch.testing.assert_close(output.scores, torch.tensor([0.8]))


def test_proposals():
    results = Instances((20, 40), proposal_boxes=Boxes([[0.0, 0, 10, 20]]))
    output = detector_postprocess(results, 10, 80)
    assert output.proposal_boxes.tensor.tolist() == [[0, 0, 20, 10]]


def test_boxes_are_needed():
    with pytest.raises(AssertionError, match="Predictions must contain boxes"):
        detector_postprocess(Instances((20, 40), scores=torch.ones(1)), 10, 10)


def test_input_boxes_change_in_place():
    """Documented: copy first if both are needed."""
    results = detections()
    detector_postprocess(results, 40, 80)
    assert results.pred_boxes.tensor[1].tolist() == [10, 10, 30, 30]


def test_masks_are_pasted():
    masks = torch.zeros(2, 1, 2, 2)
    masks[0, 0, :, 0] = 1.0
    masks[1] = 0.6
    output = detector_postprocess(detections(pred_masks=masks), 20, 40)
    assert output.pred_masks.dtype == torch.bool
    assert output.pred_masks.shape == (2, 20, 40)
    # The first box covers columns 0 to 9; its left half is set.
    assert output.pred_masks[0].any(dim=0).nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    inner = output.pred_masks[1].nonzero()
    assert inner.min() >= 5 and inner.max() <= 14
    strict = detector_postprocess(detections(pred_masks=masks), 20, 40, mask_threshold=0.7)
    assert not strict.pred_masks[1].any()


def test_no_detections():
    empty = detections(pred_masks=torch.zeros(2, 1, 2, 2))[:0]
    output = detector_postprocess(empty, 10, 10)
    assert len(output) == 0
    assert output.pred_masks.shape == (0, 10, 10)


@pytest.mark.standalone_only
def test_masks_of_no_detections_are_boolean():
    empty = detections(pred_masks=torch.zeros(2, 1, 2, 2))[:0]
    assert detector_postprocess(empty, 10, 10).pred_masks.dtype == torch.bool


def test_semantic_segmentation():
    result = torch.zeros(2, 8, 8)
    result[1, :4, :6] = 1.0
    output = sem_seg_postprocess(result, (4, 6), 8, 12)
    assert output.shape == (2, 8, 12)
    assert output[1].unique().tolist() == [1.0]
    assert output[0].unique().tolist() == [0.0]
