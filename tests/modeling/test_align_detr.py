"""AlignDETR as a whole: padding, empty images, other sizes, precision, compilation."""

from __future__ import annotations

import copy
import math
import shutil
from typing import Any

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.modeling import FPN, ResNet
from detectron2.modeling.backbone.resnet import BasicStem
from detectron2.structures import ImageList, Instances
from torch import nn
from torch.nn import functional as F

from modeling.tiny_align_detr import build_align_detr, set_sizes, tiny_config
from modeling.tiny_roca import NUM_CLASSES, WIDTHS, make_input, narrow_stages
from roca_nocs.engine.ema import build_average
from roca_nocs.layers.position import PositionEmbeddingSine
from roca_nocs.modeling.meta_arch import AlignDETR
from roca_nocs.modeling.transformer.align_detr_head import level_masks

LOSSES = ("loss_class", "loss_bbox", "loss_giou")


def loss_keys(*suffixes: str) -> set[str]:
    return {f"{loss}{suffix}" for loss in LOSSES for suffix in suffixes}


def train(model: AlignDETR, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The losses of a batch; gradients are left in the model."""
    model.train()
    model.zero_grad()
    losses = model(inputs)
    sum(losses.values()).backward()
    return losses


def assert_trained(model: AlignDETR, losses: dict[str, torch.Tensor]) -> None:
    assert all(loss.dim() == 0 and loss.isfinite() for loss in losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def detect(model: AlignDETR, inputs: list[dict[str, Any]]) -> list[Instances]:
    model.eval()
    with torch.no_grad():
        return [output["instances"] for output in model(inputs)]


def test_empty_images() -> None:
    """The keys do not depend on the targets, and every parameter gets a gradient."""
    model = build_align_detr()
    keys = loss_keys("", "_0", "_enc", "_dn", "_dn_0")
    for counts in ((3, 2), (3, 0), (0, 0)):
        losses = train(model, [make_input(count, seed=count) for count in counts])
        assert losses.keys() == keys
        assert_trained(model, losses)
        denoising = sum(losses[name].item() for name in loss_keys("_dn", "_dn_0"))
        assert (denoising == 0) == (sum(counts) == 0)


def test_losses_of_other_settings() -> None:
    inputs = [make_input(2, seed=1)]
    losses = train(build_align_detr(tiny_config(aux_loss=False)), inputs)
    assert losses.keys() == loss_keys("", "_enc", "_dn")
    losses = train(build_align_detr(tiny_config(dn_number=0)), inputs)
    assert losses.keys() == loss_keys("", "_0", "_enc")


def test_padding_has_no_influence() -> None:
    """Proposals are those of the image alone; nothing depends on what is in the padding."""
    transformer = build_align_detr(tiny_config(num_queries=5)).eval().transformer
    # Tokens of padding become zero; without biases any other token is better for some class.
    for part in (transformer.enc_output, transformer.enc_output_norm):
        nn.init.zeros_(part.bias)
    embedding = PositionEmbeddingSine(transformer.embed_dim // 2)
    sizes = [(9, 7), (5, 4), (3, 2), (2, 1)]
    alone = [torch.randn(1, transformer.embed_dim, *size) for size in sizes]
    masks = [torch.zeros(2, height + 2, width + 3, dtype=torch.bool) for height, width in sizes]
    for mask, (height, width) in zip(masks, sizes, strict=True):
        mask[0, height:] = True
        mask[0, :, width:] = True
    positions = [embedding(mask) for mask in masks]
    outputs = []
    for scale in (1.0, 100.0):
        padded = []
        for feature, mask in zip(alone, masks, strict=True):
            canvas = scale * torch.randn(2, transformer.embed_dim, *mask.shape[1:])
            canvas[0, :, ~mask[0]] = feature[0].flatten(1)
            padded.append(canvas)
        with torch.no_grad():
            outputs.append(transformer(padded, masks, positions))
    first, second = outputs
    torch.testing.assert_close(first.states[:, 0], second.states[:, 0])
    torch.testing.assert_close(first.references[:, 0], second.references[:, 0])

    masks = [torch.zeros(1, *size, dtype=torch.bool) for size in sizes]
    with torch.no_grad():
        expected = transformer(alone, masks, [embedding(mask) for mask in masks])
    torch.testing.assert_close(first.encoder_states[:1], expected.encoder_states, atol=1e-5, rtol=0)
    torch.testing.assert_close(first.encoder_boxes[:1], expected.encoder_boxes, atol=1e-5, rtol=0)


def test_masks_without_padding_change_nothing() -> None:
    transformer = build_align_detr(tiny_config(num_queries=5)).eval().transformer
    embedding = PositionEmbeddingSine(transformer.embed_dim // 2)
    sizes = [(9, 7), (5, 4), (3, 2), (2, 1)]
    features = [torch.randn(2, transformer.embed_dim, *size) for size in sizes]
    masks = [torch.zeros(2, *size, dtype=torch.bool) for size in sizes]
    positions = [embedding(mask) for mask in masks]
    with torch.no_grad():
        expected = transformer(features, masks, positions)
        found = transformer(features, None, positions)
    for each, other in zip(found, expected, strict=True):
        assert torch.equal(each, other)


@pytest.mark.parametrize("padded", [(75, 102), (64, 128)])
def test_masks_of_levels(padded: tuple[int, int]) -> None:
    """Those of the pixels, resized to the nearest."""
    sizes = [(75, 64), (33, 102), (64, 40)] if padded[0] == 75 else [(64, 128), (50, 127)]
    images = ImageList(torch.zeros(len(sizes), 3, *padded), sizes)
    mask = torch.ones(len(sizes), *padded, dtype=torch.bool)
    for image, (height, width) in zip(mask, sizes, strict=True):
        image[:height, :width] = False
    shapes = [(math.ceil(padded[0] / stride), math.ceil(padded[1] / stride)) for stride in (4, 8)]
    shapes.append((3, 5))
    found = level_masks(images, [torch.zeros(len(sizes), 2, *shape) for shape in shapes])
    for each, shape in zip(found, shapes, strict=True):
        resized = F.interpolate(mask[None].float(), size=shape)[0].bool()
        assert torch.equal(each, resized)


def test_images_of_a_batch_are_independent() -> None:
    model = build_align_detr()
    inputs = [make_input(1, seed=seed) for seed in range(3)]
    together = detect(model, inputs)
    for each, expected in zip(inputs, together, strict=True):
        (found,) = detect(model, [each])
        assert torch.equal(found.pred_classes, expected.pred_classes)
        torch.testing.assert_close(found.scores, expected.scores)
        torch.testing.assert_close(
            found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=1e-4, atol=1e-3
        )


def test_boxes_of_smaller_images_are_in_their_pixels() -> None:
    """Proposals of an untrained model lie at their cells, also where a larger image pads."""
    torch.manual_seed(0)
    model = instantiate(tiny_config())
    small, large = make_input(0, size=(32, 48), seed=1), make_input(0, size=(96, 128), seed=2)
    found, _ = detect(model, [small, large])
    assert found.image_size == (32, 48)
    boxes = found.pred_boxes.tensor
    assert boxes[:, 2].max() > 24 and boxes[:, 3].max() > 16  # not squeezed into a corner
    assert (boxes >= 0).all() and (boxes[:, 2] <= 48).all() and (boxes[:, 3] <= 32).all()


@pytest.mark.parametrize(
    ("levels", "sizes"),
    [
        (3, {"embed_dim": 24, "num_heads": 3, "num_points": 1, "layers": 1}),
        (5, {"embed_dim": 8, "num_heads": 1, "num_points": 3, "layers": 3}),
    ],
)
def test_other_sizes(levels: int, sizes: dict[str, int]) -> None:
    config = tiny_config(num_classes=1, num_queries=7)
    set_sizes(config, levels=levels, **sizes)
    model = build_align_detr(config)
    each = make_input(2, seed=3)
    each["instances"].gt_classes = torch.zeros_like(each["instances"].gt_classes)
    losses = train(model, [each])
    numbered = [f"_{layer}" for layer in range(sizes["layers"] - 1)]
    dn = [f"_dn{suffix}" for suffix in ("", *numbered)]
    assert losses.keys() == loss_keys("", "_enc", *numbered, *dn)
    assert_trained(model, losses)
    (found,) = detect(model, [each])
    assert len(found) <= 7


def test_any_backbone() -> None:
    """The neck takes its channels from the features by name."""
    config = tiny_config()
    config.backbone = L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(out_channels=WIDTHS[0]),
            stages=L(narrow_stages)(),
            out_features=["res2", "res3", "res4", "res5"],
        ),
        in_features=["res2", "res3", "res4", "res5"],
        out_channels=12,
    )
    config.neck.in_features = ["p3", "p4", "p5"]
    config.neck.in_channels = [12, 12, 12]
    model = build_align_detr(config)
    each = make_input(2, size=(50, 70), seed=3)  # padded to a multiple of 32
    assert train(model, [each]).keys() >= loss_keys("", "_enc")
    (found,) = detect(model, [each])
    assert found.image_size == (50, 70)


def test_fewer_tokens_than_queries() -> None:
    """And fewer pairs of query and class than wanted detections."""
    model = build_align_detr(tiny_config(num_queries=50, select_box_nums_for_evaluation=1000))
    each = make_input(2, size=(20, 28), seed=0)
    outputs = model.eval().predict(model.preprocess_image([each]))
    num_tokens = 3 * 4 + 2 * 2 + 1 + 1
    assert outputs["pred_logits"].shape == (1, num_tokens, NUM_CLASSES)
    (found,) = model.detections(outputs, [(20, 28)])
    assert len(found) == num_tokens * NUM_CLASSES
    losses = train(model, [each, make_input(0, size=(20, 28))])
    assert_trained(model, losses)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_mixed_precision(dtype: torch.dtype) -> None:
    model = build_align_detr()
    inputs = [make_input(count, seed=count) for count in (3, 1)]
    torch.manual_seed(1)
    expected = train(model, inputs)
    torch.manual_seed(1)
    model.zero_grad()
    with torch.autocast("cpu", dtype):
        losses = model(inputs)
    sum(losses.values()).backward()
    assert_trained(model, losses)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    # Matching is discrete: single pairs may differ. Denoising queries know their targets.
    assert sum(losses.values()).item() == pytest.approx(sum(expected.values()).item(), rel=0.1)
    for name in loss_keys("_dn", "_dn_0"):
        assert losses[name].item() == pytest.approx(expected[name].item(), rel=0.02), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_mixed_precision_of_detections(dtype: torch.dtype) -> None:
    # The best token: rounding cannot exchange it with another as it can with many.
    model = build_align_detr(tiny_config(num_queries=1))
    inputs = [make_input(1, seed=3)]
    (expected,) = detect(model, inputs)
    with torch.autocast("cpu", dtype):
        (found,) = detect(model, inputs)
    assert found.scores.dtype == torch.float32
    assert torch.equal(found.pred_classes, expected.pred_classes)
    torch.testing.assert_close(found.scores, expected.scores, atol=0.01, rtol=0)
    torch.testing.assert_close(
        found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1.0, rtol=0
    )


def test_transformer_is_one_graph() -> None:
    config = tiny_config()
    set_sizes(config, levels=3, layers=1)
    model = build_align_detr(config).eval()
    images = model.preprocess_image([make_input(0, seed=3), make_input(0, size=(40, 60))])
    torch._dynamo.reset()
    with torch.no_grad():
        levels = model.neck(model.backbone(images.tensor))
        masks = level_masks(images, levels)
        positions = [model.position_embedding(mask) for mask in masks]
        expected = model.transformer(levels, masks, positions)
        compiled = torch.compile(model.transformer, backend="eager", fullgraph=True)
        found = compiled(levels, masks, positions)
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.timeout(900)  # inductor compiles C++
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_model_agrees(backend: str) -> None:
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler")
    model = build_align_detr()
    inputs = [make_input(2, seed=3)]
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    (expected,) = detect(model, inputs)
    (found,) = detect(compiled, inputs)
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(
        found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=1e-4, atol=1e-3
    )
    torch.manual_seed(1)
    expected = train(model, inputs)
    torch.manual_seed(1)
    losses = train(compiled, inputs)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {name: loss.item() for name, loss in expected.items()}, rel=1e-4
    )


def test_heads_have_two_names_and_are_one() -> None:
    model = build_align_detr()
    state = model.state_dict()
    for name in ("class_embed.1.weight", "bbox_embed.2.layers.0.bias"):
        assert state[name].data_ptr() == state[f"transformer.decoder.{name}"].data_ptr()
    average = build_average(model, 0.5)
    before = copy.deepcopy(state)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.update_parameters(model)
    for name, value in average.module.state_dict().items():
        if name in dict(model.named_parameters(remove_duplicate=False)):
            torch.testing.assert_close(value, before[name] + 0.5)
    parameters = [*model.parameters()]
    assert len(parameters) == len({id(parameter) for parameter in parameters})
    # Weights that come under one of the names only are complete.
    for dropped in (("class_embed.", "bbox_embed."), ("transformer.decoder.class_embed.",)):
        other = build_align_detr(seed=5)
        kept = {name: value for name, value in before.items() if not name.startswith(dropped)}
        other.load_state_dict(kept, strict=False)
        assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_initial_predictions() -> None:
    """Every class has the prior probability, and boxes are those of the proposals."""
    torch.manual_seed(0)
    model = instantiate(tiny_config(prior_init=0.2)).eval()
    outputs = model.predict(model.preprocess_image([make_input(0)]))
    for each in (outputs, *outputs["aux_outputs"]):
        torch.testing.assert_close(
            each["pred_boxes"], outputs["enc_outputs"]["pred_boxes"], atol=1e-3, rtol=0
        )
    with torch.no_grad():
        nothing = model.class_embed[0](torch.zeros(model.transformer.embed_dim)).sigmoid()
    torch.testing.assert_close(nothing, torch.full((NUM_CLASSES,), 0.2))
