"""The NOCS model with a second stream of views."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from modeling.tiny_multiview import build_multiview, training_inputs, view_input
from roca_nocs.modeling.criteria.multiview_loss import MultiViewLoss

LOSSES = {"loss_multiview_pixelwise", "loss_multiview_alignment"}


@pytest.mark.parametrize(("num_bins", "offsets"), [(1, False), (4, False), (4, True)])
def test_losses_reach_nocs_head_and_backbone_alone(num_bins: int, offsets: bool) -> None:
    model = build_multiview(num_bins=num_bins, bin_offsets=offsets).train()
    with EventStorage() as storage:
        losses = model(training_inputs())
    assert set(losses) >= LOSSES | {"loss_nocs_x", "loss_cls", "loss_mask", "loss_rpn_cls"}
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_multiview_pixelwise"] > 0
    assert storage.latest()["multiview/pixelwise_ok"][0] == 2
    sum(losses[name] for name in LOSSES).backward()
    reached = {
        name.split(".")[0] if not name.startswith("roi_heads") else name.split(".")[1]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    assert reached == {"backbone", "nocs_head"}
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_modes_of_all_parts_are_kept() -> None:
    model = build_multiview().train()
    model.roi_heads.box_head.eval()
    before = {name: module.training for name, module in model.named_modules()}
    with EventStorage():
        model(training_inputs())
    assert {name: module.training for name, module in model.named_modules()} == before


def test_other_losses_do_not_depend_on_the_views() -> None:
    found = []
    for keep in (True, False):
        model = build_multiview().train()
        inputs = training_inputs()
        if not keep:
            inputs[0].pop("views")
        torch.manual_seed(0)
        with EventStorage():
            found.append(model(inputs))
    for name in set(found[0]) - LOSSES:
        assert torch.equal(found[0][name], found[1][name]), name
    assert all(found[1][name].item() == 0 for name in LOSSES)


@pytest.mark.parametrize("case", ["no detections", "no depth"])
def test_nothing_to_compare(case: str) -> None:
    options = {"view_score_threshold": 2.0} if case == "no detections" else {}
    model = build_multiview(**options).train()
    inputs = training_inputs()
    if case == "no depth":
        for view in inputs[0]["views"]:
            view["depth"] = view["depth"] * 0
    with EventStorage() as storage:
        losses = model(inputs)
    reason = "no_detections" if case == "no detections" else "no_valid_depth"
    assert storage.latest()[f"multiview/pixelwise_{reason}"][0] == 2
    assert storage.latest()["multiview/pixelwise_ok"][0] == 0
    assert all(losses[name].item() == 0 for name in LOSSES)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_views_of_several_scenes_and_sizes() -> None:
    model = build_multiview(multiview_loss=MultiViewLoss()).train()
    inputs = training_inputs()
    inputs[1]["views"] = [view_input(7, 0.0), view_input(8, 0.1), view_input(9, 0.2)]
    for view in inputs[1]["views"]:
        view["image"], view["depth"] = view["image"][:, :48], view["depth"][:48]
    with EventStorage() as storage:
        losses = model(inputs)
    assert set(losses) & LOSSES == {"loss_multiview_pixelwise"}
    # Two pairs of the first scene, six of the second, none across.
    counted = [v for name, (v, _) in storage.latest().items() if name.startswith("multiview/")]
    assert sum(counted) == 2 + 6


def test_views_need_cameras() -> None:
    model = build_multiview().train()
    inputs = training_inputs()
    del inputs[0]["views"][1]["camera_pose"]
    with EventStorage(), pytest.raises(ValueError, match="camera_pose"):
        model(inputs)
