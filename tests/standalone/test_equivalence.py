"""A tiny Mask R-CNN must give the same numbers on every implementation of detectron2.

The golden numbers come from detectron2 0.6. Weights and images are formulas, so that only results
are stored; training takes all anchors and proposals, so that no random number matters.
"""

import zlib

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

NUM_CLASSES = 3
FEATURES = ("p2", "p3", "p4", "p5")
WIDTH = 8
# Takes every anchor and proposal there is.
ALL = 10**6
CLASS_BIAS = (0.9, 3.5, -2.5, -3.5)
IMAGE_SIZES = ((64, 96), (80, 72))
OUTPUT_SIZES = ((96, 144), (80, 72))


def scatter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in (-1, 1) that depend on the name and the index only."""
    index = np.arange(int(np.prod(shape)), dtype=np.float64)
    phase = zlib.crc32(name.encode()) % 1000
    value = np.sin(index * 12.9898 + phase * 78.233) * 43758.5453
    return (2 * (value - np.floor(value)) - 1).reshape(shape)


def build_backbone() -> FPN:
    widths = (WIDTH, 2 * WIDTH, 3 * WIDTH, 4 * WIDTH)
    stages, channels = [], WIDTH
    for width, stride in zip(widths, (1, 2, 2, 2), strict=True):
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                1,
                stride_per_block=[stride],
                in_channels=channels,
                out_channels=width,
                norm="FrozenBN",
            )
        )
        channels = width
    return FPN(
        ResNet(
            BasicStem(3, WIDTH, norm="FrozenBN"),
            stages,
            out_features=("res2", "res3", "res4", "res5"),
        ),
        ("res2", "res3", "res4", "res5"),
        2 * WIDTH,
        top_block=LastLevelMaxPool(),
    )


def build_rpn() -> RPN:
    return RPN(
        in_features=(*FEATURES, "p6"),
        head=StandardRPNHead(in_channels=2 * WIDTH, num_anchors=3),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[8], [16], [32], [64], [96]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=ALL,
        positive_fraction=1.0,
        pre_nms_topk=(100, 50),
        post_nms_topk=(60, 30),
        loss_weight=1000.0,
    )


def build_roi_heads() -> StandardROIHeads:
    scales = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
    return StandardROIHeads(
        num_classes=NUM_CLASSES,
        batch_size_per_image=ALL,
        positive_fraction=1.0,
        proposal_matcher=Matcher([0.5], [0, 1]),
        box_in_features=FEATURES,
        box_pooler=ROIPooler(5, scales, 0, "ROIAlignV2"),
        box_head=FastRCNNConvFCHead(
            ShapeSpec(channels=2 * WIDTH, height=5, width=5), conv_dims=[WIDTH], fc_dims=[32]
        ),
        box_predictor=FastRCNNOutputLayers(
            ShapeSpec(channels=32),
            box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
            num_classes=NUM_CLASSES,
            test_score_thresh=0.05,
            test_topk_per_image=20,
        ),
        mask_in_features=FEATURES,
        mask_pooler=ROIPooler(6, scales, 0, "ROIAlignV2"),
        mask_head=MaskRCNNConvUpsampleHead(
            ShapeSpec(channels=2 * WIDTH, height=6, width=6),
            num_classes=NUM_CLASSES,
            conv_dims=[WIDTH, WIDTH],
        ),
    )


def set_weights(model: torch.nn.Module) -> None:
    """Fill the state dict by formula; scales keep activations of order one."""
    state = {}
    for name, old in model.state_dict().items():
        values = scatter(name, tuple(old.shape))
        if old.ndim > 1:
            values = values * np.sqrt(6.0 / old[0].numel())
        elif name.endswith(("norm.weight", "running_var")):
            values = 1 + 0.2 * values
        else:
            values = 0.1 * values
        state[name] = torch.from_numpy(values.astype(np.float32))
    # Predictions of order one would saturate the scores and move the boxes out of the image.
    for name, factor in (
        ("proposal_generator.rpn_head.objectness_logits", 0.3),
        ("proposal_generator.rpn_head.anchor_deltas", 0.1),
        ("roi_heads.box_predictor.cls_score", 0.3),
        ("roi_heads.box_predictor.bbox_pred", 0.1),
        ("roi_heads.mask_head.predictor", 0.3),
    ):
        state[f"{name}.weight"] *= factor
    # Brings the classes close to each other, so that all of them are detected.
    state["roi_heads.box_predictor.cls_score.bias"] = torch.tensor(CLASS_BIAS)
    model.load_state_dict(state)


def build_model() -> GeneralizedRCNN:
    model = GeneralizedRCNN(
        backbone=build_backbone(),
        proposal_generator=build_rpn(),
        roi_heads=build_roi_heads(),
        pixel_mean=[103.5, 116.3, 123.7],
        pixel_std=[57.0, 57.1, 58.4],
    )
    set_weights(model)
    return model


def build_inputs() -> list[dict]:
    """Two images of different sizes with two and one objects."""
    boxes = (
        torch.tensor([[10.0, 12.0, 50.0, 44.0], [40.0, 20.0, 90.0, 60.0]]),
        torch.tensor([[8.0, 20.0, 60.0, 70.0]]),
    )
    classes = (torch.tensor([0, 2]), torch.tensor([1]))
    inputs = []
    for index, size in enumerate(IMAGE_SIZES):
        rows = torch.arange(size[0]).view(1, -1, 1)
        columns = torch.arange(size[1]).view(1, 1, -1)
        left, top, right, bottom = boxes[index].T.round().long().view(4, -1, 1, 1)
        masks = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
        # Cut the lower left triangle off, so that masks are not just boxes.
        masks &= (rows - top) * 3 < (columns - left) * 3 + (bottom - top)
        image = 127.5 * (1 + scatter(f"image{index}", (3, *size)))
        image = image.astype(np.float32) / 2 + 60 * masks.any(dim=0).numpy()
        inputs.append(
            {
                "image": torch.from_numpy(image.astype(np.float32)),
                "height": OUTPUT_SIZES[index][0],
                "width": OUTPUT_SIZES[index][1],
                "instances": Instances(
                    size,
                    gt_boxes=Boxes(boxes[index]),
                    gt_classes=classes[index],
                    gt_masks=BitMasks(masks),
                ),
            }
        )
    return inputs


def compute() -> dict[str, np.ndarray]:
    """All numbers that are compared, by name."""
    model = build_model()
    result = {}
    with EventStorage():
        losses = model(build_inputs())
    sum(losses.values()).backward()
    for name, loss in losses.items():
        result[f"train/{name}"] = loss.detach().numpy()
    parameters = sorted(model.named_parameters())
    result["train/gradient_norms"] = np.array([x.grad.norm().item() for _, x in parameters])

    model.eval()
    with torch.no_grad():
        raw = model.inference(build_inputs(), do_postprocess=False)
        final = model(build_inputs())
    for index, (instances, output) in enumerate(zip(raw, final, strict=True)):
        result[f"raw{index}/boxes"] = instances.pred_boxes.tensor.numpy()
        result[f"raw{index}/masks"] = instances.pred_masks.numpy()
        instances = output["instances"]
        result[f"final{index}/boxes"] = instances.pred_boxes.tensor.numpy()
        result[f"final{index}/scores"] = instances.scores.numpy()
        result[f"final{index}/classes"] = instances.pred_classes.numpy()
        result[f"final{index}/masks"] = np.packbits(instances.pred_masks.numpy())
    return result


@pytest.fixture(scope="module")
def computed() -> dict[str, np.ndarray]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield compute()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def golden(golden_dir) -> dict[str, np.ndarray]:
    with np.load(golden_dir / "detectron2" / "mask_rcnn_tiny.npz") as arrays:
        return dict(arrays)


def test_same_names(computed, golden):
    assert sorted(computed) == sorted(golden)


def test_losses(computed, golden):
    names = [name for name in golden if name.startswith("train/loss")]
    assert len(names) == 5
    for name in names:
        assert golden[name] > 1e-3, name
        np.testing.assert_allclose(computed[name], golden[name], rtol=1e-5, err_msg=name)


def test_gradients(computed, golden):
    expected = golden["train/gradient_norms"]
    assert np.count_nonzero(expected) == len(expected)
    np.testing.assert_allclose(computed["train/gradient_norms"], expected, rtol=1e-4)


@pytest.mark.parametrize("index", range(len(IMAGE_SIZES)))
def test_detections(computed, golden, index):
    assert len(golden[f"final{index}/scores"]) > 5
    np.testing.assert_array_equal(
        computed[f"final{index}/classes"], golden[f"final{index}/classes"]
    )
    for name in (f"raw{index}/boxes", f"final{index}/boxes"):
        # Pixels: 1e-5 of the image size.
        np.testing.assert_allclose(computed[name], golden[name], atol=1e-3, err_msg=name)
    for name in (f"final{index}/scores", f"raw{index}/masks"):
        np.testing.assert_allclose(computed[name], golden[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("index", range(len(IMAGE_SIZES)))
def test_pasted_masks(computed, golden, index):
    pasted = np.unpackbits(computed[f"final{index}/masks"])
    expected = np.unpackbits(golden[f"final{index}/masks"])
    assert 0.01 < expected.mean() < 0.99
    # A pixel at the threshold may fall to either side.
    assert (pasted != expected).mean() <= 1e-4
