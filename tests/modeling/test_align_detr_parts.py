"""AlignDETR's parts: what fits together, what its options leave out, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from torch import nn

from modeling.steps import train_step
from modeling.tiny_align_detr import build_align_detr, set_sizes, tiny_config
from modeling.tiny_roca import NUM_CLASSES, WIDTHS, make_input
from roca_nocs.modeling.transformer.align_detr_head import AlignDETRHead


def scores(model: nn.Module, inputs: list[dict[str, Any]]) -> torch.Tensor:
    """Of all detections."""
    with torch.no_grad():
        return torch.cat([output["instances"].scores for output in model.eval()(inputs)])


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("neck", "in_features", ["res3", "res4", "p6"], r"neck.in_features \['p6'\]"),
        ("neck", "in_channels", [16, 24, 99], r"neck.in_channels: \(16, 24, 99\)"),
        ("neck", "in_channels", [16, 24], "one number for each"),
        ("neck", "num_outs", 2, "num_outs=2"),
        ("neck", "num_outs", 5, "neck.num_outs: 5"),
        ("position_embedding", "num_pos_feats", 6, "2 .* 12 does not fit"),
        ("position_embedding", "num_pos_feats", 7, "even number"),
        ("transformer", "two_stage_num_proposals", 9, "two_stage_num_proposals: 9"),
        ("transformer", "decoder.embed_dim", 32, "16 and 32"),
        ("transformer", "decoder.num_layers", 3, "match_num needs 4 numbers .* got \\[2, 2, 1\\]"),
        ("criterion", "match_num", [2, 2], "match_num needs 3 numbers .* got \\[2, 2\\]"),
        ("criterion", "num_classes", 4, "criterion.num_classes: 4 is not the model's 9"),
    ],
)
def test_parts_that_do_not_fit(part: str, key: str, value: Any, message: str) -> None:
    config = tiny_config()
    node = config[part]
    *path, last = key.split(".")
    for name in path:
        node = node[name]
    node[last] = value
    with pytest.raises(ValueError, match=message):
        instantiate(config)


def test_criteria_that_do_not_fit_one_layer() -> None:
    config = tiny_config(aux_loss=False)
    set_sizes(config, layers=1)
    config.criterion.match_num = [2, 2, 1]
    with pytest.raises(ValueError, match="match_num needs 2 numbers"):
        instantiate(config)
    # Any module can be the criterion.
    config.criterion = L(nn.Identity)()
    instantiate(config)


def test_neck_takes_the_channels_of_the_backbone() -> None:
    config = tiny_config()
    given = build_align_detr(config)
    config.neck.in_channels = None
    model = build_align_detr(config)
    assert model.neck.in_channels == WIDTHS[1:]
    model.load_state_dict(given.state_dict())
    inputs = [make_input(1, seed=3)]
    torch.testing.assert_close(scores(model, inputs), scores(given, inputs))
    config.neck.in_features = ["res3", "res4", "res5"]
    del config.backbone
    config._target_ = AlignDETRHead
    for key in ("pixel_mean", "pixel_std", "input_format"):
        del config[key]
    with pytest.raises(ValueError, match="in_channels must be given for a head without a backbone"):
        instantiate(config)


def test_content_of_queries_from_the_selected_tokens() -> None:
    config = tiny_config()
    config.transformer.learnt_init_query = False
    model = build_align_detr(config)
    assert not any("tgt_embed" in name for name in model.state_dict())
    train_step(model, [make_input(2, seed=1)])
    # The content passes no gradient: what the decoder makes of it does not reach the selection.
    outputs = model.predict(model.preprocess_image([make_input(2, seed=1)]))
    weight = model.transformer.enc_output.weight
    (gradient,) = torch.autograd.grad(outputs["pred_logits"].sum(), weight, allow_unused=True)
    assert gradient is None
    assert len(scores(model, [make_input(2, seed=1)])) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gt_classes": NUM_CLASSES}, f"label {NUM_CLASSES}, num_classes is {NUM_CLASSES}"),
        ({"gt_classes": -1}, "label -1, num_classes is"),
        ({"gt_boxes": [10.0, 10.0, 5.0, 20.0]}, r"its box .* within \[0, 1\]"),
        ({"gt_boxes": [10.0, 10.0, 400.0, 20.0]}, r"its box .* within \[0, 1\]"),
    ],
)
def test_impossible_targets_name_their_file(change: dict[str, Any], message: str) -> None:
    """Before denoising looks up an embedding that is not there."""
    inputs = [make_input(2, seed=1), {**make_input(3, seed=2), "file_name": "rooms/7.png"}]
    instances = inputs[1]["instances"]
    for name, value in change.items():
        values = instances.get(name)
        getattr(values, "tensor", values)[1] = torch.tensor(value)
    with pytest.raises(ValueError, match=rf"image 1 of the batch \(rooms/7.png\) .*{message}"):
        build_align_detr()(inputs)


def test_number_of_heads() -> None:
    """Heads are counted when they are attached."""
    decoder = build_align_detr().transformer.decoder
    heads = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    with pytest.raises(ValueError, match="2 decoder layers need 3 heads, got 2"):
        decoder.attach_heads(heads, heads)
