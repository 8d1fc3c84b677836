"""A complete small detector against the published code: inference, losses, gradients."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from parity.aligndetr_model import Golden, build_model
from roca_nocs.modeling.meta_arch import AlignDETR
from roca_nocs.modeling.transformer import align_detr_head
from roca_nocs.modeling.transformer.denoising import DenoisingDraws, build_denoising_queries


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Golden:
    return np.load(golden_dir / "aligndetr" / "full_model.npz")


@pytest.fixture(scope="module")
def model(golden: Golden) -> AlignDETR:
    return build_model(golden)


def num_images(golden: Golden) -> int:
    return sum(key.startswith("orig_size") for key in golden)


def record(golden: Golden, number: int) -> dict[str, Any]:
    image = torch.from_numpy(golden[f"image{number}"])
    height, width = golden[f"orig_size{number}"].tolist()
    result = {"image": image, "height": height, "width": width}
    if f"gt_classes{number}" in golden:
        instances = Instances(tuple(image.shape[1:]))
        instances.gt_boxes = Boxes(torch.from_numpy(golden[f"gt_boxes_xyxy{number}"]))
        instances.gt_classes = torch.from_numpy(golden[f"gt_classes{number}"])
        result["instances"] = instances
    return result


def assert_close(golden: Golden, key: str, found: torch.Tensor) -> None:
    expected = torch.from_numpy(golden[key])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0, msg=lambda m: f"{key}: {m}")


def test_single_images(golden: Golden, model: AlignDETR) -> None:
    model.eval()
    for number in range(num_images(golden)):
        images = model.preprocess_image([record(golden, number)])
        with torch.no_grad():
            features = model.backbone(images.tensor)
            levels = model.neck(features)
            outputs = model.predict_from_features(features, images)
        for name, feature in features.items():
            assert_close(golden, f"single{number}_backbone_{name}", feature)
        if f"single{number}_neck0" in golden:
            for level, feature in enumerate(levels):
                assert_close(golden, f"single{number}_neck{level}", feature)
        for name in ("pred_logits", "pred_boxes"):
            assert_close(golden, f"single{number}_{name}", outputs[name])


def test_detections(golden: Golden, model: AlignDETR) -> None:
    """Scores closer than rounding errors may change places: boxes are compared by class."""
    model.eval()
    for number in range(num_images(golden)):
        with torch.no_grad():
            (output,) = model([record(golden, number)])
        found, prefix = output["instances"], f"single{number}_out_"
        scores, classes = (torch.from_numpy(golden[prefix + n]) for n in ("scores", "classes"))
        boxes = torch.from_numpy(golden[prefix + "boxes"])
        assert found.image_size == tuple(golden[f"orig_size{number}"].tolist())
        torch.testing.assert_close(
            found.scores.sort().values, scores.sort().values, atol=1e-5, rtol=0
        )
        assert torch.equal(found.pred_classes.sort().values, classes.sort().values)
        for label in classes.unique():
            distance = torch.cdist(
                boxes[classes == label],
                found.pred_boxes.tensor[found.pred_classes == label],
                p=torch.inf,
            )
            assert distance.min(dim=0).values.max() < 0.05
            assert distance.min(dim=1).values.max() < 0.05


def test_batch_with_padding(golden: Golden, model: AlignDETR) -> None:
    model.eval()
    images = model.preprocess_image([record(golden, i) for i in range(num_images(golden))])
    with torch.no_grad():
        outputs = model.predict(images)
    auxiliary = {
        name: torch.stack([layer[name] for layer in outputs["aux_outputs"]])
        for name in ("pred_logits", "pred_boxes")
    }
    for name in ("pred_logits", "pred_boxes"):
        assert_close(golden, f"masked_batch_{name}", outputs[name])
        assert_close(golden, f"masked_batch_enc_{name}", outputs["enc_outputs"][name])
        assert_close(golden, f"masked_batch_aux_{name}", auxiliary[name])


def draws(golden: Golden) -> DenoisingDraws:
    """The published code draws new labels for the chosen rows only."""
    flip = torch.from_numpy(golden["draw_label_flip_p"])
    chosen = flip < 0.5 * float(golden["label_noise_ratio"])
    labels = torch.zeros(len(flip), dtype=torch.int64)
    labels[chosen] = torch.from_numpy(golden["draw_new_labels"])
    return DenoisingDraws(
        label_flip=flip,
        new_labels=labels,
        box_sign=torch.from_numpy(golden["draw_box_sign01"]),
        box_part=torch.from_numpy(golden["draw_box_part"]),
    )


def test_losses_and_gradients(
    golden: Golden, model: AlignDETR, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed = functools.partial(build_denoising_queries, draws=draws(golden))
    monkeypatch.setattr(align_detr_head, "build_denoising_queries", replayed)
    model.train()
    model.zero_grad()
    losses = model([record(golden, i) for i in range(num_images(golden))])
    expected = dict(
        zip(
            golden["train_loss_names"].tolist(),
            golden["train_loss_values_weighted"].tolist(),
            strict=True,
        )
    )
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-4)
    total = sum(losses.values())
    assert total.item() == pytest.approx(float(golden["train_total_loss"]), rel=1e-4)

    total.backward()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    norms = {
        name: parameters[name].grad.norm().item()
        for name in golden["train_grad_param_names"].tolist()
    }
    expected = dict(zip(norms, golden["train_grad_param_norms"].tolist(), strict=True))
    assert norms == pytest.approx(expected, rel=1e-3, abs=1e-6)
    every = [p.grad for p in model.parameters() if p.requires_grad]
    assert len(every) == len(norms)
    total_norm = torch.stack([each.norm() for each in every]).norm().item()
    assert total_norm == pytest.approx(float(golden["train_grad_total_norm"]), rel=1e-3)
