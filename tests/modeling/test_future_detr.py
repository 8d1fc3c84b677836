"""FutureDETR as a whole: clips of a batch, empty clips, births, fusions, precision, images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from modeling.tiny_future_detr import (
    CLASSES,
    SIZE,
    build_detector,
    build_future_detr,
    make_clip,
)
from roca_nocs.modeling.criteria import ClipCriterion, MixedMatcher
from roca_nocs.modeling.future.clip_batch import collate_clips
from roca_nocs.modeling.future.clip_results import ClipResults
from roca_nocs.modeling.meta_arch import FutureDETR
from roca_nocs.modeling.tracking.runtime_tracker import RuntimeTracker

FRAME = ("class", "bbox", "giou")
FUTURE = (*FRAME, "mask", "dice", "semantic")


def train(model: FutureDETR, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The losses of a batch; gradients are left in the model."""
    model.train()
    model.zero_grad()
    losses = model(inputs)
    sum(losses.values()).backward()
    return losses


def assert_trained(model: FutureDETR, losses: dict[str, torch.Tensor]) -> None:
    assert all(loss.dim() == 0 and loss.isfinite() for loss in losses.values())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def predict(model: FutureDETR, inputs: list[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
    model.eval()
    with torch.no_grad():
        return model(inputs)


def loss_names(frames: int, future: int) -> set[str]:
    suffixes = [f"_p{age}" for age in range(1, frames)]
    steps = ["", *(f"_f{step}" for step in range(1, future + 1))]
    names = {f"loss_{n}{s}{a}" for n in FRAME for s in suffixes + steps for a in ("", "_aux0")}
    names |= {f"loss_{name}{step}" for name in FUTURE for step in steps}
    return names | {f"loss_{name}{step}" for name in ("flow", "consistency") for step in steps[1:]}


def test_clips_with_and_without_agents() -> None:
    """Births, deaths, empty clips and batches: the keys never change, everything is trained."""
    model = build_future_detr(propagation={"drop": 0.1, "fp_ratio": 0.3})
    born = make_clip([(5, range(1, 9)), (14, range(4, 9))], seed=1)
    gone = make_clip([(5, range(2)), (14, range(3))], seed=2)
    empty = make_clip([], seed=3)
    for batch in ([born, gone, empty], [empty], [make_clip()]):
        losses = train(model, batch)
        assert set(losses) == loss_names(3, 2)
        assert_trained(model, losses)


def test_single_frames_and_no_future() -> None:
    model = build_future_detr(num_frames=1, num_future=0)
    losses = train(model, [make_clip(), make_clip([], seed=1)])
    assert set(losses) == loss_names(1, 0)
    assert_trained(model, losses)
    (result,) = predict(model, [make_clip(labelled=False)])
    assert result["instances"].shape == (1, *SIZE)


def test_more_agents_than_queries() -> None:
    model = build_future_detr(detector={"num_queries": 1})
    losses = train(model, [make_clip([(row, range(9)) for row in (1, 9, 16)])])
    assert_trained(model, losses)


def test_detector_without_masks_and_semantics() -> None:
    model = build_future_detr(num_future=0, detector={"mask_type": None, "num_semantic_classes": 0})
    losses = train(model, [make_clip()])
    assert not any("mask" in name or "semantic" in name for name in losses)
    assert_trained(model, losses)


@pytest.mark.parametrize("fusion", ["stack", "memory"])
def test_other_fusions(fusion: str) -> None:
    detector = {"in_channels": 9} if fusion == "stack" else {}
    model = build_future_detr(temporal_fusion=fusion, detector=detector, use_checkpoint=True)
    losses = train(model, [make_clip(), make_clip([], seed=1)])
    assert_trained(model, losses)
    assert set(losses) == loss_names(3 if fusion == "memory" else 1, 2)
    if fusion == "memory":
        assert model.fusion is not None
        assert model.fusion.time_embed.grad.abs().sum() > 0


def test_stacked_frames_are_those_of_the_present() -> None:
    """What stands in the world is in the same cells of all channels, forward and sideways."""
    model = build_future_detr(temporal_fusion="stack", detector={"in_channels": 9})
    clip = make_clip([], labelled=False)
    world = torch.rand(3, 60, 80)
    steps = [(0, 0), (2, -1), (5, -3)]  # whole cells, (row, column)
    rows, columns = SIZE
    frames = [world[:, 10 + i : 10 + i + rows, 20 + j : 20 + j + columns] for i, j in steps]
    pose = torch.tensor([[0.5 * i, 0.5 * j, 0.0] for i, j in steps], dtype=torch.float64)
    (stacked,) = model._frames(
        collate_clips([clip | {"clip": torch.stack(frames), "ego_pose": pose}], None, model.device)
    )
    inside = stacked[0, :, : rows - 5, 3:]
    for past in inside.split(3)[:2]:
        torch.testing.assert_close(past, inside[6:], atol=1e-5, rtol=0)


def test_parallel_rollout_and_extra_attention() -> None:
    model = build_future_detr(
        rollout={"mode": "parallel", "future_skips": "none"}, detector={"extra_track_attn": True}
    )
    losses = train(model, [make_clip(), make_clip([], seed=1)])
    assert_trained(model, losses)


@pytest.mark.parametrize("mode", ["autoregressive", "parallel"])
def test_queries_of_a_two_stage_detector_have_a_future(mode: str) -> None:
    """Stacked frames without tracks, masks bound to the boxes: empty clips, births, batches."""
    model = build_future_detr(
        temporal_fusion="stack",
        detector={
            "in_channels": 9,
            "two_stage": True,
            "mask_type": "dot",
            "mask_window": True,
            "num_feature_levels": 2,
        },
        rollout={"num_feature_levels": 2, "mode": mode},
    )
    born = make_clip([(5, range(1, 9)), (14, range(4, 9))], seed=1)
    for batch in ([born, make_clip([], seed=3)], [make_clip([])], [make_clip(), born]):
        losses = train(model, batch)
        assert {name for name in losses if name.endswith("_enc")} == {
            f"loss_{name}_enc" for name in FRAME
        }
        assert_trained(model, losses)
    both = predict(model, [born, make_clip(seed=2)])
    (alone,) = predict(model, [born])
    assert both[0]["instances"].shape == (3, *SIZE)
    torch.testing.assert_close(both[0]["boxes"], alone["boxes"], atol=1e-5, rtol=1e-4)
    if mode == "autoregressive":
        # A query looks next at the box that it had, moved.
        clip = collate_clips([born], None, model.device)
        (frame,) = model._frames(clip)
        encoded = model._encode(clip, frame, clip.poses[:, -1], None)
        _, step, _ = model._decode(encoded, model.detector.initial_queries(encoded))
        moved = model.rollout._moved(step, boxes=True).sigmoid()
        torch.testing.assert_close(moved[:, 2:], step.boxes[-1, :, 2:], atol=1e-4, rtol=1e-3)


def test_gradient_flows_through_time() -> None:
    """The losses of the present reach the queries of the first frame through the tracks."""
    model = build_future_detr(num_future=0)
    sample = make_clip()
    clip = sample["clip"].requires_grad_()
    model.train()
    model.detector.backbone.eval()
    # Every track fits its target, so that all are carried.
    tracks = []

    def carry(module: Any, arguments: Any, state: Any) -> None:
        tracks.append(len(state))

    assert model.propagation is not None
    model.propagation.register_forward_pre_hook(_well_placed)
    model.propagation.register_forward_hook(carry)
    losses = model([sample])
    assert tracks == [2, 2]
    (losses["loss_class"] + losses["loss_bbox"]).backward()
    assert clip.grad[0].abs().sum() > 0


def _well_placed(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    state, *others = arguments
    return (state.replace(iou=(state.ids >= 0).float()), *others)


def sensitive(model: FutureDETR) -> FutureDETR:
    """With scores that depend on the clip, and low thresholds for masks."""
    with torch.no_grad():
        for head in model.detector.class_embed:
            head.weight.mul_(20)
            head.bias.zero_()
    model.tracker = RuntimeTracker(0.6, 0.4, 2)
    model.results = ClipResults(min_score=0.03, min_value=0.01, min_area=1)
    return model


def test_batch_equals_single_clips_at_inference() -> None:
    model = sensitive(build_future_detr(seed=3))
    clips = [
        make_clip([(2 + number, range(9))] * number, seed=number, labelled=False)
        for number in range(3)
    ]
    counts = []

    def count(module: Any, arguments: Any, state: Any) -> None:
        counts.append(state.clip.bincount(minlength=3).tolist())

    assert model.propagation is not None
    handle = model.propagation.register_forward_hook(count)
    together = predict(model, clips)
    handle.remove()
    assert any(len(set(each)) > 1 for each in counts), "clips must differ in their tracks"
    for clip, expected in zip(clips, together, strict=True):
        (found,) = predict(model, [clip])
        assert set(found) == set(expected)
        for name in ("ids", "labels", "scores", "scores_per_step", "boxes"):
            torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5, msg=name)
        # Where two queries claim a cell alike, rounding decides.
        for name in ("instances", "semantic"):
            assert (found[name] != expected[name]).float().mean() < 2e-3, name


def test_batch_equals_single_clips_in_training() -> None:
    """The loss of a batch is that of its clips, weighted by their numbers of targets."""
    model = build_future_detr(seed=3)
    clips = [make_clip(seed=1), make_clip([(5, range(1, 9))], seed=2)]

    def losses_of(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        model.train()
        model.detector.backbone.eval()  # batch statistics would mix the clips
        return model(batch)

    def num_targets(clip: dict[str, Any]) -> int:
        frames = clip["frames"][:-1] + clip["future"]
        return sum(len(frame["labels"]) for frame in frames)

    assert model.propagation is not None
    model.propagation.register_forward_pre_hook(_well_placed)
    counts = [num_targets(clip) for clip in clips]
    together, *alone = (losses_of(batch) for batch in (clips, clips[:1], clips[1:]))
    for name, value in together.items():
        if not any(each in name for each in ("flow", "consistency", "semantic")):
            expected = sum(n * each[name] for n, each in zip(counts, alone, strict=True))
            torch.testing.assert_close(value, expected / sum(counts), atol=1e-5, rtol=1e-4)


def test_results_of_clips() -> None:
    model = sensitive(build_future_detr(seed=3))
    clip = make_clip(labelled=False)
    (result,) = predict(model, [clip])
    count = len(result["ids"])
    assert count > 0
    assert result["instances"].shape == (3, *SIZE) and result["instances"].dtype == torch.int32
    assert set(result["instances"].unique().tolist()) <= {0, *result["ids"].tolist()}
    assert len(set(result["ids"].tolist())) == count and (result["ids"] > 0).all()
    shapes = {
        "scores": (count,),
        "labels": (count,),
        "scores_per_step": (3, count),
        "boxes": (3, count, 4),
        "trajectories": (3, count, 2),
        "semantic": (3, *SIZE),
    }
    assert {name: tuple(result[name].shape) for name in shapes} == shapes
    torch.testing.assert_close(result["scores"], result["scores_per_step"].amax(dim=0))
    visible = [(result["instances"] == each).flatten(1).any(dim=1) for each in result["ids"]]
    assert torch.equal(torch.stack(visible, dim=1), ~result["trajectories"].isnan().any(dim=-1))

    model.results = ClipResults(min_score=2.0)
    (nothing,) = predict(model, [clip])
    assert nothing["instances"].abs().sum() == 0 and nothing["boxes"].shape == (3, 0, 4)
    model.results = ClipResults(min_score=0.0, max_masks=2)
    assert len(predict(model, [clip])[0]["ids"]) == 2
    # Trained for two steps, rolled out for four.
    model.num_future = 4
    assert predict(model, [clip])[0]["instances"].shape == (5, *SIZE)


def test_only_the_best_score_of_the_present_counts_without_births() -> None:
    model = sensitive(build_future_detr(seed=3, future_births=False))
    (result,) = predict(model, [make_clip(labelled=False)])
    torch.testing.assert_close(result["scores"], result["scores_per_step"][0])


def test_cells_without_data() -> None:
    """A valid mask changes what is seen; one without any valid cell is an error."""
    model = sensitive(build_future_detr(seed=3, num_frames=2, num_future=1))
    clip = make_clip()
    mask = torch.ones(SIZE, dtype=torch.bool)
    (plain,), (same,) = predict(model, [clip]), predict(model, [clip | {"valid_mask": mask}])
    torch.testing.assert_close(plain["boxes"], same["boxes"])
    half = mask.clone()
    half[:, 20:] = False
    (masked,) = predict(model, [clip | {"valid_mask": half}])
    assert masked["boxes"].isfinite().all()
    assert_trained(model, train(model, [clip | {"valid_mask": half}]))
    with pytest.raises(ValueError, match="False throughout"):
        predict(model, [clip | {"valid_mask": ~mask}])


def test_frozen_detector() -> None:
    model = build_future_detr(freeze_detector=True)
    losses = train(model, [make_clip()])
    assert_trained(model, losses)
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"detector", "rollout"}
    parts = {
        name.split(".")[1]
        for name, p in model.detector.named_parameters(prefix="detector")
        if p.requires_grad
    }
    assert parts == {"bbox_attention", "mask_head", "semantic_head"}


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="temporal_fusion"):
        build_future_detr(temporal_fusion="sum")
    with pytest.raises(ValueError, match="two_stage"):
        build_future_detr(detector={"two_stage": True})  # with tracks
    model = build_future_detr()
    clip = make_clip()
    model.train()
    with pytest.raises(KeyError, match="ego_pose"):
        model([{name: value for name, value in clip.items() if name != "ego_pose"}])
    with pytest.raises(KeyError, match=r"clip0.*future"):
        model([{name: value for name, value in clip.items() if name != "future"}])
    with pytest.raises(ValueError, match="must agree"):
        model([clip, make_clip(size=(24, 48))])
    with pytest.raises(ValueError, match="num_future is 2"):
        model([make_clip(future=1)])
    model.num_frames = 4
    with pytest.raises(ValueError, match="3 observed frames"):
        model([clip])
    model.num_frames, model.propagation = None, None
    with pytest.raises(ValueError, match="need propagation"):
        model([clip])


def image_input(height: int, width: int, count: int) -> dict[str, Any]:
    instances = Instances((height, width))
    boxes = torch.tensor([[4.0, 3.0, 20.0, 18.0], [10.0, 6.0, 30.0, 20.0]])[:count]
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.arange(count) % CLASSES
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask, box in zip(masks, boxes.int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = True
    instances.gt_masks = BitMasks(masks)
    return {"image": torch.rand(3, height, width), "instances": instances}


@pytest.mark.parametrize("two_stage", [False, True])
def test_images(two_stage: bool) -> None:
    """Images of different sizes: losses of the present only, instances at the asked-for size."""
    model = build_future_detr(num_future=0)
    if two_stage:
        model = build_image_model()
    inputs = [image_input(24, 40, 2), image_input(32, 36, 0)]
    losses = train(model, inputs)
    encoder = {f"loss_{name}_enc" for name in FRAME} if two_stage else set()
    assert set(losses) == (loss_names(1, 0) - {"loss_semantic"}) | encoder
    assert all(loss.isfinite() for loss in losses.values())
    first, second = predict(model, [{**inputs[0], "height": 48, "width": 80}, inputs[1]])
    assert first["instances"].image_size == (48, 80)
    assert first["instances"].pred_masks.shape[1:] == (48, 80)
    assert second["instances"].image_size == (32, 36)
    assert len(first["instances"]) > 0


def build_image_model() -> FutureDETR:
    torch.manual_seed(0)
    return FutureDETR(
        detector=build_detector(two_stage=True, num_semantic_classes=0),
        criterion=ClipCriterion(matcher=MixedMatcher()),
        pixel_mean=(0.0,),
        pixel_std=(1.0,),
    )


def test_image_and_clip_agree() -> None:
    """The losses of an image are those of a clip of one frame with the same labels."""
    model = build_future_detr(num_frames=1, num_future=0, detector={"num_semantic_classes": 0})
    clip = make_clip()
    labels = clip["future"][0]
    height, width = SIZE
    instances = Instances(SIZE)
    centre, size = labels["boxes"].split(2, dim=1)
    corners = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    instances.gt_boxes = Boxes(corners * torch.tensor([width, height, width, height]))
    instances.gt_classes = labels["labels"]
    instances.gt_masks = BitMasks(labels["masks"])
    of_image = train(model, [{"image": clip["clip"][-1], "instances": instances}])
    of_clip = train(model, [clip])
    assert set(of_image) == set(of_clip)
    for name, value in of_clip.items():
        torch.testing.assert_close(of_image[name], value, atol=1e-5, rtol=1e-4)


def test_boxes_stand_in_for_masks() -> None:
    """A detector without mask head fills its boxes."""
    model = build_future_detr(num_future=0, detector={"mask_type": None, "num_semantic_classes": 0})
    model.results = ClipResults(min_score=0.0, min_value=0.0, max_masks=1)
    (result,) = predict(model, [make_clip(labelled=False)])
    height, width = SIZE
    size = result["boxes"][0, 0, 2:] * torch.tensor([width, height])
    rows, columns = result["instances"][0].nonzero().unbind(dim=1)
    extent = torch.stack([columns.max() - columns.min(), rows.max() - rows.min()]) + 1
    assert (extent - size).abs().max() <= 1
