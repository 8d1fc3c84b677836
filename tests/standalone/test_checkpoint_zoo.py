"""Pickled files of the model zoos, and the names of Caffe2 blobs."""

import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import (
    align_and_update_state_dicts,
    convert_c2_detectron_names,
)
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import FPN, ResNet
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock
from torch import nn


def numbered(*shape: int, start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + int(np.prod(shape)), dtype=torch.float32).view(shape)


# --- Pickled model zoo files --------------------------------------------------------------


def small_resnet(norm: str, stride_in_1x1: bool) -> ResNet:
    """Stem and one stage of two bottleneck blocks, with the names of a ResNet-50."""
    stem = BasicStem(norm=norm)
    stage = ResNet.make_stage(
        BottleneckBlock,
        2,
        in_channels=64,
        out_channels=256,
        bottleneck_channels=64,
        norm=norm,
        stride_in_1x1=stride_in_1x1,
    )
    return ResNet(stem, [stage], out_features=["res2"])


def wrapped(backbone: nn.Module) -> nn.Module:
    model = nn.Module()
    model.backbone = backbone
    return model


def caffe2_resnet(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The small ResNet as the MSRA files name it: affine layers, no running statistics."""

    def convolution(name, norm, out_channels, in_channels, kernel):
        shape = (out_channels, in_channels, kernel, kernel)
        return {
            f"{name}_w": rng.standard_normal(shape).astype(np.float32),
            f"{name}_w_momentum": np.zeros(shape, np.float32),
            f"{norm}_s": rng.standard_normal(out_channels).astype(np.float32),
            f"{norm}_b": rng.standard_normal(out_channels).astype(np.float32),
        }

    blobs = {"conv1_b": np.zeros(64, np.float32)}
    blobs |= convolution("conv1", "res_conv1_bn", 64, 3, 7)
    shortcut = "res2_0_branch1"
    blobs |= convolution(shortcut, f"{shortcut}_bn", 256, 64, 1)
    for block, in_channels in ((0, 64), (1, 256)):
        for part, sizes in (
            ("a", (64, in_channels, 1)),
            ("b", (64, 64, 3)),
            ("c", (256, 64, 1)),
        ):
            name = f"res2_{block}_branch2{part}"
            blobs |= convolution(name, f"{name}_bn", *sizes)
    blobs["fc1000_w"] = np.zeros((10, 256), np.float32)
    blobs["fc1000_b"] = np.zeros(10, np.float32)
    return blobs


@pytest.mark.parametrize("under_blobs", [False, True])
def test_msra_pickle(tmp_path, under_blobs, caplog):
    blobs = caffe2_resnet(np.random.default_rng(0))
    # Python 2 wrote these files with byte strings as keys.
    file = tmp_path / "R-50.pkl"
    file.write_bytes(pickle.dumps({"blobs": blobs} if under_blobs else blobs, protocol=2))
    model = wrapped(small_resnet("FrozenBN", stride_in_1x1=True))
    with caplog.at_level("WARNING"):
        DetectionCheckpointer(model).load(str(file))

    state = model.state_dict()
    for name, blob in {
        "backbone.stem.conv1.weight": "conv1_w",
        "backbone.stem.conv1.norm.weight": "res_conv1_bn_s",
        "backbone.stem.conv1.norm.bias": "res_conv1_bn_b",
        "backbone.res2.0.shortcut.weight": "res2_0_branch1_w",
        "backbone.res2.0.shortcut.norm.bias": "res2_0_branch1_bn_b",
        "backbone.res2.0.conv1.weight": "res2_0_branch2a_w",
        "backbone.res2.1.conv2.norm.weight": "res2_1_branch2b_bn_s",
        "backbone.res2.1.conv3.weight": "res2_1_branch2c_w",
    }.items():
        np.testing.assert_array_equal(state[name].numpy(), blobs[blob], err_msg=name)
    # An affine layer is a frozen batch norm with mean 0 and variance 1.
    stem_norm = model.backbone.stem.conv1.norm
    assert isinstance(stem_norm, FrozenBatchNorm2d)
    assert not stem_norm.running_mean.any()
    torch.testing.assert_close(stem_norm.running_var, torch.ones(64), atol=1.1e-5, rtol=0)
    assert "fc1000.weight" in caplog.text.replace("fc1000.{bias, weight}", "fc1000.weight")
    assert "momentum" not in caplog.text


def torchvision_resnet(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The small ResNet as the converted torchvision files name it, batch-norm counters included."""
    state = small_resnet("BN", stride_in_1x1=False).state_dict()
    arrays = {}
    for name, value in state.items():
        noise = rng.random(tuple(value.shape))
        arrays[name] = noise.astype(value.numpy().dtype)
    arrays["stem.fc.weight"] = np.zeros((10, 256), np.float32)
    return arrays


def test_torchvision_pickle(tmp_path, caplog):
    arrays = torchvision_resnet(np.random.default_rng(0))
    file = tmp_path / "R-50.pkl"
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    file.write_bytes(pickle.dumps(content))
    model = wrapped(small_resnet("FrozenBN", stride_in_1x1=False))
    with caplog.at_level("INFO"):
        DetectionCheckpointer(model).load(str(file))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(
            value.numpy(), arrays[name.removeprefix("backbone.")], err_msg=name
        )
    assert "torchvision" in caplog.text
    unexpected = caplog.text[caplog.text.index("not used by the model") :]
    assert "num_batches_tracked" in unexpected
    assert "stem.fc" in unexpected


# --- Caffe2 names -------------------------------------------------------------------------

RPN = "proposal_generator.rpn_head"


@pytest.mark.parametrize(
    ("blob", "name"),
    [
        ("conv1_w", "stem.conv1.weight"),
        ("conv1_b", "stem.conv1.bias"),
        ("res_conv1_bn_s", "stem.conv1.norm.weight"),
        ("res_conv1_bn_b", "stem.conv1.norm.bias"),
        ("res_conv1_bn_rm", "stem.conv1.norm.running_mean"),
        ("res_conv1_bn_riv", "stem.conv1.norm.running_var"),
        ("conv1_gn_s", "stem.conv1.norm.weight"),
        ("res2_0_branch1_w", "res2.0.shortcut.weight"),
        ("res2_0_branch1_bn_s", "res2.0.shortcut.norm.weight"),
        ("res4_22_branch2a_w", "res4.22.conv1.weight"),
        ("res4_22_branch2b_bn_b", "res4.22.conv2.norm.bias"),
        ("res5_2_branch2c_bn_gamma", "res5.2.conv3.norm.weight"),
        ("res5_2_branch2c_bn_beta", "res5.2.conv3.norm.bias"),
        ("res5_2_branch2c_bn_running_mean", "res5.2.conv3.norm.running_mean"),
        ("res5_2_branch2c_bn_running_var", "res5.2.conv3.norm.running_var"),
        ("res3_0_branch2a_gn_s", "res3.0.conv1.norm.weight"),
        ("pred_w", "linear.weight"),
        ("pred_b", "linear.bias"),
        ("conv_rpn_w", f"{RPN}.conv.weight"),
        ("conv_rpn_fpn2_b", f"{RPN}.conv.bias"),
        ("rpn_bbox_pred_w", f"{RPN}.anchor_deltas.weight"),
        ("rpn_bbox_pred_fpn2_b", f"{RPN}.anchor_deltas.bias"),
        ("rpn_cls_logits_b", f"{RPN}.objectness_logits.bias"),
        ("rpn_cls_logits_fpn2_w", f"{RPN}.objectness_logits.weight"),
        ("fc6_w", "box_head.fc1.weight"),
        ("fc7_b", "box_head.fc2.bias"),
        ("head_conv1_w", "box_head.conv1.weight"),
        ("head_conv4_gn_b", "box_head.conv4.norm.bias"),
        ("fpn_inner_res5_2_sum_w", "fpn_lateral5.weight"),
        ("fpn_inner_res4_22_sum_lateral_b", "fpn_lateral4.bias"),
        ("fpn_inner_res2_2_sum_lateral_gn_s", "fpn_lateral2.norm.weight"),
        ("fpn_res3_3_sum_w", "fpn_output3.weight"),
        ("fpn_res5_2_sum_gn_b", "fpn_output5.norm.bias"),
        ("_[mask]_fcn1_w", "mask_head.mask_fcn1.weight"),
        ("_mask_fcn4_b", "mask_head.mask_fcn4.bias"),
        ("conv5_mask_w", "mask_head.deconv.weight"),
        ("fc1000_w", "fc1000.weight"),
    ],
)
def test_caffe2_names(blob, name):
    value = numbered(2, 2)
    converted, blob_names = convert_c2_detectron_names({blob: value})
    assert list(converted) == [name]
    assert converted[name].equal(value)
    assert blob_names == {name: blob}


def test_caffe2_background_rows():
    weights = {
        "cls_score_w": numbered(3, 2),
        "cls_score_b": numbered(3),
        "bbox_pred_w": numbered(12, 2),
        "bbox_pred_b": numbered(12),
        "mask_fcn_logits_w": numbered(3, 2, 1, 1),
        "mask_fcn_logits_b": numbered(3),
    }
    converted, _ = convert_c2_detectron_names(weights)
    assert converted["cls_score.weight"].tolist() == [[2, 3], [4, 5], [0, 1]]
    assert converted["cls_score.bias"].tolist() == [1, 2, 0]
    assert converted["bbox_pred.weight"].tolist() == numbered(8, 2, start=8).tolist()
    assert converted["bbox_pred.bias"].tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert converted["mask_head.predictor.weight"].flatten().tolist() == [2, 3, 4, 5]
    assert converted["mask_head.predictor.bias"].tolist() == [1, 2]


def test_caffe2_names_must_not_collide():
    weights = {"conv_rpn_w": numbered(1), "conv_rpn_fpn2_w": numbered(1)}
    with pytest.raises((ValueError, AssertionError)):
        convert_c2_detectron_names(weights)


def test_caffe2_pyramid_fits_our_names():
    bottom_up = small_resnet("FrozenBN", stride_in_1x1=True)
    model = wrapped(FPN(bottom_up, ["res2"], 8))
    weights = {
        "fpn_inner_res2_1_sum_w": numbered(8, 256, 1, 1),
        "fpn_inner_res2_1_sum_b": numbered(8),
        "fpn_res2_1_sum_w": numbered(8, 8, 3, 3),
        "fpn_res2_1_sum_b": numbered(8),
    }
    result = align_and_update_state_dicts(model.state_dict(), weights)
    assert set(result) == {
        "backbone.fpn_lateral2.weight",
        "backbone.fpn_lateral2.bias",
        "backbone.fpn_output2.weight",
        "backbone.fpn_output2.bias",
    }


def test_caffe2_mask_rcnn_fits_our_names():
    roi = "roi_heads."
    backbone = "backbone.bottom_up."
    model_keys = {  # model key without ".weight"/".bias" -> blob, rows in the model, rows in Caffe2
        f"{backbone}stem.conv1": ("conv1", 4, 4),
        f"{backbone}res2.0.conv1": ("res2_0_branch2a", 4, 4),
        f"{backbone}res3.0.conv1": ("res3_0_branch2a", 4, 4),
        "backbone.fpn_lateral2": ("fpn_inner_res2_2_sum_lateral", 4, 4),
        "backbone.fpn_output2": ("fpn_res2_2_sum", 4, 4),
        "backbone.fpn_lateral5": ("fpn_inner_res5_2_sum", 4, 4),
        "backbone.fpn_output5": ("fpn_res5_2_sum", 4, 4),
        f"{RPN}.conv": ("conv_rpn_fpn2", 4, 4),
        f"{RPN}.objectness_logits": ("rpn_cls_logits_fpn2", 3, 3),
        f"{RPN}.anchor_deltas": ("rpn_bbox_pred_fpn2", 12, 12),
        f"{roi}box_head.fc1": ("fc6", 4, 4),
        f"{roi}box_head.fc2": ("fc7", 4, 4),
        f"{roi}box_predictor.cls_score": ("cls_score", 3, 3),
        f"{roi}box_predictor.bbox_pred": ("bbox_pred", 8, 12),
        f"{roi}mask_head.mask_fcn1": ("_[mask]_fcn1", 4, 4),
        f"{roi}mask_head.mask_fcn4": ("_[mask]_fcn4", 4, 4),
        f"{roi}mask_head.deconv": ("conv5_mask", 4, 4),
        f"{roi}mask_head.predictor": ("mask_fcn_logits", 2, 3),
    }
    model_state, blobs = {}, {}
    for start, (key, (blob, rows, caffe2_rows)) in enumerate(model_keys.items()):
        model_state |= {f"{key}.weight": numbered(rows, 2), f"{key}.bias": numbered(rows)}
        blobs[f"{blob}_w"] = numbered(caffe2_rows, 2, start=100 * start)
        blobs[f"{blob}_b"] = numbered(caffe2_rows, start=100 * start)
    result = align_and_update_state_dicts(model_state, blobs)
    assert set(result) == set(model_state)
    for key, (blob, rows, caffe2_rows) in model_keys.items():
        expected = sorted(blobs[f"{blob}_b"].tolist()[caffe2_rows - rows :])
        assert sorted(result[f"{key}.bias"].tolist()) == expected, key
