"""GeneralizedRCNN: preprocessing, wiring, post-processing, construction."""

from copy import deepcopy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    Backbone,
    GeneralizedRCNN,
    build_model,
)
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from torch import nn


class OneConv(Backbone):
    """One feature map ``p3`` of stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, stride=8)
        self._out_features = ["p3"]
        self._out_feature_channels = {"p3": 4}
        self._out_feature_strides = {"p3": 8}

    @property
    def size_divisibility(self) -> int:
        return 8

    def forward(self, images):
        return {"p3": self.conv(images)}


def one_conv(cfg, input_shape: ShapeSpec) -> OneConv:
    return OneConv()


@pytest.fixture(scope="module", autouse=True)
def registered_backbone():
    """The registry has no way to unregister; the name is unique to this file."""
    if "one_conv_for_meta_arch_tests" not in BACKBONE_REGISTRY:
        one_conv.__name__ = "one_conv_for_meta_arch_tests"
        BACKBONE_REGISTRY.register(one_conv)


def yacs_config(mask=True, proposals="RPN"):
    cfg = get_cfg()
    model = cfg.MODEL
    model.DEVICE = "cpu"
    model.BACKBONE.NAME = "one_conv_for_meta_arch_tests"
    model.PROPOSAL_GENERATOR.NAME = proposals
    model.ANCHOR_GENERATOR.SIZES = [[16, 32]]
    model.RPN.IN_FEATURES = ["p3"]
    model.RPN.POST_NMS_TOPK_TEST = 20
    model.ROI_HEADS.NAME = "StandardROIHeads"
    model.ROI_HEADS.IN_FEATURES = ["p3"]
    model.ROI_HEADS.NUM_CLASSES = 2
    model.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    model.ROI_BOX_HEAD.NUM_FC = 1
    model.ROI_BOX_HEAD.FC_DIM = 8
    model.ROI_BOX_HEAD.POOLER_RESOLUTION = 3
    model.ROI_MASK_HEAD.NUM_CONV = 1
    model.ROI_MASK_HEAD.CONV_DIM = 4
    model.ROI_MASK_HEAD.POOLER_RESOLUTION = 4
    model.MASK_ON = mask
    return cfg


def make_model(**kwargs) -> GeneralizedRCNN:
    torch.manual_seed(0)
    return build_model(yacs_config(**kwargs))


def make_inputs(targets=True) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    inputs = []
    for size in ((40, 64), (50, 33)):
        record = {"image": torch.rand(3, *size, generator=generator) * 255}
        if targets:
            masks = torch.zeros(1, *size, dtype=torch.bool)
            masks[:, 5:25, 5:25] = True
            record["instances"] = Instances(
                size,
                gt_boxes=Boxes([[5.0, 5, 25, 25]]),
                gt_classes=torch.tensor([1]),
                gt_masks=BitMasks(masks),
            )
        inputs.append(record)
    return inputs


def test_names_of_the_parts():
    model = make_model()
    assert [name for name, _ in model.named_children()] == [
        "backbone",
        "proposal_generator",
        "roi_heads",
    ]
    assert sorted(model.state_dict()) == [
        "backbone.conv.bias",
        "backbone.conv.weight",
        *(
            f"proposal_generator.rpn_head.{layer}.{kind}"
            for layer in ("anchor_deltas", "conv", "objectness_logits")
            for kind in ("bias", "weight")
        ),
        "roi_heads.box_head.fc1.bias",
        "roi_heads.box_head.fc1.weight",
        *(
            f"roi_heads.box_predictor.{layer}.{kind}"
            for layer in ("bbox_pred", "cls_score")
            for kind in ("bias", "weight")
        ),
        *(
            f"roi_heads.mask_head.{layer}.{kind}"
            for layer in ("deconv", "mask_fcn1", "predictor")
            for kind in ("bias", "weight")
        ),
    ]
    assert META_ARCH_REGISTRY.get("GeneralizedRCNN") is type(model)


def test_pixel_statistics_are_not_saved():
    model = make_model()
    assert model.pixel_mean.flatten().tolist() == pytest.approx([103.53, 116.28, 123.675])
    assert model.pixel_std.shape == (3, 1, 1)
    assert not any("pixel" in name for name in model.state_dict())
    assert model.device == torch.device("cpu")


def test_preprocessing():
    model = make_model()
    inputs = [{"image": torch.full((3, 10, 20), 110.0)}, {"image": torch.zeros(3, 17, 8)}]
    images = model.preprocess_image(inputs)
    assert images.tensor.shape == (2, 3, 24, 24)
    assert images.image_sizes == [(10, 20), (17, 8)]
    expected = 110.0 - model.pixel_mean.flatten()
    torch.testing.assert_close(images.tensor[0, :, 3, 4], expected)
    # Padding is zero after the normalisation.
    assert not images.tensor[0, :, 10:].any() and not images.tensor[1, :, :, 8:].any()


def test_integer_images():
    images = make_model().preprocess_image([{"image": torch.zeros(3, 8, 8, dtype=torch.uint8)}])
    assert images.tensor.dtype == torch.float32


def test_training():
    model = make_model()
    with EventStorage() as storage:
        losses = model(make_inputs())
    assert sorted(losses) == [
        "loss_box_reg",
        "loss_cls",
        "loss_mask",
        "loss_rpn_cls",
        "loss_rpn_loc",
    ]
    sum(losses.values()).backward()
    assert all(x.grad is not None for x in model.parameters())
    assert {"rpn/num_pos_anchors", "roi_head/num_fg_samples"} <= set(storage.latest())


def test_training_needs_an_event_storage():
    with pytest.raises(AssertionError, match="get_event_storage"):
        make_model()(make_inputs())


def test_training_needs_targets():
    with EventStorage(), pytest.raises(AssertionError, match="gt_instances"):
        make_model()(make_inputs(targets=False))


def test_inference_size():
    model = make_model().eval()
    inputs = make_inputs(targets=False)
    inputs[0].update(height=80, width=96)
    outputs = model(inputs)
    sizes = [x["instances"].image_size for x in outputs]
    assert sizes == [(80, 96), (50, 33)]
    for output, size in zip(outputs, sizes, strict=True):
        instances = output["instances"]
        assert len(instances) > 0
        assert instances.pred_masks.shape == (len(instances), *size)
        assert instances.pred_masks.dtype == torch.bool


def test_inference_without_postprocessing():
    model = make_model().eval()
    results = model.inference(make_inputs(targets=False), do_postprocess=False)
    assert [x.image_size for x in results] == [(40, 64), (50, 33)]
    assert results[0].pred_masks.shape[1:] == (1, 8, 8)


def test_given_detections():
    model = make_model().eval()
    given = [
        Instances(size, pred_boxes=Boxes([[2.0, 2, 20, 20]]), pred_classes=torch.tensor([0]))
        for size in ((40, 64), (50, 33))
    ]
    results = model.inference(make_inputs(targets=False), given, do_postprocess=False)
    assert [x.pred_masks.shape for x in results] == [(1, 1, 8, 8)] * 2
    assert results[0].pred_boxes.tensor.tolist() == [[2, 2, 20, 20]]


def test_inference_needs_eval_mode():
    with pytest.raises(AssertionError):
        make_model().inference(make_inputs(targets=False))


def test_precomputed_proposals():
    model = make_model(proposals="PrecomputedProposals", mask=False)
    assert model.proposal_generator is None
    inputs = make_inputs()
    with EventStorage(), pytest.raises(AssertionError):
        model(inputs)
    for record in inputs:
        record["proposals"] = Instances(
            record["instances"].image_size,
            proposal_boxes=Boxes([[4.0, 4, 24, 26]]),
            objectness_logits=torch.tensor([1.0]),
        )
    with EventStorage():
        assert sorted(model(inputs)) == ["loss_box_reg", "loss_cls"]
    assert len(model.eval()(inputs)) == 2


def test_explicit_arguments():
    model = make_model()
    other = GeneralizedRCNN(
        backbone=model.backbone,
        proposal_generator=model.proposal_generator,
        roi_heads=model.roi_heads,
        pixel_mean=[103.53, 116.28, 123.675],
        pixel_std=[1.0, 1.0, 1.0],
    ).eval()
    inputs = make_inputs(targets=False)
    expected = model.eval()(deepcopy(inputs))
    for x, y in zip(other(inputs), expected, strict=True):
        assert torch.equal(x["instances"].scores, y["instances"].scores)


@pytest.mark.standalone_only
def test_omegaconf_pixel_statistics():
    model = make_model()
    values = OmegaConf.create({"mean": [1.0, 2.0, 3.0], "std": [4, 5, 6]})
    other = GeneralizedRCNN(
        backbone=model.backbone,
        proposal_generator=None,
        roi_heads=model.roi_heads,
        pixel_mean=values.mean,
        pixel_std=values.std,
    )
    assert other.pixel_mean.flatten().tolist() == [1, 2, 3]
    assert other.pixel_std.dtype == torch.float32


@pytest.mark.parametrize(
    "arguments",
    [
        {"pixel_std": [1.0]},
        {"vis_period": 5},
    ],
)
def test_inconsistent_arguments(arguments):
    model = make_model()
    correct = {
        "backbone": model.backbone,
        "proposal_generator": None,
        "roi_heads": model.roi_heads,
        "pixel_mean": [1.0, 2.0, 3.0],
        "pixel_std": [1.0, 1.0, 1.0],
    }
    with pytest.raises(AssertionError):
        GeneralizedRCNN(**{**correct, **arguments})


def test_pictures():
    pytest.importorskip("detectron2.utils.visualizer")
    pytest.importorskip("matplotlib")
    model = make_model(mask=False)
    model.vis_period = 2
    for iteration, count in ((0, 1), (1, 0), (2, 1)):
        with EventStorage(iteration) as storage:
            model(make_inputs())
        pictures = storage._vis_data
        assert len(pictures) == count
        for name, image, _ in pictures:
            assert name.startswith("Left: GT bounding boxes")
            assert image.shape == (3, 40, 2 * 64)


def test_same_seed_same_model():
    first, second = make_model().state_dict(), make_model().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
